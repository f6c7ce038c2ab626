"""The flags of a command, read off its dataclass: what `--help` shows and what a shell completes.

A field is a flag, the text below it its help. A base class is a group of flags, headed by the first line of its
docstring:

    class Output: ...
    class Evaluate(Similarities, Output): ...
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from itm_fast.choices import in_order, perhaps

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

_METAVARS = {Path: "PATH", int: "INT", float: "FLOAT", str: "TEXT"}


@dataclass(frozen=True)
class Flag:
    """One flag, or one argument without a name."""

    name: str
    """With dashes between words, without those in front."""
    group: str
    """Heading that it stands below."""
    help: str
    """A paragraph."""
    metavar: str = ""
    """Of its value; "" is a switch."""
    choices: tuple[str, ...] = ()
    """The values there are, in the order in which they are shown; () where any goes."""
    default: str = ""
    """As a user would write it; "" where nothing is the default."""
    is_positional: bool = False
    """Required, and given by its place."""
    takes_many: bool = False
    """Values after one another."""

    def __post_init__(self) -> None:
        """Put the choices in order, wherever they come from."""
        object.__setattr__(self, "choices", tuple(in_order(self.choices)))

    @property
    def is_path(self) -> bool:
        """Whether its value is a file or a folder."""
        return self.metavar == "PATH"


def flags_of(arguments: type[Any], default: object | None = None, group: str = "Flags") -> list[Flag]:
    """The flags of a dataclass, in order: those of its base classes first.

    Args:
        arguments: The dataclass.
        default: An instance whose values are the defaults instead of the class's own.
        group: Heading of the fields that are in no base class.

    Returns:
        One entry a field; those with suppressed types are left out.

    Example:
        >>> @dataclass
        ... class Cut:
        ...     k: int = 5
        >>> [(flag.name, flag.metavar, flag.default) for flag in flags_of(Cut)]
        [('k', 'INT', '5')]
    """
    owners = [*arguments.__mro__[1:], arguments]
    hints = get_type_hints(arguments, include_extras=True)
    texts = {name: text for owner in owners for name, text in _texts(owner).items()}
    found: list[tuple[int, Flag]] = []
    for field in dataclasses.fields(arguments):
        hint = hints[field.name]
        if get_origin(hint) is Annotated and _is_suppressed(hint):
            continue
        place = next(n for n, owner in enumerate(owners) if field.name in inspect.get_annotations(owner))
        heading = group if owners[place] is arguments else _heading(owners[place])
        metavar, choices, takes_many = _value(hint)
        value = _default(field) if default is None else getattr(default, field.name)
        flag = Flag(
            name=field.name.replace("_", "-"),
            group=heading,
            help=texts.get(field.name, ""),
            metavar=metavar,
            choices=tuple(map(str, choices)),
            default="None" if value is None and "None" in texts.get(field.name, "") else _as_text(value),
            is_positional=value is dataclasses.MISSING,
            takes_many=takes_many,
        )
        found.append((place, flag))
    return [flag for _, flag in sorted(found, key=lambda entry: entry[0])]


@functools.cache
def _texts(owner: type[Any]) -> dict[str, str]:
    """Field -> the string below it in the source, as one paragraph."""
    if not dataclasses.is_dataclass(owner):
        return {}
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
    except OSError:  # a class without a source file
        return {}
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = _paragraph(below.value.value)  # type: ignore[attr-defined]
    return found


def _paragraph(text: object) -> str:
    return " ".join(re.sub(r"(?<=\w)-\n\s*", "-", str(text)).split())  # a line may end within a compound word


def _heading(owner: type[Any]) -> str:
    return (inspect.getdoc(owner) or owner.__name__).partition("\n")[0].rstrip(".")


def _is_suppressed(hint: Any) -> bool:
    import tyro  # only where a type says more than its values, and so has imported it already

    return tyro.conf.Suppress in hint.__metadata__


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _as_text(value: object) -> str:
    if value is None or value is dataclasses.MISSING or value is False:
        return ""
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value))
    return "on" if value is True else str(value)


def choice_rules() -> ConstructorRegistry:
    """What tyro reads flags with choices by; its own rule lists None among them, in no order, and names none as near.

    Returns:
        Of `tyro.cli`, as ``registry``.
    """
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def of_choices(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        metavar, choices, takes_many = _value(info.type)
        if not choices:
            return None
        values = {str(choice): choice for choice in choices}
        optional = {"None": None} if type(None) in get_args(info.type) else {}

        def read(words: list[str]) -> Any:
            for word in words:
                if word not in values | optional:
                    listed = ", ".join(in_order(values))
                    raise ValueError(f"invalid choice {word!r}{perhaps(word, values)}; expected one of {listed}")
            found = tuple((values | optional)[word] for word in words)
            return found if takes_many else found[0]

        return PrimitiveConstructorSpec(
            nargs="*" if takes_many else 1,
            metavar=metavar,
            instance_from_str=read,
            is_instance=lambda value: value is None or takes_many or value in choices,
            str_from_instance=lambda value: list(map(str, value)) if takes_many else [str(value)],
        )

    return registry


def _value(hint: Any) -> tuple[str, tuple[object, ...], bool]:
    """Metavar, choices and whether there are many, of a field's type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _value(inner[0])
    if origin in (Union, types.UnionType):
        return _value(next(part for part in inner if part is not types.NoneType))
    if origin is Literal:
        return "INT" if isinstance(inner[0], int) else "NAME", inner, False
    if origin is tuple and inner:
        metavar, choices, _ = _value(inner[0])
        return metavar, choices, True
    return ("" if hint is bool else _METAVARS.get(hint, "VALUE")), (), False
