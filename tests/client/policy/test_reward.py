import pytest
import torch
from torch import Tensor

from client.classifiers.base import Beliefs, IndependentBeliefs, Points, Taste
from client.generators.pack import GeneratorPack
from client.policy.reward import MediaReward, Mixed, Part, Scaled, TasteReward, Typical
from common.errors import OutOfMemory, RewardError, SettingError
from tests.client.policy.known import DIRECTION, SPACE, Along, Of


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_reward_is_put_to_deviations_over_the_generators_own_items() -> None:
    scaled = Scaled.measure(Of(lambda z: 5 + 3 * z @ DIRECTION), SPACE, generator())
    values = scaled(SPACE.sample(20_000, torch.Generator().manual_seed(9)))
    assert float(values.mean()) == pytest.approx(0, abs=0.05)
    assert float(values.std()) == pytest.approx(1, abs=0.05)


def boom(latents: Tensor) -> Tensor:
    raise ZeroDivisionError("nothing here")


def full(latents: Tensor) -> Tensor:
    raise MemoryError


@pytest.mark.parametrize(
    ("reward", "error", "message"),
    [
        (lambda z: torch.full((len(z),), 2.5), RewardError, "the reward is 2.5 for all of 2048 items"),
        (lambda z: z[:, 0].where(z[:, 0] < 2, torch.nan), RewardError, "NaN or infinite for [0-9]+ of 2048 items"),
        (lambda z: z, RewardError, r"answered with \(2048, 6\); expected a tensor of shape \(2048,\)"),
        (lambda z: 3.0, RewardError, "answered with float"),
        (boom, RewardError, "raised ZeroDivisionError: nothing here"),
        (full, OutOfMemory, "do not fit in memory; take a smaller batch"),
    ],
    ids=["constant", "nan", "shape", "number", "raises", "memory"],
)
def test_a_reward_that_cannot_be_learned_from_is_refused(reward: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Scaled.measure(Of(reward), SPACE, generator())  # type: ignore[arg-type]


def test_parts_are_mixed_by_their_weights_after_scaling() -> None:
    one, other = Of(lambda z: 100 * z[:, 0]), Of(lambda z: 7 - z[:, 1])
    mixed = Mixed([Part(reward=one, weight=2), Part(reward=other, weight=-1)], SPACE, generator())
    latents = SPACE.sample(50, torch.Generator().manual_seed(2))
    expected = 2 * latents[:, 0] + latents[:, 1]
    assert float((mixed(latents) - expected).abs().max()) < 0.3  # means and deviations are those of a sample
    assert torch.corrcoef(torch.stack([mixed(latents), expected]))[0, 1] > 0.999


def test_a_sparse_part_pays_only_above_its_level() -> None:
    latents = torch.zeros(3, 6)
    latents[:, 0] = torch.tensor([-1.0, 1.9, 2.5])
    first = Of(lambda z: z[:, 0])
    step = Mixed([Part(reward=first, above=2.0, width=0)], SPACE, generator())
    smooth = Mixed([Part(reward=first, above=2.0, width=0.25)], SPACE, generator())
    assert step(latents).tolist() == [0, 0, 1]
    assert not step.differentiable
    assert smooth.differentiable
    assert float(smooth(latents)[0]) < 0.01
    assert float(smooth(latents)[2]) > 0.7


def test_a_mixture_with_a_black_box_is_one() -> None:
    parts = [Part(reward=Along()), Part(reward=Along(differentiable=False))]
    assert not Mixed(parts, SPACE, generator()).differentiable
    with pytest.raises(SettingError, match="needs a part whose weight is not 0"):
        Mixed([Part(reward=Along(), weight=0)], SPACE, generator())
    with pytest.raises(SettingError, match="width=-1"):
        Part(reward=Along(), width=-1)


class Believes(Taste):
    """Expects the first number of a latent times a factor, with one deviation everywhere."""

    def __init__(self, factor: float, deviation: float) -> None:
        self.factor, self.deviation = factor, deviation

    def score(self, points: Points) -> Tensor:
        return self.factor * points.latents[:, 0].double()

    def over(self, points: Points) -> Beliefs:
        mean = self.score(points)[None]
        return IndependentBeliefs(mean, torch.full_like(mean, self.deviation))


def look(latents: Tensor) -> Points:
    return Points(latents, torch.cat([latents, torch.ones(len(latents), 1)], 1))


def test_a_cautious_reward_falls_where_a_model_is_unsure_or_the_ensemble_disagrees() -> None:
    latents = torch.tensor([[0.0], [2.0]])
    trusting = TasteReward(look, Believes(1, 3), [Believes(9, 0)], caution=0)
    unsure = TasteReward(look, Believes(1, 3), caution=0.5)
    torn = TasteReward(look, Believes(1, 3), [Believes(3, 0), Believes(-1, 0)], caution=0.5)
    assert trusting(latents).tolist() == [0, 2]
    assert unsure(latents).tolist() == pytest.approx([-1.5, 0.5])
    assert torn(latents).tolist() == pytest.approx([-1.5, 2 - 0.5 * (9 + 16) ** 0.5])
    with pytest.raises(SettingError, match="caution=-1"):
        TasteReward(look, Believes(1, 1), caution=-1)


def test_items_that_are_too_extreme_cost_as_much_as_they_are() -> None:
    typical = Typical(look, lambda points: points.latents[:, 0])
    assert typical(torch.tensor([[0.2], [1.0], [3.0]])).tolist() == [0, 0, -2]


def test_any_function_of_the_media_is_a_reward() -> None:
    pack = GeneratorPack.open("art")
    bright = MediaReward(pack, lambda pictures: pictures.mean((1, 2, 3)), size=16)
    latents = pack.latents.sample(3, generator())
    assert torch.allclose(bright(latents), pack.generate(latents, size=16).mean((1, 2, 3)))
    wide = torch.cat([torch.zeros(3, 2), latents], 1)
    part = MediaReward(pack, lambda pictures: pictures.mean((1, 2, 3)), size=16, columns=slice(2, None))
    assert torch.equal(part(wide), bright(latents))
    assert not bright.differentiable
