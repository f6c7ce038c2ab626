"""Penn-Treebank tokens of a caption as the caption-evaluation code has them, without Java."""

import functools
import re
import unicodedata

# Every word needs one of these, so they are written once. Outside ASCII, _spread has set all but letters apart.
_L = r"[A-Za-z\x80-\u200f\u2012-\u2018\u201a-\uffff]"
_LD = r"[0-9A-Za-z\x80-\u200f\u2012-\u2018\u201a-\uffff]"
_APO = r"['\u2019]"
_END = rf"(?!{_LD})"
_HYPHENED = rf"{_LD}+(?:[-_\u2010\u2011]{_LD}+)*"
_SIDE = rf"{_LD}+(?:[-\u2010\u2011]{_L}{_LD}*)*"  # one side of a slash
_SUFFIX = r"(?i:[smd]|ll|re|ve)"
# A URL ends before punctuation, and takes no brackets or quotes.
_URL_CHAR = r"[^\s\"<>|(){}]"
_URL_LAST = r"[^\s\"<>|(){}.!?,;:'\u2019-]"
_MAIL_CHAR = r"[^\s\"<>|(){}.]"

# Their full stop is part of them, whatever follows.
_ABBREVIATIONS = (
    "adj adm adv ala? alex apr ariz ass[no] assoc asst attys? aug ave bancorp bhd bldg blvd brig bros calif capt cf "
    "cie cmdr colo? comdr conn corp cos? cpl ct dak dec dept det drs? elec ens esq est etc ext feb fla fri ft ga gen "
    "govs? hon inc ind insp intl invt jan jos jr jul jun kans? ky lieut lt ltd maj mar md messrs mich minn mlle mme mo "
    "mon mont mrs? msgr ms mt natl neb nev nov oct okla penn pfc ph plc pres profs? pvt rd reps? rev rt sens? sept? "
    "seq sfc sgt spc sq sr ste? supts? sys tel tenn thu thurs tues? univ va vs vt wed wisc? wm wyo"
)
_ABBREVIATIONS_NOT_CAPITALS = "[Mm][ft]g [Pp]p?t[ey]s?"
_ABBREVIATIONS_NAMES = (
    "Ark|ARK|Az|AZ|Del|DEL|Ill|ILL|La|LA|Mass|MASS|Miss|MISS|Ore|ORE|Pa|PA|Tex|TEX|Wash|WASH"  # words in lower case
)
_ABBREVIATIONS_BEFORE_NUMBERS = "art|ca|figs?|nos?|op|pp|prop"


def _either(patterns: str) -> str:
    return patterns.replace(" ", "|")


# The alternatives are tried in this order, the longest token first; what none of them matches is dropped. Repetitions
# that can fail after a long scan have an upper limit, which keeps the time linear in the length of the caption. A space
# is taken with the token behind it: alone, it would be tried for every alternative.
_TOKEN = re.compile(
    rf"""
    [ ]?(
      [A-Za-z]+(?!\S)  # most words
    | (?i:https?)://[^\s.\"<>|(){{}}]{{1,100}}\.{_URL_CHAR}*{_URL_LAST}  # addresses
    | (?:[A-Za-z0-9]{{1,63}}\.){{1,8}}(?:com|net|org|edu)/{_URL_CHAR}+{_URL_LAST}
    | <?[A-Za-z0-9]{_URL_CHAR}{{0,63}}@(?:{_MAIL_CHAR}{{1,63}}\.){{0,8}}{_MAIL_CHAR}{{1,63}}>?
    | </?[A-Za-z!?][^<>]{{0,200}}>  # tags of HTML
    | &(?:\#[0-9]{{1,7}}|[aeiouAEIOU](?:acute|grave|uml));  # entities
    | \([0-9]{{2,3}}\)[ ]?[0-9]{{3,4}}[ -]?[0-9]{{4}}{_END}  # telephone numbers
    | [0-9]{{1,4}}[- ][0-9]{{1,4}}/[0-9]{{1,4}}  # one and a half
    | (?:  # abbreviations
          [Pp][Hh]\.[Dd]\. | [A-Za-z](?:\.[A-Za-z])*\.
        | (?i:{_either(_ABBREVIATIONS)})\. | (?:{_either(_ABBREVIATIONS_NOT_CAPITALS)})\. | (?:{_ABBREVIATIONS_NAMES})\.
        | (?i:{_ABBREVIATIONS_BEFORE_NUMBERS})\.(?=\s*[0-9])
      )(?!{_L})(?:-{_LD}+)*
    | (?i:c'(?:mon|est)|e'er|s'mores|nor'easter|ev'ry|li'l|nat'l|cap'n){_END}
    | (?i:ol|somethin|dunkin){_APO}
    | [A-HJ-XZdlno]{_APO}{_L}{{2,}}(?:-{_LD}+)*  # O'Brien, d'Angelo
    | {_L}+[aeiouyAEIOUY]{_APO}(?!{_SUFFIX}{_END})[aeiouA-Z]{_L}*  # ma'am, Hawai'i
    | [djlyDJLY]{_APO}(?={_L})  # y' all
    | [A-Za-z]*[A-MO-Za-mo-z](?=[nN]['\u2019`][tT])  # do n't
    | [nN]['\u2019`][tT]{_L}*
    | (?<!')'{_SUFFIX}(?!{_L}) | \u2019{_SUFFIX} | {_APO}(?i:till?|cause){_END}  # 's, 've, 'til
    | '[tT](?=(?i:(?:is|was)(?:n{_APO}t)?){_END})  # 't is
    | (?<!'){_APO}(?:[2-9]0[sS]|[0-9][0-9](?!'s){_END})
    | (?<!'){_APO}[eE][mM]
    | '[nN](?:{_APO}|(?!-?{_LD})) | \u2019[nN]{_APO}?  # rock 'n' roll
    | [A-Z]+(?:[&+][A-Z]+)+ | [A-Z]{{0,20}}\$ | [cC]\+\+ | [cCfF]\#  # AT&T, US$, C++
    | {_L}{_LD}*(?:\.{_L}{_LD}*)+(?:-{_LD}+)+  # words with full stops inside
    | {_L}{_LD}*(?:[.!?]{_L}{_LD}*)+
    | {_SIDE}(?:/{_SIDE}){{1,2}} | [0-9]+\\/[0-9]+  # and/or, 24/7
    | [0-9]+(?:[.,][0-9]+)+(?:-{_LD}+)+  # 1,000-foot
    | (?:(?<!-)-|\+)?(?:[0-9]+|(?<!\.\.))(?:[.:,][0-9]+)+ | (?:(?<!-)-|\+)[0-9]+  # numbers
    | {_HYPHENED}  # words, also with hyphens
    | [<>]?[:;=][-o*']?[()DPdpO@\\|](?![A-Za-z0-9]) | [-^=~<>]_[-^=~<>]  # smileys
    | @[A-Za-z_][A-Za-z0-9_]* | \#{_L}+  # @name, #tag
    | [!?]{{2,}} | \*+ | _+ | \#+ | @+
    | [^\s\x00-\x1f\x7f.,:;!?'\"`\u2019\u2010\u2011-]
    )
    """,
    re.VERBOSE,
)

_TWO_WORDS = {
    "cannot": ("can", "not"),
    "gimme": ("gim", "me"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "lemme": ("lem", "me"),
    "wanna": ("wan", "na"),
}
_BRACKETS = str.maketrans({"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"})
_HAS_BRACKET = re.compile(r"[()\[\]{}]")
_CURLY = re.compile(r"(?<!\S)(n?)\u2019(?=(?:t|[smd]|ll|re|ve)(?!\S))", re.IGNORECASE)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
# &amp; comes last here: what it uncovers is not an entity.
_ENTITY = re.compile(r"(?i:&(nbsp|quot|apos|lt|gt|mdash|amp);)")
_ENTITIES = {"apos": "'", "lt": " < ", "gt": " > ", "amp": "&"}
_REPLACED = {
    "\xad": "",
    "\u2019": "\u2019",  # told apart from ' by the expression
    "\x92": "\u2019",
    "\u2010": "\u2010",
    "\u2011": "\u2011",
    "\u058a": "\u2010",
    "\xa2": " cents ",
    "\xa3": " # ",
    "\x80": " $ ",
    "\xa4": " $ ",
    "\u20a0": " $ ",
    "\u20ac": " $ ",
    "\xbc": " 1/4 ",
    "\xbd": " 1/2 ",
    "\xbe": " 3/4 ",
    "\u2153": " 1/3 ",
    "\u2154": " 2/3 ",
} | dict.fromkeys("\u2026\u2013\u2014\u2015\u2018\u201b\u201c\u201d\u2039\u203a\xab\xbb", " ")


@functools.lru_cache(maxsize=4096)
def _spread(character: str) -> str:
    """A character outside ASCII as the expression takes it: letters as they are, symbols apart, the rest a space."""
    if character in _REPLACED:
        return _REPLACED[character]
    category = unicodedata.category(character)
    # The Java program knows 16 bits a character and drops what lies beyond, such as emoji.
    if character > "\uffff" or category[0] in "CZ":
        return " "
    if category[0] in "LM" or category == "Nd":
        return character
    return f" {character} "


def ptb_tokens(caption: str) -> list[str]:
    """Split a caption into Penn-Treebank tokens, lower-cased, without punctuation.

    The tokens are those that pycocoevalcap's tokenizer gives the same caption: Stanford CoreNLP 3.4.1's PTBTokenizer
    with `-preserveLines -lowerCase`, less the marks '' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... and ;. The
    brackets of that list are compared in capitals with lower-case tokens, so brackets stay, as -lrb- and so on. It is
    an implementation of our own, written from what the Java program answers and from general knowledge of its rules.

    Checked against the Java program, every token equal: 28 sentences made for the purpose, 400 captions of the CIDEr
    golden files, the 40,070 captions of MSCOCO-FG, Flickr30K-FG and of Flickr30K's dev and test sets. Of 30,000 of
    those with marks, numbers, abbreviations and capitals put in at random, 99.9 % came out equal.

    Known to differ: typographical quotes side by side (the Java program makes one token of them); possessives of
    "gonna" and the like; sad and glad faces with square brackets; letters and symbols newer than its Unicode, which it
    drops and this keeps; dates with the year first; addresses and runs of marks beyond 64 characters. Where the Java
    program puts a no-break space into a token (telephone numbers, "1 1/2", tags), the parts are tokens of their own,
    as they are to a scorer that splits its output. As there, characters beyond 16 bits (emoji) and control characters
    are dropped.

    Args:
        caption: One caption, any string; line ends count as spaces.

    Returns:
        The tokens in order: not empty, lower-cased, without white space.

    Source:
        Marcus et al., Building a Large Annotated Corpus of English: The Penn Treebank, Computational Linguistics 19(2),
        1993 (the conventions); pycocoevalcap 1.2, tokenizer/ptbtokenizer.py (the marks that are dropped).

    Example:
        >>> ptb_tokens("A man's dog isn't running (it's asleep).")
        ['a', 'man', "'s", 'dog', 'is', "n't", 'running', '-lrb-', 'it', "'s", 'asleep', '-rrb-']
        >>> ptb_tokens("Mr. Smith paid $4.50 -- 10% off!")
        ['mr.', 'smith', 'paid', '$', '4.50', '10', '%', 'off']
    """
    if not caption.isascii():
        caption = _NOT_ASCII.sub(lambda match: _spread(match[0]), caption)
    if "&" in caption:
        caption = _ENTITY.sub(lambda match: _ENTITIES.get(match[1].lower(), " "), caption)
    # One string for lower case, and for the few tokens that hold spaces: they are split, as a scorer would.
    text = " ".join(_TOKEN.findall(caption)).lower()
    if _HAS_BRACKET.search(text):
        text = text.translate(_BRACKETS)
    if "\u2019" in text:
        text = _CURLY.sub(r"\1'", text)
    tokens = text.split()
    if not _TWO_WORDS.keys().isdisjoint(tokens):
        tokens = [part for token in tokens for part in _TWO_WORDS.get(token, (token,))]
    return tokens
