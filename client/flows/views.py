"""Where a toy shows itself: in the terminal, in a window, or in PNG files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from client.flows.drawing import Drawing, braille
from client.half_blocks import Depth, beside
from client.terminal_keys import REDRAW
from common.errors import SettingError, StorageError
from common.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.backend_bases import Event

Rows = Sequence[tuple[str, Drawing]]
_GAP = 2
_WIDEST = 30  # columns of a shape; more show nothing new of 64 points
_DIM, _BOLD, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"


class View(Protocol):
    """What shows shapes and says things."""

    def show(self, name: str, rows: Rows, title: str, picked: int | None = None) -> None:
        """Show rows of shapes.

        Args:
            name: of the picture, for a file.
            rows: a name, empty for none, and the shapes of each row.
            title: above all.
            picked: index in the first row of a shape to frame.
        """

    def say(self, line: str) -> None:
        """Say something in words."""


class Terminal:
    """Shapes as braille, as wide as the window allows; in plain words where the output cannot hold braille."""

    def __init__(self, out: TextIO, depth: Depth | None) -> None:
        """Draw on a stream with the colours it has; None for none."""
        self._out, self._depth = out, depth
        try:
            "\u28ff".encode(out.encoding or "utf-8")
            self._braille = True
        except (UnicodeEncodeError, LookupError):
            self._braille = False

    def show(self, name: str, rows: Rows, title: str, picked: int | None = None) -> None:
        """See `View`."""
        across = max(len(drawing.captions) for _, drawing in rows)
        wide = shutil.get_terminal_size().columns
        fitting = max(1, min(across, (wide + _GAP) // (14 + _GAP)))  # narrower ones cannot be told apart
        side = min(_WIDEST, (wide + _GAP) // fitting - _GAP)
        lines = ["", f"{_BOLD}{title}{_RESET}" if self._depth else title]
        for row, (label, drawing) in enumerate(rows):
            lines += [label] if label else []
            for start in range(0, len(drawing.captions), fitting):
                shapes = range(start, min(start + fitting, len(drawing.captions)))
                if self._braille:
                    drawn = [braille(drawing.places[i], drawing.colours[i], side, self._depth) for i in shapes]
                    lines += beside(drawn, _GAP)
                captions = [self._caption(drawing, i, framed=row == 0 and i == picked) for i in shapes]
                lines.append((" " * _GAP).join(text[:side].center(side) for text in captions).rstrip())
        self._out.write("\n".join(lines) + "\n")
        self._out.flush()

    def say(self, line: str) -> None:
        """See `View`."""
        self._out.write(line + "\n")
        self._out.flush()

    @staticmethod
    def _caption(drawing: Drawing, index: int, *, framed: bool) -> str:
        return f"> {drawing.captions[index]} <" if framed else drawing.captions[index]


class Files:
    """PNG files in a folder; the terminal says which.

    Attributes:
        written: files so far.
    """

    def __init__(self, out: TextIO, folder: Path) -> None:
        """Write to a folder, which is made if it is missing.

        Raises:
            StorageError: it cannot be made.
        """
        self._out, self._folder = out, folder
        self.written: list[Path] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {folder}: {error.strerror}; choose another --plots") from error

    def show(self, name: str, rows: Rows, title: str, picked: int | None = None) -> None:
        """See `View`."""
        from client.flows.plots import as_png, sheet

        path = self._folder / f"{name}.png"
        write_atomically(path, as_png(sheet(rows, title, picked)))
        self.written.append(path)
        self.say(f"{title}: {path}")

    def say(self, line: str) -> None:
        """See `View`."""
        self._out.write(line + "\n")
        self._out.flush()


class Window:
    """A window of the desktop, which also takes the keys and clicks on shapes.

    Attributes:
        scripted: False; a person answers.
    """

    scripted = False

    def __init__(self, out: TextIO) -> None:
        """Open an empty window.

        Raises:
            SettingError: there is no display, or no toolkit that matplotlib can draw with.
        """
        import matplotlib.pyplot as plt

        self._out, self._plt = out, plt
        self._keys: list[str] = []
        self._closed = False
        try:
            plt.switch_backend(_backend())
            self._figure = plt.figure(num="plgl toy")
        except Exception as error:  # each toolkit has errors of its own
            raise SettingError(
                "no window can be opened here; leave --window out, or write files with --plots DIR"
            ) from error
        self._figure.canvas.mpl_connect("key_press_event", self._pressed)
        self._figure.canvas.mpl_connect("button_press_event", self._clicked)
        self._figure.canvas.mpl_connect("close_event", self._ended)

    def show(self, name: str, rows: Rows, title: str, picked: int | None = None) -> None:
        """See `View`."""
        from client.flows.plots import fill_sheet

        if not self._closed:
            fill_sheet(self._figure, rows, title, picked)
            self._figure.canvas.draw_idle()
            self._plt.pause(0.05)

    def say(self, line: str) -> None:
        """See `View`."""
        self._out.write(line + "\n")
        self._out.flush()

    def read(self) -> str | None:
        """The next key, or the number of the shape that was clicked; None when the window is closed."""
        while not self._keys and not self._closed:
            self._plt.pause(0.05)
        return self._keys.pop(0) if self._keys else None

    def _pressed(self, event: Event) -> None:
        key = str(getattr(event, "key", "") or "")
        self._keys.append({" ": "space", "return": "enter"}.get(key, key.lower()))

    def _clicked(self, event: Event) -> None:
        shapes: list[Any] = list(self._figure.axes)
        inside = getattr(event, "inaxes", None)
        self._keys.append(str(1 + shapes.index(inside)) if inside in shapes else REDRAW)

    def _ended(self, _event: Event) -> None:
        self._closed = True


def _backend() -> str:
    """The first toolkit that is installed and finds a display."""
    import matplotlib

    for name in ("qtagg", "gtk4agg", "gtk3agg", "tkagg", "macosx"):
        try:
            matplotlib.pyplot.switch_backend(name)
        except Exception:
            continue
        return name
    raise SettingError("no window toolkit; leave --window out")


def file_name(words: str) -> str:
    """Words as the name of a file: lower case, with hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
