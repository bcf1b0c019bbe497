import operator

import pytest
import torch

from client.generators.pack import GeneratorPack
from client.items import KEPT, Catalogue
from client.lens import Lens
from client.ratings import Best, Choice, Like
from common.errors import SettingError

ART = GeneratorPack.open("art")


def catalogue(n: int) -> Catalogue:
    found = Catalogue(ART, Lens(ART, 4))
    found.add(ART.latents.sample(n, torch.Generator().manual_seed(0)))
    return found


def test_an_item_stands_for_its_number_in_ratings() -> None:
    items = catalogue(4)
    a, b, c = (items[i] for i in range(3))
    assert operator.index(b) == 1
    assert Like(b, True) == Like(1, True)
    assert Choice(a, b, "both") == Choice(0, 1, "both")
    assert Best([a, b, c], 2) == Best((0, 1, 2), 2)
    with pytest.raises(SettingError, match="item 1 twice"):
        Choice(b, b, "a")


def test_pictures_are_drawn_once_and_forgotten_when_there_are_too_many() -> None:
    items = catalogue(KEPT + 20)
    first = items.draw([0, 1], 16)
    assert first.shape == (2, 3, 16, 16)
    torch.testing.assert_close(first[0], ART.generate(items.points.latents[:1], 16)[0])
    assert items[0].picture(16).data_ptr() == items[0].picture(16).data_ptr(), "kept"
    items.draw(list(range(2, KEPT + 20)), 16)
    assert len(items._drawn) == KEPT
    torch.testing.assert_close(items.draw([0, 1], 16), first)


def test_features_follow_what_is_added() -> None:
    items = catalogue(3)
    assert items.points.features.shape == (3, 5)
    added = items.add(torch.zeros(2, 24))
    assert added == [3, 4]
    torch.testing.assert_close(items.points.features[3], items.points.features[4])
    torch.testing.assert_close(items[4].features, Lens(ART, 4)(torch.zeros(1, 24)).features[0])
