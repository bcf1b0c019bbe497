"""Where rounds are logged: TensorBoard, a plain folder, several at once; media go by kind, so new kinds fit in."""

from __future__ import annotations

import csv
import io
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from client.rounds.stages import choose
from client.rounds.strip import png
from common.errors import StorageError
from common.files import write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

AUDIO_RATE = 44_100


class Logger(Protocol):
    """Takes what happens in a run. A logger of a resumed run forgets what came after the round it goes on from."""

    def scalars(self, round: int, values: Mapping[str, float]) -> None:
        """Numbers of a round, the same names each time."""

    def media(self, round: int, name: str, kind: str, content: Tensor) -> None:
        """Something to look at or listen to; ``kind`` is one of ``MEDIA``.

        Raises:
            SettingError: unknown kind.
        """

    def close(self) -> None:
        """Write everything; twice does no harm."""


@dataclass(frozen=True)
class Medium:
    """How a kind of media is logged.

    Attributes:
        suffix: of files.
        encode: content to the bytes of a file.
        board: gives content to TensorBoard under a name, at a round.
    """

    suffix: str
    encode: Callable[[Tensor], bytes]
    board: Callable[[SummaryWriter, str, Tensor, int], None]


def _board_picture(writer: SummaryWriter, name: str, content: Tensor, round: int) -> None:
    writer.add_image(name, (content.clamp(-1, 1) + 1) / 2, round)


def _board_audio(writer: SummaryWriter, name: str, content: Tensor, round: int) -> None:
    writer.add_audio(name, content.clamp(-1, 1)[None], round, sample_rate=AUDIO_RATE)


def _wav(content: Tensor) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(AUDIO_RATE)
        sound.writeframes((content.clamp(-1, 1) * 32767).round().to(torch.int16).numpy().astype("<i2").tobytes())
    return file.getvalue()


# picture: (3, h, w) in [-1, 1]; audio: (samples,) in [-1, 1], mono
MEDIA: dict[str, Medium] = {
    "picture": Medium(".png", png, _board_picture),
    "audio": Medium(".wav", _wav, _board_audio),
}


class TensorBoardLogger:
    """Event files for ``tensorboard --logdir``."""

    def __init__(self, folder: Path, start: int) -> None:
        """Log into ``folder``; what it holds of rounds after ``start`` is marked as void."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def scalars(self, round: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, round)

    def media(self, round: int, name: str, kind: str, content: Tensor) -> None:
        """See `Logger`."""
        choose(MEDIA, "media", kind).board(self._writer, name, content, round)

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()


class FolderLogger:
    """``scalars.csv`` and one file for each medium, ``<round>-<name>.<suffix>``, for people without TensorBoard."""

    def __init__(self, folder: Path, start: int) -> None:
        """Log into ``folder``, which is made; rows of rounds after ``start`` are dropped."""
        self._folder, self._rows = folder, list[dict[str, str]]()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if start and (folder / "scalars.csv").exists():
                with (folder / "scalars.csv").open(newline="", encoding="utf-8") as file:
                    self._rows = [row for row in csv.DictReader(file) if int(row["round"]) <= start]
        except (OSError, ValueError, KeyError) as error:
            raise StorageError(
                f"cannot go on with the log in {folder}; move it away or choose another --out"
            ) from error

    def scalars(self, round: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        self._rows.append({"round": str(round), **{name: repr(value) for name, value in values.items()}})
        write_atomically(self._folder / "scalars.csv", table(self._rows))

    def media(self, round: int, name: str, kind: str, content: Tensor) -> None:
        """See `Logger`. A slash in the name becomes a dash."""
        medium = choose(MEDIA, "media", kind)
        file = f"{round:04d}-{name.replace('/', '-')}{medium.suffix}"
        write_atomically(self._folder / file, medium.encode(content))

    def close(self) -> None:
        """See `Logger`."""


class Loggers:
    """Several loggers at once."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        """Tell each of them everything, in this order."""
        self._loggers = loggers

    def scalars(self, round: int, values: Mapping[str, float]) -> None:
        """See `Logger`."""
        for logger in self._loggers:
            logger.scalars(round, values)

    def media(self, round: int, name: str, kind: str, content: Tensor) -> None:
        """See `Logger`."""
        for logger in self._loggers:
            logger.media(round, name, kind, content)

    def close(self) -> None:
        """See `Logger`."""
        for logger in self._loggers:
            logger.close()


def table(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Rows with the same keys as a CSV file; empty for none."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue().encode()


LOGGERS: dict[str, Callable[[Path, int], Logger]] = {"tensorboard": TensorBoardLogger, "folder": FolderLogger}
