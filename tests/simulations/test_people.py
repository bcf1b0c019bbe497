import pytest
import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.ratings import Kind
from common.errors import PeopleError, SettingError
from simulations.people import AnswerNoise, Judge, Population, closeness, judged, load_factory


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    pack = GeneratorPack.open("art")
    return (pack.generate(pack.latents.sample(400, torch.Generator().manual_seed(0)), size=32) + 1) / 2


def standard(utilities: Tensor) -> Tensor:
    return (utilities - utilities.mean(1, keepdim=True)) / utilities.std(1, keepdim=True)


def likeness(pictures: Tensor, shared: float) -> float:
    """Mean correlation of the tastes of two people with something in common at best."""
    people = Population(shared=shared, archetypes=1, ideal=0, two_peaked=0)(count=60, seed=1, reference=pictures)
    u = standard(people.utilities(pictures))
    correlation = u @ u.T / u.shape[1]
    return float(correlation[~torch.eye(60, dtype=torch.bool)].mean())


def test_the_dial_sets_how_much_people_share(pictures: Tensor) -> None:
    nothing, half, everything = (likeness(pictures, shared) for shared in (0.0, 0.5, 1.0))
    assert abs(nothing) < 0.15
    assert 0.2 < half < 0.9
    assert everything > 0.99


def test_what_somebody_likes_does_not_depend_on_the_other_pictures(pictures: Tensor) -> None:
    people = Population()(count=10, seed=2, reference=pictures)
    together, apart = people.utilities(pictures[:40]), people.utilities(pictures[7:8])
    torch.testing.assert_close(together[:, 7:8], apart, atol=1e-4, rtol=1e-4)


def test_a_seed_decides_who_people_are(pictures: Tensor) -> None:
    first, same, other = (Population()(count=5, seed=s, reference=pictures).utilities(pictures) for s in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


def test_ideal_points_are_passed_by_going_too_far() -> None:
    """Utility of an ideal-point person falls beyond the ideal; a person who weighs factors never tires of more."""
    near, ideal, beyond = closeness(torch.tensor([0.0, 2.0, 4.0])).tolist()
    assert ideal > near
    assert ideal > beyond


def test_factors_are_standard_and_see_symmetry(pictures: Tensor) -> None:
    judge = Judge(pictures)
    factors = judge.factors(pictures)
    assert factors.shape == (400, 32)
    assert float(factors.mean(0).abs().max()) < 0.2
    half = pictures[:50, :, :, :16]
    mirrored = torch.cat([half, half.flip(3)], dim=3)
    assert float(judge.factors(mirrored)[:, 7].min()) >= float(factors[:, 7].max()) - 1e-5


class Broken:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def utilities(self, media: Tensor) -> Tensor:
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(3, 4), r"expected a tensor of shape \(people, n\) = \(2, 4\)"),
        ([[0.0]], "list"),
        (
            torch.tensor([[0.0, 1, 2, 3], [0.0, torch.nan, 2, 3]]),
            "1 of 8 utilities are NaN or infinite, first for person 1",
        ),
        (torch.full((2, 4), torch.inf), "8 of 8"),
    ],
)
def test_a_plug_in_that_answers_nonsense_is_told_so(answer: object, message: str) -> None:
    with pytest.raises(PeopleError, match=message):
        judged(Broken(answer), torch.zeros(4, 3, 32, 32), 2)


@pytest.mark.parametrize("reference", ["no_such_module:x", "simulations.people:nobody", "simulations.people", ""])
def test_a_plug_in_that_cannot_be_loaded_is_named(reference: str) -> None:
    with pytest.raises(PeopleError):
        load_factory(reference)


@pytest.mark.parametrize("bad", [{"shared": 1.5}, {"archetypes": 0}, {"ideal": 0.8, "two_peaked": 0.3}])
def test_impossible_populations_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        Population(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(Kind))
def test_better_items_get_better_answers(kind: Kind) -> None:
    generator = torch.Generator().manual_seed(5)
    good_first = torch.tensor([2.0, -2.0, -2.0, -2.0]).expand(500, 1, 4)
    bad_first = -good_first
    noise = AnswerNoise()
    levels = noise.levels(500, generator)
    good, bad = (noise.answer(kind, u, levels, generator).float() for u in (good_first, bad_first))
    if kind in (Kind.LIKE, Kind.STARS):
        assert good.mean() > bad.mean() + 0.5
    elif kind == Kind.WORST:
        assert (bad == 0).float().mean() > 0.9 > 0.2 > (good == 0).float().mean()
    else:
        assert (good == 0).float().mean() > 0.9 > 0.2 > (bad == 0).float().mean()


def test_asked_again_people_agree_with_themselves_as_often_as_said() -> None:
    generator = torch.Generator().manual_seed(6)
    noise = AnswerNoise()
    utilities, levels = torch.randn(20_000, 1, 1, generator=generator), noise.levels(20_000, generator)
    first, again = (noise.answer(Kind.LIKE, utilities, levels, generator) for _ in range(2))
    assert 0.75 < float((first == again).float().mean()) < 0.81
