"""The house as docs/architecture.md draws it: who imports whom, no circles, no two doors of one name."""

import ast
import functools
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "architecture.md"
FOUNDATIONS = "foundations"
SPLIT = {"data": ("text", "readers", "made")}  # rooms inside a room
SINGLE = {
    "registry": "models",
    "errors": FOUNDATIONS,
    "choices": FOUNDATIONS,
    "indices": FOUNDATIONS,
    "shown": FOUNDATIONS,
    "__main__": "cli",
}
# The same thing in several layers may be called the same: an operator, a model, a command and what it calls.
LAYERED = (
    {"cli", "benchmark"},
    {"cli", "evaluation", "sources", "relevance", "ops", "reference"},
    {"cli", "report"},
    {"cli", "models"},
    {"losses", "nn"},
    {"ops", "ops/batched", "reference", "nn/losses", "nn/similarity"},
    {"models", "originals", "nn/similarity", "compat"},
)


def modules(root):
    """The files of the package in a folder, by module name."""
    found = {}
    for path in sorted((root / "itm_fast").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache  # every test here reads the whole package
def imports(source):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]


def imported(name, path, known):
    """The modules of the package that a file imports, also inside functions and for types."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in imports(path.read_text(encoding="utf-8")):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            start = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            base = (start + (node.module or "")).rstrip(".")
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
    return found & set(known) - {name}


def room_of(name):
    """The room a module is in; None for the public names of the whole package."""
    parts = name.split(".")[1:]
    if not parts:
        return None
    if parts[0] in SINGLE:
        return SINGLE[parts[0]]
    return "/".join(parts[:2]) if len(parts) > 1 and parts[1] in SPLIT.get(parts[0], ()) else parts[0]


def table():
    """Rooms from the top down, and what each may import."""
    rows = re.findall(r"^\| `([\w/]+)` \| [^|]+ \| ([^|]*)\|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    order = [room for room, _ in rows]
    allowed = {}
    for place, (room, cell) in enumerate(rows):
        everything = cell.strip() == "every room below"
        allowed[room] = set(order[place + 1 :]) if everything else {*re.findall(r"`([\w/]+)`", cell), FOUNDATIONS}
    return order, allowed


def arrows(root):
    """(importing module, imported module) where the two are in different rooms."""
    known = modules(root)
    for name, path in known.items():
        for other in sorted(imported(name, path, known)):
            door = path.name == "__init__.py" and other.startswith(f"{name}.")  # a package shows its own rooms
            if room_of(name) and room_of(other) != room_of(name) and not door:
                yield name, other


def wrong_arrows(root):
    _, allowed = table()
    return [
        f"{name} imports {other}: room {room_of(name)} may not import from {room_of(other) or 'the public package'}"
        for name, other in arrows(root)
        if room_of(other) not in allowed[room_of(name)] and not (room_of(name) == "cli" and room_of(other) is None)
    ]


def test_rooms_import_only_what_the_table_allows():
    assert not wrong_arrows(ROOT)


def test_the_table_has_every_room_and_points_down():
    order, allowed = table()
    assert set(order) == {room_of(name) for name in modules(ROOT)} - {None}
    for place, room in enumerate(order):
        assert allowed[room] - {FOUNDATIONS} <= set(order[place + 1 :]), f"{room} imports upwards"


def test_the_table_allows_nothing_that_is_not_used():
    used = defaultdict(set)
    for name, other in arrows(ROOT):
        used[room_of(name)].add(room_of(other))
    order, allowed = table()
    assert not {room: unused for room in order[1:] if (unused := allowed[room] - used[room] - {FOUNDATIONS})}


def test_an_import_turned_around_is_named(tmp_path):
    """Both ends of it; a copy of the package, so that the checkout stays whole."""
    for name, path in modules(ROOT).items():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        turned = "\nfrom itm_fast.evaluation.evaluate import evaluate\n" if name == "itm_fast.metrics.recall" else ""
        copy.write_text(path.read_text(encoding="utf-8") + turned, encoding="utf-8")
    (found,) = wrong_arrows(tmp_path)
    assert found == (
        "itm_fast.metrics.recall imports itm_fast.evaluation.evaluate: room metrics may not import from evaluation"
    )


def test_no_two_files_import_each_other():
    known = modules(ROOT)
    # The registry names a model's class for type checkers only, and imports it when it is asked for.
    files = {name: path for name, path in known.items() if path.name != "__init__.py" and name != "itm_fast.registry"}
    graph = {name: imported(name, path, known) for name, path in files.items()}

    def reaches(start):
        seen, waiting = set(), [start]
        while waiting:
            for other in graph.get(waiting.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return seen

    assert not {name for name in graph if name in reaches(name)}


def test_no_two_doors_of_one_name():
    doors = defaultdict(set)
    for name, path in modules(ROOT).items():
        if room_of(name) and path.stem != "__main__":
            is_folder = path.stem == "__init__"
            stem = path.parent.name if is_folder else path.stem
            doors[stem].add(room_of(name) if is_folder else str(path.parent.relative_to(ROOT / "itm_fast")))
    twice = {stem: rooms for stem, rooms in doors.items() if len(rooms) > 1}
    assert not {stem: rooms for stem, rooms in twice.items() if not any(rooms <= layers for layers in LAYERED)}
