import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from client.generators.pack import GeneratorPack
from client.rounds.target import LatentTarget, PictureTarget
from common.errors import SettingError

PACK = GeneratorPack.open("art")


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def test_a_wide_picture_is_scaled_and_cropped_in_the_middle(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    found = PictureTarget.open(saved(tmp_path / "wide.png", image)).picture(32, 32)
    assert found.shape == (3, 32, 32)
    assert torch.allclose(found[:, 4:-4, 4:-4], torch.tensor([-1.0, -1, 1])[:, None, None].expand(3, 24, 24))


def test_transparent_parts_are_white_and_grey_and_palette_pictures_are_read(tmp_path: Path) -> None:
    clear = PictureTarget.open(saved(tmp_path / "clear.png", Image.new("RGBA", (40, 40), (0, 0, 0, 0))))
    assert float(clear.picture(16, 16).min()) == 1
    for mode in ("L", "P", "1", "LA", "I;16"):
        found = PictureTarget.open(saved(tmp_path / "mode.png", Image.new(mode, (40, 20)))).picture(16, 24)
        assert found.shape == (3, 16, 24)


def test_a_photo_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    image.save(tmp_path / "photo.jpg", exif=exif)
    found = PictureTarget.open(tmp_path / "photo.jpg").picture(64, 32)
    assert float(found[:, 4:24].mean()) > 0.9
    assert float(found[:, 40:60].mean()) < -0.9


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(40), b"<svg/>"])
def test_files_that_are_not_pictures_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(SettingError, match=r"x\.png"):
        PictureTarget.open(tmp_path / "x.png")


def test_pictures_that_break_off_or_are_elsewhere_are_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    for cut in (30, 60, len(whole.getvalue()) // 2):
        (tmp_path / "cut.png").write_bytes(whole.getvalue()[:cut])
        with pytest.raises(SettingError, match=r"cut\.png"):
            PictureTarget.open(tmp_path / "cut.png")
    with pytest.raises(SettingError, match="choose another --target"):
        PictureTarget.open(tmp_path / "missing.png")
    with pytest.raises(SettingError, match="choose another --target"):
        PictureTarget.open(tmp_path)


def test_a_picture_with_absurdly_many_pixels_is_refused(tmp_path: Path) -> None:
    huge = saved(tmp_path / "huge.png", Image.new("1", (16_000, 12_000)))
    with pytest.raises(SettingError, match="too many pixels"):
        PictureTarget.open(huge)


def test_the_same_file_has_the_same_fingerprint(tmp_path: Path) -> None:
    red, blue = (saved(tmp_path / f"{c}.png", Image.new("RGB", (9, 9), c)) for c in ("red", "blue"))
    assert PictureTarget.open(red).fingerprint == PictureTarget.open(red).fingerprint
    assert PictureTarget.open(red).fingerprint != PictureTarget.open(blue).fingerprint


def test_a_latent_target_is_a_picture_of_the_generator() -> None:
    latent = PACK.latents.sample(1, torch.Generator().manual_seed(7))
    assert torch.equal(LatentTarget(PACK, 7).picture(24, 24), PACK.generate(latent, 24)[0])
