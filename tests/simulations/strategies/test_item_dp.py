import dataclasses
import math
import pickle

import pytest
import torch
from opacus import GradSampleModule  # type: ignore[import-untyped]
from opacus.optimizers import DPOptimizer  # type: ignore[import-untyped]
from scipy.stats import kstest  # type: ignore[import-untyped]

from client.likelihood import Evidence
from common.errors import SettingError
from common.prior import PopulationPrior
from common.privacy import accounting
from common.privacy.settings import PrivacySettings
from simulations.crowd import Items
from simulations.strategies.base import State, Task
from simulations.strategies.device_noise import DeviceNoise
from simulations.strategies.item_dp import ItemDp

T, D = 12, 6
PROMISE = PrivacySettings(epsilon=4.0, participations=3, expected_people=10, minimum_people=1)


def evidence(people: int = 1) -> Evidence:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(people, T, 1, D, generator=generator, dtype=torch.float64)
    x[..., -1] = 1
    kind = torch.zeros(people, T, dtype=torch.int64)
    value = torch.randint(0, 2, kind.shape, generator=generator)
    return Evidence(kind, value, torch.ones(people, T, dtype=torch.float64), x, kind + 1)


def state(learner: ItemDp) -> State:
    items = Items(torch.zeros(1, 3), torch.zeros(1, D - 1))
    flat = PopulationPrior.flat(3, "a" * 64)
    begun = learner.start(Task(items=items, flat=flat, rounds=3, ratings=T))
    return {**begun, "weights": torch.linspace(-1, 1, D, dtype=torch.float64)}


@pytest.mark.filterwarnings("ignore")  # Opacus' hooks
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("bound", [0.5, 100.0])
def test_one_person_takes_the_steps_of_opacus(steps: int, bound: float) -> None:
    learner = ItemDp(rating_bound=bound, steps=steps, rate=0.3)
    begun, said = state(learner), evidence()
    layer = torch.nn.Linear(D, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(begun["weights"][None])
    model = GradSampleModule(layer)
    optimizer = DPOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.3),
        noise_multiplier=0.0,
        max_grad_norm=bound,
        expected_batch_size=T,
    )
    for _ in range(steps):
        optimizer.zero_grad()
        scores = model(said.features[0, :, 0])[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, said.value[0].double())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    change = learner.updates(said, begun)[0]
    assert torch.allclose(begun["weights"] + change, layer.weight.detach()[0], rtol=0, atol=1e-6)
    unclipped = dataclasses.replace(learner, rating_bound=1e6).updates(said, begun)[0]
    assert (float((change - unclipped).abs().max()) > 1e-2) is (bound == 0.5)


def test_the_noise_of_a_step_has_the_accounted_law() -> None:
    learner = ItemDp(promise=PROMISE, steps=1, rate=0.3, rating_bound=0.7, noise=DeviceNoise(seed=1))
    people = 2_000
    said = evidence(people)
    noise = (
        learner.updates(said, state(learner))
        - ItemDp(steps=1, rate=0.3, rating_bound=0.7).updates(said, state(learner))
    ).flatten()
    multiplier = accounting.noise_multiplier(4.0, PROMISE.delta, 3)
    sigma = 0.3 * multiplier * 0.7 / T
    for wrong, accepted in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        assert bool(kstest(noise.numpy() / (sigma * wrong), "norm").pvalue > 1e-4) is accepted


def test_more_local_steps_cost_more_noise_and_the_claim_is_about_a_rating() -> None:
    one, four = (ItemDp(promise=PROMISE, steps=steps) for steps in (1, 4))
    assert four.multiplier == pytest.approx(2 * one.multiplier, rel=1e-6)
    claim = four.statement(D, 3)
    assert claim.unit.startswith("one rating, not one person")
    assert claim.participations == 12
    assert accounting.epsilon(four.multiplier, 12, PROMISE.delta) == pytest.approx(4.0, rel=1e-6)
    assert claim.epsilon == 4.0
    assert ItemDp().statement(D, 3).epsilon == math.inf
    assert ItemDp(promise=PROMISE).statement(D, 0).epsilon == 0


def test_processes_never_share_noise() -> None:
    copies = [pickle.loads(pickle.dumps(DeviceNoise())) for _ in range(2)]
    assert not torch.equal(copies[0].like(torch.zeros(5)), copies[1].like(torch.zeros(5)))
    with pytest.raises(SettingError, match="fixed seed"):
        pickle.dumps(DeviceNoise(seed=1))


def test_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(SettingError, match="rating_bound=0"):
        ItemDp(rating_bound=0)
