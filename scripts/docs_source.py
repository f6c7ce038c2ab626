"""Gather what the site of `make docs` is made of: the Markdown pages, and one of the public functions.

Pages keep their places, so that links between them hold; the page of functions names them for mkdocstrings.
"""

import importlib
import inspect
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CITATION.cff", "LICENSE", "docs/*", "examples/*", "csrc/**/*.md", "tests/emu/*.md")
MODULES = ("itm_fast", "itm_fast.metrics", "itm_fast.losses", "itm_fast.data", "itm_fast.models", "itm_fast.evaluation")
OPERATORS = ("attended_similarity", "graph_reasoning", "level_attention", "generalised_pooling")  # of their own modules


def functions() -> str:
    """A page with every public name of the package, under the place where it is documented."""
    lines = ["# Functions"]
    for module in MODULES:
        public = importlib.import_module(module)
        for name in public.__all__:
            item = getattr(public, name)
            if inspect.isclass(item) or inspect.isfunction(item):
                hidden = (ROOT / module.replace(".", "/") / f"{name}.py").exists()  # by the module of that name
                lines.append(f"::: {item.__module__ if hidden else module}.{name}")
    lines += [f"::: itm_fast.ops.{name}.{name}" for name in OPERATORS]
    return "\n\n".join(lines) + "\n"


def main(build: Path) -> None:
    """Replace source/ by the pages, and package/ by a copy of the package whose docstrings mkdocstrings understands."""
    target, package = build / "source", build / "package"
    shutil.rmtree(build, ignore_errors=True)
    for path in ROOT.glob("itm_fast/**/*.py"):
        place = package / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8")
        place.write_text(re.sub(r"^( +)Example:$", r"\1Examples:", text, flags=re.MULTILINE), encoding="utf-8")
    for pattern in PAGES:
        for page in ROOT.glob(pattern):
            place = target / page.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            if page.suffix == ".md":  # without the marks for the tests, which not every renderer takes
                text = re.sub(r"^```(\w+) .*$", r"```\1", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
                place.write_text(text, encoding="utf-8")
            else:
                shutil.copy(page, place)
    (target / "docs" / "functions.md").write_text(functions(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
