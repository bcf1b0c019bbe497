"""Flows of other kinds as one: on laws whose velocity is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from client.flows.checkpoint import open_checkpoint
from client.flows.model import Diffusion, FlowModel, Reversed, of_checkpoint, of_training
from client.flows.rectified import SamplerSettings
from client.generators.training.course import Course, TrainingSettings
from common.errors import SettingError

MEAN, DEVIATION = 1.5, 0.4
LEVELS = torch.linspace(0.005, math.pi / 2 - 0.005, 400, dtype=torch.float64).cos().square()
TIMES = torch.tensor([0.1, 0.3, 0.5, 0.8, 0.95])
PLACES = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def exact(place: Tensor, time: Tensor) -> Tensor:
    """E[x_1 - x_0 | x_t] for samples N(MEAN, DEVIATION^2)."""
    t = time[:, None]
    variance = (1 - t).square() + (t * DEVIATION).square()
    return MEAN + (t * DEVIATION**2 - (1 - t)) / variance * (place - t * MEAN)


class Predicts(nn.Module):
    """What a perfect diffusion model of that law predicts; told times between levels it knows what is between."""

    def __init__(self, prediction: str) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, y: Tensor, told: Tensor) -> Tensor:
        roots = LEVELS.sqrt()
        low = told.double().floor().long().clamp(max=len(LEVELS) - 2)
        share = told.double() - low
        ends = roots / (roots + (1 - LEVELS).sqrt())
        t = (ends[low] + share * (ends[low + 1] - ends[low]))[:, None].float()
        a, b = t / (t.square() + (1 - t).square()).sqrt(), (1 - t) / (t.square() + (1 - t).square()).sqrt()
        noise = b * (y - a * MEAN) / (b.square() + (a * DEVIATION).square())
        sample = (y - b * noise) / a
        return {"epsilon": noise, "sample": sample, "v_prediction": a * noise - b * sample}[self.prediction]


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_diffusion_model_becomes_the_flow_of_the_same_law(prediction: str) -> None:
    velocity = Diffusion(Predicts(prediction), LEVELS, prediction)
    torch.testing.assert_close(velocity(PLACES, TIMES), exact(PLACES, TIMES), rtol=2e-3, atol=2e-3)
    flow = FlowModel(velocity=velocity, shape=(3,), sampler=SamplerSettings(steps=40, chunk=4000))
    drawn = flow.draw(flow.noise(4000, torch.Generator().manual_seed(1)))
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(drawn.std()) == pytest.approx(DEVIATION, abs=0.03)


def test_a_flow_that_runs_the_other_way_is_turned_round() -> None:
    class Backwards(nn.Module):
        def forward(self, place: Tensor, time: Tensor) -> Tensor:
            return -exact(place, 1 - time / 1000)

    torch.testing.assert_close(Reversed(Backwards(), 1000.0)(PLACES, TIMES), exact(PLACES, TIMES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("space", ["pixels", "vae"])
def test_a_trained_generator_draws_what_its_pack_draws(space: str) -> None:
    course = Course(TrainingSettings(kind="flow", space=space, side=16, dimension=6, width=8, sampler=60)).eval()
    with torch.no_grad():
        for weight in course.velocity.last.parameters():  # type: ignore[union-attr]
            weight.mul_(0.1)  # random weights far from straight lines
        flow = of_training(course)
        noise = flow.noise(3, torch.Generator().manual_seed(0))
        wanted = course.network()(noise.flatten(1))
        found = flow.media(flow.draw(noise))
    assert found.shape == (3, 3, 16, 16)
    assert float((found - wanted).abs().max()) < 0.02 * float(wanted.abs().max())


def test_the_toy_is_one_and_a_vae_alone_is_not() -> None:
    flow = of_checkpoint(open_checkpoint())
    assert flow.shape == (64, 3)
    assert flow.device == torch.device("cpu")
    assert flow.draw(flow.noise(2, torch.Generator().manual_seed(0))).shape == (2, 64, 3)
    with pytest.raises(SettingError, match="--kind flow"):
        of_training(Course(TrainingSettings(kind="vae", side=16, width=8)))


@pytest.mark.parametrize(
    ("levels", "prediction"), [(LEVELS, "score"), (LEVELS.flip(0), "epsilon"), (LEVELS[:1], "epsilon")]
)
def test_impossible_diffusion_models_are_refused(levels: Tensor, prediction: str) -> None:
    with pytest.raises(SettingError):
        Diffusion(nn.Identity(), levels, prediction)
