"""``--set key=value``: settings given on a command line, typed by the fields of the dataclasses they belong to."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from common.errors import SettingError

S = TypeVar("S")
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def assigned(assignments: Sequence[str], settings: S) -> S:
    """Settings with some fields replaced, e.g. by ``["people=300,1000", "repeats=3"]``; later ones win.

    Args:
        assignments: each ``key=value``; a tuple takes its values with commas between them.
        settings: a frozen dataclass.

    Raises:
        SettingError: no such field (the message names the nearest), a value of another type, or one out of range.
    """
    found: S = assigned_among(assignments, settings)[0]
    return found


def assigned_among(assignments: Sequence[str], *records: Any) -> tuple[Any, ...]:
    """``assigned`` for several dataclasses at once: a key belongs to the first that has it."""
    found: list[dict[str, Any]] = [{} for _ in records]
    names = [[field.name for field in dataclasses.fields(record) if field.init] for record in records]
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise SettingError(f"--set {assignment!r} must be key=value, e.g. --set repeats=3")
        at = next((at for at, there in enumerate(names) if key in there), None)
        if at is None:
            raise SettingError(_unknown(key, [name for there in names for name in there]))
        kind = typing.get_type_hints(type(records[at]))[key]
        found[at][key] = parsed(key, text.strip(), kind)
    return tuple(
        dataclasses.replace(record, **values) if values else record
        for record, values in zip(records, found, strict=True)
    )


def parsed(key: str, text: str, kind: Any) -> Any:
    """A value of a type from text.

    Args:
        key: its name, for messages.
        text: what was written.
        kind: int, float, str, bool, a ``Literal``, a tuple of one of these, or one of these or ``None``.

    Raises:
        SettingError: the text is no such value.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return tuple(parsed(key, part, arguments[0]) for part in parts)
    if origin in (typing.Union, types.UnionType):
        if text in ("", "none"):
            return None
        return parsed(key, text, next(option for option in arguments if option is not type(None)))
    if origin is Literal:
        if text not in arguments:
            raise SettingError(f"{key}={text!r} must be one of {', '.join(map(str, arguments))}")
        return text
    if kind is bool:
        if text.lower() not in (*_YES, *_NO):
            raise SettingError(f"{key}={text!r} must be yes or no; try --set {key}=yes")
        return text.lower() in _YES
    try:
        return int(text.replace("_", "")) if kind is int else kind(text)
    except ValueError as error:
        wanted = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise SettingError(f"{key}={text!r} must be {wanted}; try --set {key}=1") from error


def _unknown(key: str, names: list[str]) -> str:
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
    meant = f"did you mean {near[0]}?" if near else f"choose from {', '.join(sorted(names))}"
    return f"--set {key}=...: there is no setting {key!r}; {meant}"
