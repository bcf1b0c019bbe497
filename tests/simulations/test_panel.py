import pytest
import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from common.errors import PeopleError, SettingError
from simulations.panel import KINDS, Panel
from simulations.people import People, Population
from simulations.yardstick import pictures

PEOPLE, OTHERS = 8, 6


@pytest.fixture(scope="module")
def media() -> Tensor:
    pack = GeneratorPack.open("art")
    return pictures(pack, pack.latents.sample(120, torch.Generator().manual_seed(0)))


def panel(media: Tensor, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> Panel:
    return Panel(
        Population(),
        people=PEOPLE,
        others=OTHERS,
        seed=seed,
        reference=media,
        targets=lambda rows: media[rows],
        kinds=kinds,
    )


def test_kinds_take_turns(media: Tensor) -> None:
    assert panel(media).kinds == [*KINDS, *KINDS]
    assert panel(media, kinds=("target", "ideal")).kinds[:3] == ["target", "ideal", "target"]


def test_the_same_seed_gives_the_same_people_and_another_gives_others(media: Tensor) -> None:
    assert torch.equal(panel(media).utilities(media), panel(media).utilities(media))
    differ = (panel(media).utilities(media) != panel(media, seed=1).utilities(media)).any(1)
    assert bool(differ[torch.tensor([kind != "target" for kind in panel(media).kinds])].all())


def test_those_who_train_are_others_than_those_who_test(media: Tensor) -> None:
    both = panel(media)
    utilities = torch.cat([both.utilities(media), both.utilities_of_others(media)])
    assert utilities.shape == (PEOPLE + OTHERS, len(media))
    assert len(torch.unique(utilities, dim=0)) == PEOPLE + OTHERS


def test_a_target_is_liked_most_by_the_one_who_wants_it(media: Tensor) -> None:
    wanting = panel(media, kinds=("target",))
    assert wanting.utilities(media).argmax(1).tolist() == list(range(PEOPLE))
    assert wanting.utilities_of_others(media).argmax(1).tolist() == list(range(PEOPLE, PEOPLE + OTHERS))


def test_kinds_of_taste_are_what_they_say(media: Tensor) -> None:
    weighted, ideal = (panel(media, kinds=(kind,)).utilities(media) for kind in ("weighted", "ideal"))
    # the same directions: where a linear taste goes on rising, the ideal one has bent down
    bent = torch.stack([ideal[i][weighted[i].argsort()].diff() for i in range(PEOPLE)])
    assert bool((bent[:, :60] > -1e-6).all())
    assert bool((bent < -1e-4).any())


def test_an_unknown_kind_is_named(media: Tensor) -> None:
    with pytest.raises(SettingError, match="'martian' is unknown; choose from weighted"):
        panel(media, kinds=("weighted", "martian"))


class Light(People):
    def __init__(self, count: int) -> None:
        self.count = count

    def utilities(self, media: Tensor) -> Tensor:
        return media.mean((1, 2, 3)).expand(self.count, -1) * torch.arange(1, self.count + 1)[:, None]


def own(*, count: int, seed: int, reference: Tensor) -> People:
    return Light(count)


def lame(*, count: int, seed: int, reference: Tensor) -> People:
    return Light(count - 1)


def test_people_of_a_plug_in_take_part_as_they_are(media: Tensor) -> None:
    with_own = Panel(own, people=3, others=2, seed=0, reference=media, targets=lambda rows: media[rows])
    assert with_own.kinds == ["own"] * 3
    light = media.mean((1, 2, 3))
    torch.testing.assert_close(with_own.utilities(media), torch.stack([light, 2 * light, 3 * light]))
    torch.testing.assert_close(with_own.utilities_of_others(media), torch.stack([4 * light, 5 * light]))


def test_a_plug_in_that_answers_for_too_few_is_refused(media: Tensor) -> None:
    broken = Panel(lame, people=3, others=2, seed=0, reference=media, targets=lambda rows: media[rows])
    with pytest.raises(PeopleError, match=r"\(people, n\) = \(5, 120\)"):
        broken.utilities(media)
