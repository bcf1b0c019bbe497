"""Reads the opcodes of a pickle and runs nothing of what it asks for.

A pickle is a program for a stack machine (`pickletools`): it may name any function and call it. Here a name stays a
name and a call stays a note of what was to be called. What comes out are plain values, `Name` and `Inert` records;
`inert` makes tensors of those that describe tensors.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from common.errors import PlglError, UnreadableModel

# Modules whose names occur in honest checkpoints: tensors, and settings of the training. Nothing of them is imported:
# the list only serves to refuse a file that names anything else, because such a file was made to harm.
_KNOWN_ROOTS = frozenset(
    {
        *("torch", "torch_utils", "dnnlib", "training", "models", "numpy", "collections"),
        *("argparse", "pathlib", "datetime", "omegaconf", "easydict", "yacs", "addict", "__main__"),
    }
)
_KNOWN_NAMES = frozenset(
    {
        ("_codecs", "encode"),
        ("copyreg", "_reconstructor"),
        ("copy_reg", "_reconstructor"),
        ("builtins", "object"),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "bytearray"),
        ("__builtin__", "object"),
        ("__builtin__", "set"),
    }
)
_MARK = object()
_KEYS = (str, int, float, bool, bytes, type(None))  # a nested tuple as a key could exhaust the C stack when hashed


@dataclass(frozen=True, kw_only=True)
class PickleLimits:
    """What a pickle may cost to read; a larger one is refused.

    Attributes:
        opcodes: instructions; a StyleGAN file has about fifty thousand.
        bytes_at_once: bytes of one string or array.
    """

    opcodes: int = 2_000_000
    bytes_at_once: int = 1 << 31


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a class or function; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Inert:
    """An object that was to be made by calling something; never called.

    Attributes:
        name: what was to be called.
        args: with which values.
        state: what was to become its attributes.
        items: what was to be put into it as keys and values.
        members: what was to be appended or added to it.
    """

    name: Name
    args: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    members: list[Any] = field(default_factory=list)


def read_pickle(
    file: IO[bytes], what: str, limits: PickleLimits, persistent: Callable[[Any], Any] | None = None
) -> Any:
    """Read one pickle without running anything.

    Guarantee: no code is imported or called for the file's sake; memory stays proportional to the file; no recursion.

    Args:
        file: open for reading bytes, at the start of a pickle; afterwards right behind it.
        what: what messages call it.
        limits: what it may cost.
        persistent: turns a persistent id into a value; without it such ids are refused.

    Returns:
        Plain Python values with `Name` and `Inert` inside.

    Raises:
        UnreadableModel: not a whole pickle, names something no checkpoint needs, or exceeds a limit.
    """
    machine = _Machine(what, persistent)
    with damage_of(what), warnings.catch_warnings():
        # pickletools decodes the escapes of old text instructions before they can be refused here
        warnings.simplefilter("ignore", DeprecationWarning)
        for count, (opcode, arg, _) in enumerate(pickletools.genops(file)):
            if count >= limits.opcodes:
                raise UnreadableModel(f"{what} has more than {limits.opcodes} instructions; it is not a generator")
            if isinstance(arg, bytes | str) and len(arg) > limits.bytes_at_once:
                raise UnreadableModel(f"{what} holds {len(arg)} bytes at once, more than {limits.bytes_at_once}")
            machine.step(opcode.name, arg)
        return machine.result()


@contextmanager
def damage_of(what: str) -> Iterator[None]:
    """Turn what goes wrong in a damaged file into one clear error.

    Raises:
        UnreadableModel: reading failed inside.
    """
    try:
        yield
    except PlglError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError, struct.error) as error:
        raise UnreadableModel(f"{what} is damaged or of another kind ({error}); get the file again") from error


class _Machine:
    """The stack machine, without its calls."""

    def __init__(self, what: str, persistent: Callable[[Any], Any] | None) -> None:
        self._what = what
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, arg: Any) -> None:
        if opcode in _VALUES:
            self._stack.append(arg)
        elif opcode in _EMPTY:
            self._stack.append(_EMPTY[opcode]())
        elif opcode in _MEMO_PUT:
            self._memo[len(self._memo) if arg is None else arg] = self._stack[-1]
        elif opcode in _MEMO_GET:
            self._stack.append(self._memo[arg])
        elif opcode not in _IGNORED:
            action = _ACTIONS.get(opcode)
            if action is None:
                raise UnreadableModel(f"{self._what} uses the pickle instruction {opcode}, which no checkpoint needs")
            action(self, arg)

    def result(self) -> Any:
        (value,) = self._stack
        return value

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def _pop_to_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        values = self._stack[at + 1 :]
        del self._stack[at:]
        return values

    def mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def pop(self, _: Any) -> None:
        self._stack.pop()

    def pop_mark(self, _: Any) -> None:
        self._pop_to_mark()

    def dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def tuple_of(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(values)))

    def tuple_to_mark(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def list_to_mark(self, _: Any) -> None:
        self._stack.append(self._pop_to_mark())

    def frozenset_to_mark(self, _: Any) -> None:
        self._stack.append(frozenset(map(_key, self._pop_to_mark())))

    def dict_to_mark(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._stack.append({_key(k): v for k, v in zip(values[::2], values[1::2], strict=True)})

    def append(self, _: Any) -> None:
        value = self._pop()
        self._members().append(value)

    def appends(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._members().extend(values)

    def add_items(self, _: Any) -> None:
        values = self._pop_to_mark()
        target = self._stack[-1]
        if isinstance(target, set):
            target.update(map(_key, values))
        else:
            self._members().extend(values)

    def set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._items()[_key(key)] = value

    def set_items(self, _: Any) -> None:
        values = self._pop_to_mark()
        self._items().update((_key(k), v) for k, v in zip(values[::2], values[1::2], strict=True))

    def _members(self) -> list[Any]:
        target = self._stack[-1]
        if not isinstance(target, list | Inert):
            raise TypeError(f"{type(target).__name__} has no members")
        return target.members if isinstance(target, Inert) else target

    def _items(self) -> dict[Any, Any]:
        target = self._stack[-1]
        if not isinstance(target, dict | Inert):
            raise TypeError(f"{type(target).__name__} has no items")
        return target.items if isinstance(target, Inert) else target

    def name(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self._push_name(module, name)

    def name_on_stack(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name must be text")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        if module.partition(".")[0] not in _KNOWN_ROOTS and (module, name) not in _KNOWN_NAMES:
            asked = f"{module}.{name}"[:80]
            raise UnreadableModel(f"{self._what} asks to run {asked!r}, as no generator does; nothing was run")
        self._stack.append(Name(module, name))

    def call(self, _: Any) -> None:
        args, name = self._pop(), self._pop()
        if not isinstance(name, Name) or not isinstance(args, tuple):
            raise TypeError("a call without a name or arguments")
        self._stack.append(Inert(name, args))

    def call_with_names(self, _: Any) -> None:
        keywords = self._pop()
        self.call(None)
        if not isinstance(keywords, dict):
            raise TypeError("keyword arguments must be a dict")
        self._stack[-1].items.update(keywords)

    def build(self, _: Any) -> None:
        state = self._pop()
        target = self._stack[-1]
        if not isinstance(target, Inert):
            raise TypeError(f"{type(target).__name__} has no state")
        target.state = state

    def persistent_id(self, _: Any) -> None:
        if self._persistent is None:
            raise UnreadableModel(f"{self._what} points outside of itself; save the checkpoint again as one file")
        self._stack.append(self._persistent(self._pop()))


def _key(value: Any) -> Any:
    if type(value) not in _KEYS and not isinstance(value, Name):
        raise TypeError(f"{type(value).__name__} as a key")
    return value


_VALUES = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_EMPTY: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_MEMO_PUT = frozenset({"BINPUT", "LONG_BINPUT", "MEMOIZE"})
_MEMO_GET = frozenset({"BINGET", "LONG_BINGET"})
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.dup,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": _Machine.tuple_to_mark,
    "LIST": _Machine.list_to_mark,
    "DICT": _Machine.dict_to_mark,
    "FROZENSET": _Machine.frozenset_to_mark,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.add_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_on_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_names,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_id,
}
