"""What the sdist and the wheel hold, and what importing the package pulls in."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNWANTED = ["itm_fast/_C.cpython-399-x.so", "csrc/cpu/kernels.o", "data/train_ims.npy", "runs/a/model.pt"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository (egg-info left by an earlier build would decide what's inside) with litter in it."""
    copy = tmp_path_factory.mktemp("source") / "itm-fast"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    shutil.rmtree(copy / "runs", ignore_errors=True)
    for name in UNWANTED:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    return copy


def run_setup(source: Path, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "setup.py", "-q", *arguments], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def sdist(source: Path) -> set[str]:
    run_setup(source, "sdist", "--dist-dir", "made")
    (archive,) = (source / "made").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        return {member.name.partition("/")[2] for member in opened.getmembers() if member.isfile()}


def files(folder: str, *suffixes: str) -> set[str]:
    found = (path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)
    return {str(path.relative_to(ROOT)) for path in found}


@pytest.mark.slow
def test_sdist_holds_what_a_build_and_the_tests_need(sdist: set[str]):
    wanted = files("csrc", ".cpp", ".h", ".inl", ".cu", ".cuh", ".md") | files("tests", ".py", ".npz")
    wanted |= files("itm_fast", ".py", ".json", ".html", ".css", ".js")
    wanted |= files("docs", ".md", ".svg") | files("scripts", ".py")
    wanted |= {"setup.py", "pyproject.toml", "Makefile", "README.md", "LICENSE", "CHANGELOG.md", "itm_fast/py.typed"}
    wanted |= {"requirements/dev.txt", "scripts/sanitize.sh"}
    assert not wanted - sdist


@pytest.mark.slow
def test_sdist_holds_nothing_built_and_no_data(sdist: set[str]):
    assert not sdist & set(UNWANTED)
    assert not {name for name in sdist if re.search(r"\.(so|o|pyc)$", name)}


def test_wheel_holds_the_package_only(source: Path, tmp_path: Path):
    run_setup(source, "build_py", "--build-lib", str(tmp_path))  # what bdist_wheel packs, but for the compiled module
    inside = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert not (files("itm_fast", ".py", ".html", ".css", ".js", ".json", ".typed")) - inside
    assert not {name for name in inside if not name.startswith("itm_fast/") or name.endswith((".so", ".cpp"))}


def test_the_libraries_of_a_wheel_are_small():
    """A wheel is to stay under 15 MB, and is little but its libraries; those of this checkout stand for them."""
    libraries = list((ROOT / "itm_fast").glob("*.so"))
    if not libraries:
        pytest.skip("the operators of this checkout are not compiled in place")
    assert sum(path.stat().st_size for path in libraries) < 15e6


def test_one_version():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', pyproject, re.MULTILINE)[1]
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    try:
        installed = importlib.metadata.version("itm-fast")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("itm-fast is not installed in this environment: `make build` does it")
    assert installed == version


@pytest.mark.slow
def test_import_is_light():
    heavy = ["tyro", "rich", "nltk", "scipy", "transformers", "tokenizers", "matplotlib", "accelerate", "hypothesis"]
    code = (
        f"import sys, itm_fast; print([name for name in {heavy} if name in sys.modules]);"
        "import itm_fast.cli.evaluate, itm_fast.training.loop; from itm_fast.models.scan import SCAN, SCANConfig;"
        "from itm_fast.models.promised_size import check_promised_size; from itm_fast.data import Vocabulary;"
        "words = Vocabulary(['<pad>', '<start>', '<end>', '<unk>']); model = SCAN(SCANConfig(), words);"
        "check_promised_size(SCAN, model.config, words, model.state_dict());"
        "assert 'torch._dynamo' not in sys.modules"  # a second
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
