import csv
import wave
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from client.rounds.loggers import LOGGERS, MEDIA, FolderLogger, Logger, Loggers, TensorBoardLogger, table
from common.errors import SettingError, StorageError

CONTENT = {"picture": torch.linspace(-1, 1, 3 * 8 * 8).reshape(3, 8, 8), "audio": torch.sin(torch.arange(4410) / 10)}


def several(folder: Path, start: int) -> Logger:
    return Loggers([TensorBoardLogger(folder / "a", start), FolderLogger(folder / "b", start)])


EVERY: dict[str, Callable[[Path, int], Logger]] = {**LOGGERS, "several": several}


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


@pytest.mark.parametrize("name", EVERY)
def test_a_logger_takes_numbers_and_every_kind_of_media(name: str, tmp_path: Path) -> None:
    logger = EVERY[name](tmp_path / "log", 0)
    logger.scalars(1, {"loss": 0.5})
    for kind in MEDIA:
        logger.media(1, f"thing/{kind}", kind, CONTENT[kind])
    with pytest.raises(SettingError, match="media='smell' is unknown; choose one of picture, audio"):
        logger.media(1, "thing", "smell", CONTENT["picture"])
    logger.close()
    logger.close()
    assert [path for path in (tmp_path / "log").rglob("*") if path.is_file()]


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, 0)
    for round in (1, 2):
        logger.scalars(round, {"loss": round / 4, "reward/best": -1.5})
        logger.media(round, "destination", "picture", CONTENT["picture"])
    logger.media(2, "song", "audio", CONTENT["audio"])
    logger.close()
    found = events(tmp_path)
    assert set(found.Tags()["scalars"]) == {"loss", "reward/best"}
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 0.25), (2, 0.5)]
    picture = found.Images("destination")[0]
    assert (picture.step, picture.width, picture.height) == (1, 8, 8)
    assert found.Audio("song")[0].step == 2


def test_a_resumed_tensorboard_log_shows_each_round_once(tmp_path: Path) -> None:
    first = TensorBoardLogger(tmp_path, 0)
    for round in (1, 2, 3):
        first.scalars(round, {"loss": 9.0})
    first.close()
    second = TensorBoardLogger(tmp_path, 1)
    for round in (2, 3):
        second.scalars(round, {"loss": 1.0})
    second.close()
    found = events(tmp_path).Scalars("loss")
    assert [(event.step, event.value) for event in found] == [(1, 9.0), (2, 1.0), (3, 1.0)]


def test_a_folder_log_is_plain_files_and_goes_on_where_it_is_told(tmp_path: Path) -> None:
    first = FolderLogger(tmp_path, 0)
    for round in (1, 2, 3):
        first.scalars(round, {"loss": 9.0})
    second = FolderLogger(tmp_path, 1)
    second.scalars(2, {"loss": 0.1})
    second.media(2, "a/b", "picture", CONTENT["picture"])
    second.media(2, "song", "audio", CONTENT["audio"])
    with (tmp_path / "scalars.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"round": "1", "loss": "9.0"}, {"round": "2", "loss": "0.1"}]
    with Image.open(tmp_path / "0002-a-b.png") as image:
        assert image.size == (8, 8)
        assert image.getpixel((7, 7)) == (84, 170, 255)
    with wave.open(str(tmp_path / "0002-song.wav"), "rb") as sound:
        assert sound.getnframes() == 4410


def test_a_damaged_folder_log_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "scalars.csv").write_text("what,is\nthis,now\n")
    with pytest.raises(StorageError, match="cannot go on with the log"):
        FolderLogger(tmp_path, 1)
    assert (tmp_path / "scalars.csv").read_text() == "what,is\nthis,now\n"


def test_a_table_of_nothing_is_empty() -> None:
    assert table([]) == b""
    assert table([{"a": 1, "b": 0.5}]) == b"a,b\n1,0.5\n"
