"""Where a rating session in a terminal shows its pictures: on the screen as half blocks, or in PNG files."""

from __future__ import annotations

import contextlib
import math
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TextIO

import torch
from torch import Tensor

from client.generators.cli import contact_sheet
from client.generators.sounds import wav_file
from client.half_blocks import RESET, Depth, beside, half_blocks
from client.items import Item
from common.errors import StorageError
from common.files import write_atomically

GAP = 2  # characters between pictures
SMALLEST = 4  # columns a picture is drawn in, however small the window
SHEET = 256  # height and width of a picture in a file, pixels
_FRESH, _END = "\x1b[H", "\x1b[J"  # to the upper left; clear what is left below
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", RESET + "\x1b[?25h\x1b[?1049l"  # a screen of our own, without a cursor
_BOLD, _DIM, _MARK = "\x1b[1m", "\x1b[2m", "\x1b[1;33m"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What is shown at one time.

    Attributes:
        kind: what a file of it is called, ``question`` or ``wall``.
        title: one line above the pictures.
        items: their pictures are shown.
        captions: one below each picture.
        across: pictures in a row.
        status: how things are going.
        notice: what the person should be told now; empty for nothing.
        keys: what can be pressed.
    """

    kind: str
    title: str
    items: Sequence[Item]
    captions: Sequence[str]
    across: int
    status: str = ""
    notice: str = ""
    keys: str = ""


class Display(Protocol):
    """Shows frames and pages of text."""

    screen: bool

    def show(self, frame: Frame) -> None:
        """Show pictures."""

    def page(self, title: str, lines: Sequence[str]) -> None:
        """Show text."""

    def say(self, line: str) -> None:
        """Add a line of text, where lines follow each other; nothing on a screen that is drawn anew each time."""


class Blocks:
    """Pictures as half blocks, as large as the window allows.

    As a context manager with ``screen`` it draws on the alternate screen, so that no picture stays in the window or
    its history afterwards.

    Attributes:
        screen: drawn in place; otherwise frames follow each other.
    """

    def __init__(
        self,
        out: TextIO,
        depth: Depth,
        size: Callable[[], os.terminal_size],
        *,
        resizable: bool,
        screen: bool = True,
    ) -> None:
        """Draw on a terminal.

        Args:
            out: the terminal.
            depth: colours it has.
            size: asked before each frame for its columns and lines.
            resizable: whether the generator draws any size.
            screen: draw in place.
        """
        self.screen = screen
        self._out, self._depth, self._size, self._resizable = out, depth, size, resizable

    def __enter__(self) -> Self:
        if self.screen:
            self._write(_ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.screen:
            with contextlib.suppress(OSError):  # the window may be gone
                self._write(_LEAVE)

    def show(self, frame: Frame) -> None:
        """See `Display`."""
        columns, lines = self._size()
        above = self._head(frame, columns)
        below = self._wrapped(frame.notice, _MARK, columns) or [""]  # its line stays, so that pictures do not jump
        below += self._wrapped(frame.keys, _DIM, columns)
        across = min(frame.across, len(frame.items))
        rows = math.ceil(len(frame.items) / across)
        free = lines - len(above) - len(below) - rows - 1  # captions, and a last line that stays empty
        side = self._side(frame.items[0], (columns + GAP) // across - GAP, free // rows)
        margin = " " * ((columns - across * (side + GAP) + GAP) // 2)
        drawn = [half_blocks(self._picture(item, side), side, self._depth) for item in frame.items]
        body = [margin + line for line in self._rows(drawn, frame.captions, side, across)]
        self._put([*above, *body, *below])

    def page(self, title: str, lines: Sequence[str]) -> None:
        """See `Display`."""
        columns, height = self._size()
        text = [part for line in lines for part in (self._wrapped(line, "", columns) or [""])]
        if self.screen:
            text = text[: max(1, height - 3)]
        self._put([*self._wrapped(title, _BOLD, columns), "", *text])

    def say(self, line: str) -> None:
        """See `Display`."""
        if not self.screen:
            self._write(line + "\n")

    def _head(self, frame: Frame, columns: int) -> list[str]:
        """The title, and how things are going at its right where there is room."""
        space = columns - len(frame.title) - len(frame.status)
        if frame.status and space >= GAP:
            return [f"{_BOLD}{frame.title}{RESET}{' ' * space}{frame.status}"]
        return [*self._wrapped(frame.title, _BOLD, columns), *self._wrapped(frame.status, "", columns)]

    def _side(self, item: Item, wide: int, lines: int) -> int:
        """Columns of a picture that fits."""
        _, height, width = (3, 1, 1) if self._resizable else item.media.shape
        return max(SMALLEST, min(wide, 2 * lines * width // height))

    def _picture(self, item: Item, side: int) -> Tensor:
        return item.picture(max(16, 2 * side)) if self._resizable else item.media

    @staticmethod
    def _rows(drawn: Sequence[Sequence[str]], captions: Sequence[str], side: int, across: int) -> list[str]:
        lines: list[str] = []
        for start in range(0, len(drawn), across):
            lines += beside(drawn[start : start + across], GAP)
            named = [caption[:side].center(side) for caption in captions[start : start + across]]
            lines.append((" " * GAP).join(named).rstrip())
        return lines

    @staticmethod
    def _wrapped(text: str, style: str, columns: int) -> list[str]:
        found = [line.replace("\xa0", " ") for line in textwrap.wrap(text, max(20, columns))]
        return [f"{style}{line}{RESET if style else ''}" for line in found]

    def _put(self, lines: Sequence[str]) -> None:
        if self.screen:
            # each line is cleared to its end, so that nothing flickers and nothing of the frame before stays
            self._write(_FRESH + "".join(f"{line}\x1b[K\n" for line in lines) + _END)
        else:
            self._write("\n".join(lines) + "\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


class Sheets:
    """Pictures in PNG files, those of a frame side by side in one; the terminal says which.

    Attributes:
        screen: False; frames follow each other.
        written: files so far.
    """

    screen = False

    def __init__(self, out: TextIO, folder: Path | None, *, resizable: bool, sample_rate: int = 0) -> None:
        """Write files.

        Args:
            out: for the text.
            folder: for the files, made if it is missing; None for text alone.
            resizable: whether the generator draws any size.
            sample_rate: of a generator of sounds, per second; each sound is then a WAV file beside its picture.

        Raises:
            StorageError: the folder cannot be made.
        """
        self._out, self._folder, self._resizable, self._sample_rate = out, folder, resizable, sample_rate
        self.written: list[Path] = []
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(f"cannot make {folder}: {error.strerror}; choose another folder") from error

    def show(self, frame: Frame) -> None:
        """See `Display`."""
        lines = [frame.notice, frame.title]
        if self._folder is not None:
            path = self._folder / f"{frame.kind}-{frame.items[0].id:06d}.png"
            sounds = save(path, frame.items, frame.across, self._resizable, self._sample_rate)
            self.written += [path, *sounds]
            lines.append(f"  {path}: {' | '.join(frame.captions)}")
            lines += [f"  play {sound}" for sound in sounds]
        lines += [frame.status, frame.keys.replace("\xa0", " ")]
        self._out.write("".join(f"{line}\n" for line in lines if line))
        self._out.flush()

    def page(self, title: str, lines: Sequence[str]) -> None:
        """See `Display`."""
        self._out.write("".join(f"{line}".rstrip() + "\n" for line in (title, *(f"  {line}" for line in lines))))
        self._out.flush()

    def say(self, line: str) -> None:
        """See `Display`."""
        self._out.write(line + "\n")


def save(path: Path, items: Sequence[Item], across: int, resizable: bool, sample_rate: int = 0) -> list[Path]:
    """Write pictures side by side to one PNG file, and sounds to WAV files beside it.

    Returns:
        The files with sounds, one for each item where ``sample_rate`` is not 0.

    Raises:
        StorageError: the disk refuses.
    """
    anywhere = resizable or sample_rate > 0
    pictures = torch.stack([item.picture(SHEET) if anywhere else item.media for item in items])
    write_atomically(path, contact_sheet(pictures, across))
    sounds = [path.with_name(f"{path.stem}-{i + 1}.wav") for i in range(len(items) if sample_rate else 0)]
    for sound, item in zip(sounds, items, strict=False):
        write_atomically(sound, wav_file(item.media, sample_rate))
    return sounds
