"""Training lowers the loss, can be repeated, and goes on as if it had never stopped."""

from dataclasses import replace

import pytest
import torch

from client.flows.network import NetworkSettings
from client.flows.shapes import ShapeSettings
from client.flows.training import Training, TrainSettings
from common.errors import SettingError

SMALL = TrainSettings(
    shapes=ShapeSettings(points=24), network=NetworkSettings(width=24, blocks=2), steps=120, batch=16, seed=1
)
CPU = torch.device("cpu")


def trained(settings: TrainSettings, steps: int | None = None) -> Training:
    training = Training(settings, CPU)
    while training.step < (settings.steps if steps is None else steps):
        training.advance()
    return training


def test_the_loss_falls_by_a_quarter() -> None:
    """Without learning it stays what it is: see the rate of nearly nothing."""
    learned, idle = trained(SMALL), trained(replace(SMALL, learning_rate=1e-9), 30)
    assert sum(learned.losses[-20:]) / 20 < 0.75 * sum(learned.losses[:5]) / 5
    assert sum(idle.losses[-20:]) / 20 > 0.9 * sum(idle.losses[:5]) / 5


def test_training_that_stopped_ends_with_the_same_weights() -> None:
    settings = replace(SMALL, steps=24)
    whole, part = trained(settings), trained(settings, 12)
    gone_on = Training.resume(settings, CPU, part.state())
    assert gone_on.step == 12
    while not gone_on.done:
        gone_on.advance()
    assert gone_on.losses == whole.losses
    for name, value in whole.state().items():
        assert torch.equal(value, gone_on.state()[name]), name


def test_another_seed_is_another_flow() -> None:
    assert trained(SMALL, 4).losses != trained(replace(SMALL, seed=2), 4).losses


def test_the_default_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    Training(SMALL, CPU)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_rate_that_breaks_it_is_named() -> None:
    with pytest.raises(SettingError, match="try a lower rate"):
        trained(replace(SMALL, learning_rate=1e30))


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"batch": 1}, {"learning_rate": 0.0}, {"averaging": 2.0}, {"seed": -1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        TrainSettings(**wrong)  # type: ignore[arg-type]
