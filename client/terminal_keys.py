"""Keys a person presses in a terminal, one at a time and without Enter; or words of a script, in their place."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Protocol, Self, TextIO

REDRAW = "redraw"  # what `Keys.read` answers when the window has another size
_CONTROL = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x1a": "ctrl+z",
    "\x19": "ctrl+y",
    "\x03": "ctrl+c",
    "\x04": "q",  # end of input
    "\x0c": REDRAW,
    " ": "space",
    "\t": "tab",
    "\x1b": "escape",
}
_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left", "M": "enter"}
_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;]*|O)([A-Za-z~])")
_WINDOWS_ARROWS = {"H": "up", "P": "down", "M": "right", "K": "left"}
_PATIENCE = 0.05  # seconds after which an Escape that nothing follows is the key itself


class Keys(Protocol):
    """Where answers come from."""

    scripted: bool

    def read(self) -> str | None:
        """The next key by name (``left``, ``enter``, ``a``); `REDRAW`; None when there are no more."""


def key_name(pressed: str) -> str:
    """The name of a key from the characters a terminal sends for it; ``""`` for one that means nothing here.

    >>> key_name("\\x1b[D"), key_name("A"), key_name("\\x7f"), key_name("\\x1b[15~")
    ('left', 'a', 'backspace', '')
    """
    if pressed in _CONTROL:
        return _CONTROL[pressed]
    if sequence := _SEQUENCE.fullmatch(pressed):
        return _ARROWS.get(sequence[1], "")
    return pressed.lower() if len(pressed) == 1 and pressed.isprintable() else ""


class Script:
    """Words of a text in place of keys: ``a both skip``, any number on a line, ``#`` starts a comment."""

    scripted = True

    def __init__(self, text: TextIO) -> None:
        """Read from ``text``, line by line, as they are needed."""
        self._words = self._split(text)
        self.line = 0

    def _split(self, text: TextIO) -> Iterator[str]:
        for line in text:
            self.line += 1
            yield from line.split("#", 1)[0].replace(",", " ").lower().split()

    def read(self) -> str | None:
        """See `Keys`."""
        return next(self._words, None)


class Keyboard:
    """The keys of a terminal. As a context manager it takes the terminal over and gives it back as it was.

    Guarantee: the terminal is as before after an error, Ctrl-C, SIGTERM and SIGHUP; the latter end the program with
    128 plus their number. Ctrl-C raises ``KeyboardInterrupt``; Ctrl-Z is a key (undo), not a pause.
    """

    scripted = False

    def __init__(self, descriptor: int | None = None) -> None:
        """Take the keys of an open terminal, standard input unless told."""
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._undo = contextlib.ExitStack()
        self._resized: int | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            if sys.platform != "win32":
                self._take_over(undo)
                self._listen(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def read(self) -> str | None:
        """See `Keys`; a key that means nothing here is ``""``."""
        if sys.platform == "win32":
            import msvcrt

            pressed = msvcrt.getwch()
            if pressed in ("\0", "\xe0"):
                return _WINDOWS_ARROWS.get(msvcrt.getwch(), "")
            if pressed == "\x03":
                raise KeyboardInterrupt
            return key_name(pressed)
        waiting = [self._descriptor] + ([] if self._resized is None else [self._resized])
        ready, _, _ = select.select(waiting, [], [])
        if self._descriptor not in ready:
            os.read(ready[0], 4096)
            return REDRAW
        return self._key()

    def _key(self) -> str | None:
        try:
            first = os.read(self._descriptor, 1)
        except OSError:  # the terminal is gone
            return None
        if not first:
            return None
        pressed = first
        if first == b"\x1b":
            while self._more() and not (len(pressed) > 2 and pressed[-1:].isalpha()) and pressed[-1:] != b"~":
                pressed += os.read(self._descriptor, 1)
        for _ in range(_following(first[0])):
            pressed += os.read(self._descriptor, 1)
        return key_name(pressed.decode("utf-8", "replace"))

    def _more(self) -> bool:
        return bool(select.select([self._descriptor], [], [], _PATIENCE)[0])

    def _take_over(self, undo: contextlib.ExitStack) -> None:
        """Keys come at once and unseen; Ctrl-C still interrupts, Ctrl-Z and Ctrl-Y are keys."""
        import termios

        before = termios.tcgetattr(self._descriptor)
        undo.callback(termios.tcsetattr, self._descriptor, termios.TCSADRAIN, before)
        now = termios.tcgetattr(self._descriptor)
        now[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
        for name, value in (("VMIN", 1), ("VTIME", 0), ("VSUSP", b"\0"), ("VDSUSP", b"\0")):
            if hasattr(termios, name):
                now[6][getattr(termios, name)] = value
        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, now)

    def _listen(self, undo: contextlib.ExitStack) -> None:
        """Wake up when the window changes its size; end in order when asked to end."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            undo.callback(signal.signal, number, signal.signal(number, _end))
        ours, theirs = os.pipe()
        undo.callback(os.close, ours)
        undo.callback(os.close, theirs)

        def wake(number: int, frame: FrameType | None) -> None:
            os.write(theirs, b"x")

        undo.callback(signal.signal, signal.SIGWINCH, signal.signal(signal.SIGWINCH, wake))
        self._resized = ours


def _following(first: int) -> int:
    """How many bytes follow the first one of a UTF-8 character (RFC 3629, section 3)."""
    return 0 if first < 0xC0 else 1 if first < 0xE0 else 2 if first < 0xF0 else 3


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
