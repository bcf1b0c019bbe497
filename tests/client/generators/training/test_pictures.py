"""Folders of pictures: what is read, and what is named and left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from client.generators.training import pictures
from client.generators.training.pictures import FEWEST, read_pictures
from common.errors import SettingError, UnreadableModel


def plain(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (20, 20), **said: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **said)


def enough(folder: Path) -> None:
    for i in range(FEWEST):
        plain(folder / f"{i:02d}.png", (10 * i, 0, 0))


def test_pictures_come_in_the_order_of_their_names_from_folders_below_too(tmp_path: Path) -> None:
    enough(tmp_path / "b")
    plain(tmp_path / "a.bmp", (1, 2, 3))
    (tmp_path / "notes.txt").write_text("no picture")
    found = read_pictures(tmp_path, 16)
    assert found.values.shape == (FEWEST + 1, 3, 16, 16)
    assert found.values.dtype == torch.uint8
    assert found.values[0].flatten(1)[:, 0].tolist() == [1, 2, 3]
    assert found.values[1:, 0, 0, 0].tolist() == [10 * i for i in range(FEWEST)]
    assert not found.skipped


def test_the_middle_square_is_taken_and_turned_as_the_camera_says(tmp_path: Path) -> None:
    enough(tmp_path)
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:48] = 255  # left half of the middle
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(wide).save(tmp_path / "zz.png", exif=exif)
    Image.fromarray(wide).save(tmp_path / "zzz.png")
    *_, turned, straight = read_pictures(tmp_path, 16).values.float().mean(1)
    assert float(turned[:6].min()) > 200 > 50 > float(turned[10:].max())
    assert float(straight[:, :6].min()) > 200 > 50 > float(straight[:, 10:].max())


def test_unreadable_files_are_named_and_left_out(tmp_path: Path) -> None:
    enough(tmp_path)
    whole = (tmp_path / "00.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not a picture")
    found = read_pictures(tmp_path, 16)
    assert len(found.values) == FEWEST
    assert set(found.skipped) == {"cut.png", "text.jpg"}
    assert "cannot identify" in found.skipped["text.jpg"]


def test_a_picture_that_is_too_large_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enough(tmp_path)
    plain(tmp_path / "large.png", (0, 0, 0), (30, 30))
    monkeypatch.setattr(pictures, "MOST_PIXELS", 20 * 20)
    assert "30 x 30 is too large" in read_pictures(tmp_path, 16).skipped["large.png"]


def test_folders_that_hold_too_little_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel, match="there is no folder"):
        read_pictures(tmp_path / "nowhere", 16)
    with pytest.raises(UnreadableModel, match="holds no pictures"):
        read_pictures(tmp_path, 16)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(UnreadableModel, match=r"0 readable pictures, 16 are the least; text\.png"):
        read_pictures(tmp_path, 16)
    for side in (0, 48, 512):
        with pytest.raises(SettingError, match=f"side={side}"):
            read_pictures(tmp_path, side)


def test_the_hash_follows_pixels_and_order(tmp_path: Path) -> None:
    enough(tmp_path)
    before = read_pictures(tmp_path, 16).sha256
    assert read_pictures(tmp_path, 16).sha256 == before
    plain(tmp_path / "07.png", (70, 0, 1))
    assert read_pictures(tmp_path, 16).sha256 != before
