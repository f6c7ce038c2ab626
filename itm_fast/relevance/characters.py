"""Tokens of captions in scripts without blanks between words: their characters; words of other scripts stay whole."""

import functools
import re
import unicodedata

# Chinese, Japanese, Thai, Lao, Tibetan, Burmese, Khmer and their neighbours, by Unicode's blocks. Korean has blanks.
_BLOCKS = (
    r"\u0e00-\u0e7f\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\ua9e0-\ua9ff"
    r"\uaa60-\uaadf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u303b\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    r"\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff\uff66-\uff9f"
    r"\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# Marks of their punctuation, which stands without blanks as well, and the full-width forms of ASCII's.
_PUNCTUATION = (
    r"\u201c-\u201f\u2026\u3001-\u3004\u3008-\u3020\u3030\u303d\u30a0\u30fb\ufe30-\ufe4f\uff01-\uff0f"
    r"\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
_WITHOUT_BLANKS = re.compile(f"[{_BLOCKS}]")
_ZERO_WIDTH_SPACE = "\u200b"  # parts words in some Thai, Burmese and Khmer text


def n_characters_without_blanks(text: str) -> int:
    """Characters of scripts that put no blanks between words, without the marks on them."""
    if text.isascii():
        return 0
    return sum(not _is_mark(character) for character in _WITHOUT_BLANKS.findall(text))


def character_tokens(caption: str) -> list[str]:
    """Split a caption into the characters of scripts without blanks, and the words of all others.

    A character keeps the marks that combine with it, such as Thai vowels above and below and tones. Punctuation of
    these scripts is a token each. What lies between is split at white space, as "split" does; letters are lower-cased,
    and equal characters are written alike (Unicode's NFC).

    Args:
        caption: One caption, any string.

    Returns:
        The tokens in order, none empty.

    Example:
        >>> character_tokens("一只 Dog 在草地上。")
        ['一', '只', 'dog', '在', '草', '地', '上', '。']
        >>> character_tokens("a brown dog")
        ['a', 'brown', 'dog']
    """
    text = unicodedata.normalize("NFC", caption).lower().replace(_ZERO_WIDTH_SPACE, " ")
    return text.split() if text.isascii() else _token().findall(text)


@functools.lru_cache(maxsize=4096)
def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


@functools.lru_cache(maxsize=1)  # the marks take a walk through the blocks, which a session may never need
def _token() -> re.Pattern[str]:
    alone = "".join(map(chr, range(0x0E00, 0x3100)))  # the combining ones are all in the lower blocks
    marks = "".join(filter(_is_mark, _WITHOUT_BLANKS.findall(alone + "".join(map(chr, range(0xA9E0, 0xAAE0))))))
    marks += "\u0300-\u036f\ufe00-\ufe0f"
    words = rf"[^\s{_BLOCKS}{_PUNCTUATION}]+"
    return re.compile(rf"[{_BLOCKS}][{marks}]*|[{_PUNCTUATION}]|{words}")
