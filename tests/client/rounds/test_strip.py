import io

import torch
from PIL import Image

from client.rounds.strip import captioned, pair_sheet, png


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_a_png_keeps_every_pixel() -> None:
    picture = torch.randint(0, 256, (3, 9, 7), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    found = torch.tensor(list(opened(png(picture)).convert("RGB").tobytes())).reshape(9, 7, 3).permute(2, 0, 1)
    assert torch.equal(found, ((picture + 1) * 127.5).round().long())


def test_a_strip_has_room_for_all_pictures_and_their_captions() -> None:
    red = torch.tensor([1.0, -1, -1])[:, None, None].expand(3, 60, 60)
    one, three = (opened(captioned([red] * n, [("round 1", "0.5")] * n)) for n in (1, 3))
    assert three.size[0] > 3 * 60 > one.size[0] > 60
    assert one.size[1] == three.size[1] > 60
    pixels = three.convert("RGB")
    assert pixels.getpixel((20, 20)) == pixels.getpixel((three.size[0] - 20, 20)) == (255, 0, 0)
    below = pixels.crop((0, 70, 76, three.size[1])).convert("L").getextrema()
    assert below == (34, 255)


def test_chosen_pictures_have_a_green_frame() -> None:
    a, b = torch.full((2, 2, 3, 10, 10), -1.0)
    sheet = pair_sheet(a, b, torch.tensor([True, False]), torch.tensor([False, False]), border=2)
    assert sheet.shape == (3, 28, 28)
    corners = (sheet[:, 0, 0], sheet[:, 0, -1], sheet[:, -1, 0], sheet[:, -1, -1])
    assert [bool((corner == 1).all()) for corner in corners] == [False, True, True, True]
    assert bool((sheet[:, 2:12, 2:12] == -1).all())
