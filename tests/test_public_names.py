"""What can be found without reading the code: names, versions, lists of names, signatures, docstrings."""

import importlib
import importlib.metadata
import inspect
import pydoc
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch

import itm_fast

ROOT = Path(__file__).parents[1]
ROOMS = ("compat", "data", "losses", "metrics", "nn", "relevance", "similarities")
OF_NN = ("decoders", "encoders", "losses", "pooling", "similarity")
PACKAGES = ("itm_fast", *(f"itm_fast.{room}" for room in ROOMS), *(f"itm_fast.nn.{x}" for x in OF_NN))
every_package = pytest.mark.parametrize("package", PACKAGES)


def test_the_version_is_that_of_the_project():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert itm_fast.__version__ == re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]


def test_a_checkout_that_is_not_installed_has_the_version_it_was_built_as(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert itm_fast.__version__ == itm_fast.build_info()["version"]


def test_every_name_is_there_whichever_is_asked_for_first():
    code = (
        "import os, sys, torch, itm_fast\n"
        "for name in itm_fast.__all__:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        getattr(itm_fast, name)\n"
        "        os._exit(0)\n"
        "    if os.waitpid(child, 0)[1]:\n"
        "        sys.exit(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_dir_lists_names_and_rooms_and_nothing_else_and_imports_no_torch():
    code = "import itm_fast, sys; print(*dir(itm_fast), itm_fast.__version__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *names, version, has_torch = done.stdout.split()
    assert (version, has_torch) == (itm_fast.__version__, "False")
    folders = {path.parent.name for path in (ROOT / "itm_fast").glob("*/__init__.py")}
    files = {path.stem for path in (ROOT / "itm_fast").glob("[a-z]*.py")}
    assert {name for name in names if not name.startswith("_")} == {*itm_fast.__all__, *folders, *files}
    assert {"__version__", "__doc__", "__all__"} <= set(names)


@pytest.mark.slow
def test_rooms_are_reached_from_the_package_alone():
    code = "import itm_fast; itm_fast.nn.similarity.CrossAttention, itm_fast.nn.pooling.GPO, itm_fast.compat.scan"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="module 'itm_fast' has no attribute 'no_such_name'"):
        itm_fast.no_such_name  # noqa: B018


@every_package
def test_every_listed_name_is_there_sorted_and_explained(package):
    module = importlib.import_module(package)
    assert module.__doc__
    assert sorted(module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)) == module.__all__
    for name in module.__all__:
        found = getattr(module, name)
        assert not callable(found) or typing.get_origin(found) or inspect.getdoc(found), f"{package}.{name}"


@every_package
def test_types_of_signatures_can_be_read(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        found = getattr(module, name)
        if inspect.isfunction(found):
            hints = typing.get_type_hints(found)
            assert {*inspect.signature(found).parameters, "return"} == set(hints), f"{package}.{name}"


@pytest.mark.parametrize("room", OF_NN)
def test_a_room_of_modules_exports_all_that_it_defines(room):
    package = importlib.import_module(f"itm_fast.nn.{room}")
    defined = set()
    for path in Path(package.__file__).parent.glob("[a-z]*.py"):
        inside = vars(importlib.import_module(f"{package.__name__}.{path.stem}")).items()
        defined |= {
            name
            for name, found in inside
            if inspect.isclass(found) and issubclass(found, torch.nn.Module) and found.__module__.endswith(path.stem)
        }
    assert {name for name in defined if not name.startswith("_")} <= set(package.__all__)
    assert getattr(itm_fast.nn, room) is package


def test_help_says_what_is_taken_and_raised():
    text = pydoc.plain(pydoc.render_doc(itm_fast.cross_attention_similarity))
    for part in ("Literal['t2i', 'i2t'] = 't2i'", "word_counts: (n_captions,) integers", "Raises:", "Source:", "mask"):
        assert part in text


def test_type_checkers_are_told():
    assert (ROOT / "itm_fast" / "py.typed").is_file()
