"""`itm-fast models` and `itm-fast protocols`: what they say is what the models and protocols are."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from itm_fast.choices import ProtocolName, in_order
from itm_fast.cli import main as cli
from itm_fast.cli.protocols import ABOUT
from itm_fast.data.readers.fine_grained import _FILES
from itm_fast.evaluation.protocols import find_protocol
from itm_fast.evaluation.protocols.captioned_sets import SETS
from itm_fast.evaluation.protocols.pair_choices import CHOICES
from itm_fast.registry import ENTRIES, MODELS, model_class, presets

PROTOCOLS = Path(__file__).parents[2] / "docs" / "protocols.md"


def printed(capsys, *words):
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", MODELS)
def test_an_entry_is_the_models_own(name):
    entry, kind = ENTRIES[name], model_class(name)
    assert kind.__module__ == f"itm_fast.models.{name}"
    assert kind.name == name
    assert entry.one_vector == kind.compares_embeddings
    assert entry.one_vector == entry.similarity.startswith("cosine of one vector each")
    source = " ".join(kind.__doc__.split("Source:")[1].split())
    author, _, venue = re.fullmatch(r"(\w+ et al\.), (.*), ([\w ]+)", entry.paper).groups()
    assert f"{author}, " in source
    assert f"{venue} {entry.year}" in source


def test_models(capsys):
    found = json.loads(printed(capsys, "models", "--json"))
    assert list(found) == in_order(MODELS)
    assert {name: one["presets"] for name, one in found.items()} == {name: in_order(presets(name)) for name in MODELS}
    assert found["scan"]["year"] == 2018
    text = printed(capsys, "models")
    assert [line.split()[0] for line in text.splitlines() if line[:1].strip()][:-1] == in_order(MODELS)
    assert "scan       Lee et al., SCAN, ECCV 2018: cross-attention" in text
    assert "presets: coco-saf, coco-sgr, f30k-saf, f30k-sgr" in text
    assert len(text.splitlines()) == 2 * len(MODELS) + 2  # two lines each, to be found by grep


@pytest.mark.parametrize("name", ABOUT)
def test_sizes_of_a_protocol_are_those_it_checks(name):
    about = ABOUT[name]
    if name.removesuffix("-originals") in _FILES:
        assert _FILES[name.removesuffix("-originals")] in about.annotations
        said = re.search(r"^\| \[`coco-fg`.*$", PROTOCOLS.read_text(encoding="utf-8"), re.MULTILINE)[0].replace(",", "")
        assert f"{about.n_captions}" in said
        assert f"{about.n_images}" in said or about.n_images * 5 == about.n_captions  # of images that have captions
    elif name in SETS:
        rules = SETS[name]
        in_gallery = 2 if rules.scored == "altered images" else 1  # an altered one beside each
        assert about.n_images == (rules.n_images and in_gallery * rules.n_images)
        assert about.n_captions == rules.n_captions
        assert rules.published.removeprefix("https://").partition(" ")[0].rpartition("/")[2] in about.annotations
    elif name in CHOICES:
        assert f"{CHOICES[name].n_examples}" in about.evaluates or name != "winoground"
        assert about.n_captions % CHOICES[name].release.n_captions == 0
        assert about.n_captions // CHOICES[name].release.n_captions == CHOICES[name].n_examples
    elif name in ("positives", "vidore"):
        assert about.n_images is about.n_captions is None
    else:
        rules = find_protocol(name)
        assert (about.n_images, about.n_captions) == (rules.n_images, rules.n_captions)
        assert (about.annotations is None) == (name in ("flickr30k-1k", "coco-1k", "coco-5k"))


def test_a_terminal_has_them_in_its_width(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    lines = printed(capsys, "protocols").splitlines()[:-1]
    assert max(map(len, lines)) <= 60
    assert lines[1] == f"{'':<26}of five folds of 1000 images; 5000"


def test_protocols(capsys):
    found = json.loads(printed(capsys, "protocols", "--json"))
    assert list(found) == in_order(get_args(ProtocolName))
    assert found["coco-1k"] == {
        "evaluates": "recall on MSCOCO's test split, mean of five folds of 1000 images",
        "n_images": 5000,
        "n_captions": 25000,
        "annotations": None,
        "needs_embeddings": False,
    }
    assert [name for name, one in found.items() if one["needs_embeddings"]] == ["coco-all", "cxc"]
    text = printed(capsys, "protocols")
    assert [line.split()[0] for line in text.splitlines() if line[:1].strip()][:-1] == list(found)
    assert (
        "coco-1k                 recall on MSCOCO's test split, mean of five folds of 1000 images; 5000 images x 25000"
        in text
    )


def test_they_do_not_wait_for_torch():
    program = "import sys, itm_fast.cli.main as m\nm.main(['models'])\nm.main(['protocols'])\n"
    program += "assert not {'torch', 'numpy', 'rich'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
