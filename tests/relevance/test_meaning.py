"""φ that says nothing is said, with the figure and the way out; scripts without blanks; the tokenizer by characters."""

import math
import warnings
from collections import Counter

import numpy as np
import pytest
import torch

from itm_fast import Cider
from itm_fast.cli import main as cli
from itm_fast.compat.pycocoevalcap import Cider as PycocoCider
from itm_fast.errors import DataWarning
from itm_fast.evaluation import evaluate
from itm_fast.losses import SemanticMarginLoss
from itm_fast.relevance.characters import character_tokens

ONE = [["two kites over the beach", "kites fly over sand"]]
ALIKE = [["two kites over the beach"]] * 3
MANY = [["two kites over the beach", "kites fly"], ["a train leaves the station", "the red train"], ["snow on a roof"]]
CHINESE = [["两只风筝在海滩上飞", "海滩上有风筝"], ["一列红色火车离开车站", "火车开走了"], ["屋顶上有雪", "雪落在屋顶"]]
THAI = [["ว่าวสองตัวบินเหนือชายหาด", "ว่าวบินอยู่"], ["รถไฟสีแดงออกจากสถานี", "รถไฟออกแล้ว"]]
JAPANESE = [["二つの凧が浜辺の上を飛んでいる"], ["赤い列車が駅を出る"]]


def said(call):
    """What a call returns, and the messages of the warnings it gave; all of them point at this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    assert all(one.category is DataWarning and one.filename == __file__ for one in caught)
    return result, [str(one.message) for one in caught]


@pytest.mark.parametrize(
    "call",
    [
        lambda c: Cider().fit(c),
        lambda c: Cider().fit(c).encode(c),
        lambda c: Cider("cider", tokenizer="ptb").fit(c).relevance(c, ["two kites"]),
        lambda c: Cider().fit(c).score(c, [image[0] for image in c]),
        lambda c: PycocoCider().compute_score(dict(enumerate(c)), {i: [image[0]] for i, image in enumerate(c)}),
    ],
)
def test_one_image_is_said_once(call):
    _, messages = said(lambda: call(ONE))
    assert len(messages) == 1
    assert "come from 1 image" in messages[0]
    assert "log(1) - log(1) = 0" in messages[0]
    assert said(lambda: call(MANY))[1] == []


def test_frequencies_that_make_every_idf_zero():
    corpus, messages = said(lambda: Cider().fit(ALIKE).encode(ALIKE))
    assert corpus.is_zero
    assert not corpus.relevance().any()
    assert len(messages) == 1
    assert "all 3 images" in messages[0]
    # The frequencies of another corpus mend it, whatever is scored; so does SAM's number in place of the logarithm.
    for cider in (Cider().fit(MANY), Cider().fit(ONE, log_n_images=math.log(9))):
        corpus, messages = said(lambda fitted=cider: fitted.encode(ONE))
        assert (messages, corpus.is_zero, corpus.notes) == ([], False, ())
        assert float(corpus.relevance()[0, 0]) > 0


def test_frequencies_from_a_file_say_it_too(tmp_path):
    said(lambda: Cider().fit(ONE).save(tmp_path / "df"))
    assert "come from 1 image" in said(lambda: Cider.load(tmp_path / "df"))[1][0]


def test_the_loss_without_margins_says_so():
    corpus, _ = said(lambda: Cider().fit(ALIKE).encode(ALIKE))
    assert "margins are all 0" in said(lambda: SemanticMarginLoss(corpus))[1][0]
    corpus, _ = said(lambda: Cider().fit(MANY).encode(MANY))
    assert said(lambda: SemanticMarginLoss(corpus))[1] == []


@pytest.mark.parametrize("captions", [CHINESE, THAI, JAPANESE])
@pytest.mark.parametrize("tokenizer", ["split", str.split])
def test_a_script_without_blanks_is_said_and_characters_mend_it(captions, tokenizer):
    n = sum(map(len, captions))
    corpus, messages = said(lambda: Cider(tokenizer=tokenizer).fit(captions).encode(captions))
    assert len(messages) == 1
    assert f"{n} of {n} captions are in a script without blanks" in messages[0]
    assert f"({n} captions are one token)" in messages[0]
    assert 'tokenizer="characters"' in messages[0]
    assert corpus.notes == tuple(messages)
    mended, messages = said(lambda: Cider(tokenizer="characters").fit(captions).encode(captions))
    assert (messages, mended.notes) == ([], ())


@pytest.mark.parametrize("tokenizer", ["split", "ptb"])
def test_blanks_at_punctuation_do_not_part_words(tokenizer):
    captions = [["两只风筝在海滩上飞， 有人在旁边看着"], ["一列红色火车离开车站， 天下着大雪"]]
    corpus, _ = said(lambda: Cider(tokenizer=tokenizer).fit(captions).encode(captions))
    # 9 + 7 and 10 + 5 characters in four tokens, none of which is a whole caption
    assert "leaves 7.8 of its characters in a token (0 captions are one token)" in corpus.notes[0]


@pytest.mark.parametrize(
    "captions",
    [
        [["两 只 风筝 在 海滩 上 飞"], ["一 列 红色 火车"]],  # words parted by blanks
        [["어린이 두 명이 해변에서 연을 날린다"], ["빨간 기차가 역을 떠난다"]],  # Korean has blanks
        [["a kite (风筝) over the beach"], *([f"train {i}"] for i in range(60))],  # a word of it
        [["Zwei Drachen über dem Strand"], ["поезд уходит со станции"]],
    ],
)
def test_what_is_split_is_not_said(captions):
    assert said(lambda: Cider().fit(captions).encode(captions))[1] == []


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("两只风筝", ["两", "只", "风", "筝"]),
        ("两只 Kite 在beach上。", ["两", "只", "kite", "在", "beach", "上", "。"]),
        ("凧が3つ、浜辺に", ["凧", "が", "3", "つ", "、", "浜", "辺", "に"]),
        ("か\u3099", ["が"]),  # a voicing mark by itself is written as one letter
        ("สองตัวบิน", ["ส", "อ", "ง", "ตั", "ว", "บิ", "น"]),  # vowels above stay on their consonant
        ("ว่าว\u200bบิน", ["ว่", "า", "ว", "บิ", "น"]),
        ("Two Kites, over the U.S. beach .", ["two", "kites,", "over", "the", "u.s.", "beach", "."]),
        ("  ", []),
    ],
)
def test_characters(caption, tokens):
    assert character_tokens(caption) == tokens


def test_characters_by_hand():
    """CIDEr-D of order 1 and 2 over characters, computed here."""
    tokens = [[list(caption) for caption in image] for image in CHINESE]

    def grams(caption, n):
        return Counter(tuple(caption[i : i + n]) for i in range(len(caption) - n + 1))

    def phi(image, candidate):
        total = 0.0
        for n in (1, 2):
            df = Counter(gram for refs in tokens for gram in {g for ref in refs for g in grams(ref, n)})
            idf = {gram: math.log(len(tokens)) - math.log(count) for gram, count in df.items()}
            vectors = [{g: k * idf[g] for g, k in grams(text, n).items()} for text in (candidate, *tokens[image])]
            norms = [math.sqrt(sum(x * x for x in v.values())) for v in vectors]
            for ref, vector, norm in zip(tokens[image], vectors[1:], norms[1:], strict=True):
                dot = sum(min(x, vector[g]) * vector[g] for g, x in vectors[0].items() if g in vector)
                penalty = math.exp(-((len(candidate) - len(ref)) ** 2) / 72)
                total += 10 / 2 * penalty * dot / (norms[0] * norm) / len(tokens[image])
        return total

    found = Cider(n=2, tokenizer="characters").fit(CHINESE).encode(CHINESE).relevance(dtype=torch.float64)
    expected = [[phi(i, text) for image in tokens for text in image] for i in range(3)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_characters_are_stored_with_the_frequencies(tmp_path):
    Cider(tokenizer="characters").fit(CHINESE).save(tmp_path / "df")
    loaded = Cider.load(tmp_path / "df")
    assert "tokenizer=characters" in repr(loaded)
    assert torch.equal(
        loaded.encode(CHINESE).relevance(), Cider(tokenizer="characters").fit(CHINESE).encode(CHINESE).relevance()
    )


def test_cider_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "caps.txt").write_text("".join(f"{caption}\n" for image in CHINESE for caption in image), "utf-8")
    (tmp_path / "one.txt").write_text("".join(f"{caption}\n" for caption in ONE[0]), "utf-8")
    flags = ["--captions-per-image", "2"]
    assert cli.main(["cider", "caps.txt", "phi.npy", *flags]) == 0
    err = capsys.readouterr().err
    assert err.startswith("itm-fast: warning: 6 of 6 captions are in a script without blanks")
    assert err.count("\n") == 1
    assert (
        cli.main(["cider", "caps.txt", "phi.npy", *flags, "--tokenizer", "characters", "--save-frequencies", "df"]) == 0
    )
    assert capsys.readouterr().err == ""
    expected = Cider(tokenizer="characters").fit(CHINESE).encode(CHINESE).relevance()
    np.testing.assert_allclose(np.load("phi.npy"), expected.numpy(), atol=1e-6)
    assert cli.main(["cider", "one.txt", "phi.npy", *flags]) == 0
    assert "come from 1 image" in capsys.readouterr().err
    more = ["--frequencies", "df", "--tokenizer", "characters"]
    assert cli.main(["cider", "one.txt", "phi.npy", *flags, *more]) == 0
    assert capsys.readouterr().err == ""
    assert np.load("phi.npy").min() > 0


def test_evaluate_command_and_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [caption for image in CHINESE for caption in image]
    (tmp_path / "caps.txt").write_text("\n".join(lines) + "\n", "utf-8")
    sims = np.arange(18, dtype=np.float32).reshape(3, 6)
    np.save("sims.npy", sims)
    flags = ["evaluate", "--sims", "sims.npy", "--relevance", "caps.txt", "--captions-per-image", "2"]
    assert cli.main(flags) == 0
    out, err = capsys.readouterr()
    assert "WARNING: 6 of 6 captions are in a script without blanks" in out
    assert err == ""
    assert cli.main([*flags, "--cider-tokenizer", "characters"]) == 0
    assert "without blanks" not in capsys.readouterr().out
    corpus, _ = said(lambda: Cider().fit(ALIKE).encode(ALIKE))
    notes = evaluate(np.eye(3), corpus, captions_per_image=1)["conditions"]["notes"]
    assert len(notes) == 1
    assert "φ is 0 everywhere" in notes[0]
