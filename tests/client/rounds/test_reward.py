import math

import pytest
import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.rounds.reward import (
    ABSOLUTE_WEIGHT,
    BOUND,
    INPUTS,
    REWARDS,
    Inputs,
    Memory,
    Sight,
    climb,
    make_reward,
    preference_loss,
    train,
)
from client.rounds.user import BOTH, NEITHER, A, B
from common.errors import SettingError

PACK = GeneratorPack.open("art")


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def answered(count: int = 80) -> tuple[Memory, Tensor]:
    """Pairs answered by the first component of the latent map, and the direction to it."""
    sight = Sight(PACK, "features")
    a, b = PACK.latents.sample(count, source(1)), PACK.latents.sample(count, source(2))
    answer = torch.where(sight(a)[:, 0] > sight(b)[:, 0], A, B)
    return Memory.empty(24).add(a, b, answer), answer


@pytest.mark.parametrize("inputs", INPUTS)
def test_sight_is_as_wide_as_it_says_and_differentiable(inputs: Inputs) -> None:
    sight = Sight(PACK, inputs)
    latents = PACK.latents.sample(5, source()).requires_grad_()
    seen = sight(latents)
    assert seen.shape == (5, sight.width)
    seen.sum().backward()
    assert latents.grad is not None
    assert float(latents.grad.abs().sum()) > 0
    assert not list(sight.parameters()) or not any(each.requires_grad for each in sight.parameters())


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SettingError, match="inputs='smell'"):
        Sight(PACK, "smell")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="reward='oracle' is unknown; choose one of mlp, linear"):
        make_reward("oracle", 3, source())


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_is_bounded_and_the_seed_decides(name: str) -> None:
    seen = 1e4 * torch.randn(200, 64, generator=source())
    first, second, other = (make_reward(name, 64, source(seed))(seen).detach() for seed in (0, 0, 1))
    assert first.shape == (200,)
    assert float(first.abs().max()) <= BOUND
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_loss_is_the_formula_on_each_answer() -> None:
    r, s = 0.7, -0.4

    def log_sigmoid(x: float) -> float:
        return -math.log1p(math.exp(-x))

    half = -0.5 * (log_sigmoid(r - s) + log_sigmoid(s - r))
    expected = {
        A: -log_sigmoid(r - s),
        B: -log_sigmoid(s - r),
        BOTH: half - ABSOLUTE_WEIGHT * (log_sigmoid(r) + log_sigmoid(s)) / 2,
        NEITHER: half - ABSOLUTE_WEIGHT * (log_sigmoid(-r) + log_sigmoid(-s)) / 2,
    }
    for answer, value in expected.items():
        assert float(preference_loss(torch.tensor([r]), torch.tensor([s]), torch.tensor([answer]))) == pytest.approx(
            value, abs=1e-6
        )
    everything = torch.tensor(list(expected))
    mean = preference_loss(torch.full((4,), r), torch.full((4,), s), everything)
    assert float(mean) == pytest.approx(sum(expected.values()) / 4, abs=1e-6)
    assert float(preference_loss(torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64))) == 0


def test_the_gradient_of_the_loss_is_right() -> None:
    a, b = torch.randn(2, 8, generator=source(), dtype=torch.float64).requires_grad_()
    answer = torch.tensor([A, B, BOTH, NEITHER] * 2)
    assert torch.autograd.gradcheck(lambda x, y: preference_loss(x, y, answer), (a, b))


def test_a_tie_pulls_rewards_together_and_says_good_or_bad() -> None:
    """Two pictures that were called both good come out close and positive; both bad, close and negative."""
    sight = Sight(PACK, "latents")
    a, b = PACK.latents.sample(2, source(3)), PACK.latents.sample(2, source(4))
    for answer, sign in ((BOTH, 1), (NEITHER, -1)):
        model = make_reward("linear", sight.width, source())
        train(model, sight, Memory(a, b, torch.full((2,), answer)), 150, source())
        with torch.no_grad():
            ra, rb = model(a), model(b)
        assert bool((sign * ra > 0).all())
        assert bool((sign * rb > 0).all())
        assert float((ra - rb).abs().max()) < 0.5


@pytest.mark.parametrize("name", REWARDS)
def test_training_learns_answers_it_has_not_seen(name: str) -> None:
    memory, _ = answered()
    sight = Sight(PACK, "features")
    model = make_reward(name, sight.width, source())
    loss = train(model, sight, memory, 30, source())
    assert loss < 0.6 * math.log(2)
    fresh = PACK.latents.sample(400, source(5))
    with torch.no_grad():
        seen = sight(fresh)
        agree = ((model(seen)[:200] > model(seen)[200:]) == (seen[:200, 0] > seen[200:, 0])).float().mean()
    assert float(agree) > 0.68  # five standard deviations above chance


def test_training_on_nothing_changes_nothing() -> None:
    sight = Sight(PACK, "latents")
    model = make_reward("mlp", sight.width, source())
    before = [each.clone() for each in model.parameters()]
    assert train(model, sight, Memory.empty(24), 5, source()) == 0
    assert all(torch.equal(x, y) for x, y in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("angle", [0.01, 0.3, 1.2])
def test_a_climb_raises_the_reward_on_the_shell_within_its_angle(name: str, angle: float) -> None:
    memory, _ = answered()
    sight = Sight(PACK, "features")
    model = make_reward(name, sight.width, source())
    train(model, sight, memory, 10, source())
    for start in PACK.latents.project(PACK.latents.sample(5, source(6))):
        end = climb(model, sight, PACK.latents, start, angle)
        with torch.no_grad():
            before, after = model(sight(torch.stack([start, end])))
        assert float(after) > float(before)
        assert float(end.norm()) == pytest.approx(PACK.latents.radius, rel=1e-5)
        assert float(torch.cosine_similarity(start, end, dim=0).clamp(max=1).acos()) <= angle + 2e-3


def test_a_climb_without_a_slope_stays() -> None:
    sight = Sight(PACK, "latents")
    model = make_reward("linear", sight.width, source())
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
    start = PACK.latents.project(PACK.latents.sample(1, source()))[0]
    assert torch.allclose(climb(model, sight, PACK.latents, start, 1.0), start)
