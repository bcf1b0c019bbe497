"""Pictures for the browser: small, drawn once, and told apart by what made them."""

import io
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from client.generators.interface import Output
from client.items import Item
from client.web.pictures import Pictures, tag


@dataclass
class Fixed:
    """A generator that draws one size only, and says how often it was asked."""

    manifest: Any = field(default_factory=lambda: SimpleNamespace(resizable=False, output=Output(shape=(3, 300, 200))))
    drawn: list[int] = field(default_factory=list)

    def generate(self, latents: Tensor, size: int | None = None) -> Tensor:
        assert size is None
        self.drawn.append(len(latents))
        return latents[:, :1, None, None].expand(-1, 3, 300, 200).clamp(-1, 1)


def item(number: int, value: float) -> Item:
    return Item(number, torch.full((4,), value), torch.ones(2), lambda id, size: torch.empty(0))


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_a_generator_of_one_size_is_made_small_and_never_large() -> None:
    pictures = Pictures(Fixed())  # type: ignore[arg-type]
    sizes = [opened(pictures.get(item(0, 0.5), kind)).size for kind in ("big", "medium", "small")]
    assert sizes == [(200, 300), (171, 256), (64, 96)]


def test_pictures_are_drawn_together_and_once() -> None:
    generator = Fixed()
    pictures = Pictures(generator)  # type: ignore[arg-type]
    items = [item(number, number / 10) for number in range(3)]
    pictures.prepare(items[:2])
    pictures.prepare(items)
    assert [pictures.get(one, "big") for one in items] == [pictures.get(one, "big") for one in items]
    assert generator.drawn == [2, 1]
    pictures.forget()
    pictures.prepare(items)
    assert generator.drawn == [2, 1, 3]


def test_colours_are_what_was_drawn_even_outside_the_range() -> None:
    for value, level in [(-1.0, 0), (0.0, 128), (1.0, 255), (7.0, 255)]:
        picture = opened(Pictures(Fixed()).get(item(0, value), "big"))  # type: ignore[arg-type]
        assert picture.getpixel((50, 50)) == (level,) * 3


def test_the_same_number_of_another_person_is_another_picture() -> None:
    assert tag(item(0, 0.1).latent) != tag(item(0, 0.2).latent)
    assert tag(item(0, 0.1).latent) == tag(item(9, 0.1).latent)
