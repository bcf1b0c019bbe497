"""Straight lines, their loss, and following a field."""

import math

import pytest
import torch
from torch import Tensor

from client.flows.rectified import SamplerSettings, flow_loss, independent, interpolate, sample
from common.errors import SettingError


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_line_starts_at_the_noise_and_ends_at_the_sample() -> None:
    a, b = noise(3, 4, 2), 5 + noise(3, 4, 2)
    place = interpolate(a, b, torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))
    assert torch.equal(place[0], a[0])
    assert torch.allclose(place[1], 0.75 * a[1] + 0.25 * b[1])
    assert torch.equal(place[2], b[2])


def test_the_loss_of_the_true_field_to_one_sample_is_zero_and_of_another_is_not() -> None:
    goal = torch.full((64, 5), 2.0, dtype=torch.float64)
    time = 0.9 * torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def to_goal(place: Tensor, t: Tensor) -> Tensor:
        return (goal - place) / (1 - t)[:, None]

    assert float(flow_loss(to_goal, noise(64, 5), goal, time)) < 1e-20
    assert float(flow_loss(lambda place, t: to_goal(place, t) + 1, noise(64, 5), goal, time)) == pytest.approx(1)


def test_the_field_between_two_normal_laws_carries_one_to_the_other() -> None:
    """From N(0, 1) to N(3, 0.5^2) the exact field is known; Heun's error falls with the square of the step."""

    def field(place: Tensor, time: Tensor) -> Tensor:
        t = time[:, None]
        variance = (1 - t) ** 2 + 0.25 * t**2
        return 3 + (0.25 * t - (1 - t)) / variance * (place - 3 * t)

    start = noise(1000, 1)
    errors = [float((sample(field, start, SamplerSettings(steps=n)) - (3 + 0.5 * start)).abs().max()) for n in (10, 20)]
    assert errors[1] < 0.02
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.5)


def test_chunks_do_not_matter_and_progress_is_told() -> None:
    told: list[int] = []
    start = noise(10, 2)
    whole = sample(lambda x, t: -x * t[:, None], start)
    parts = sample(lambda x, t: -x * t[:, None], start, SamplerSettings(chunk=4), told.append)
    assert torch.allclose(whole, parts)
    assert told == [4, 8, 10]
    assert sample(lambda x, t: x, start[:0]).shape == (0, 2)


def test_the_usual_pairing_changes_nothing() -> None:
    samples, index = independent(noise(4, 2), noise(4, 2))
    assert torch.equal(samples, noise(4, 2))
    assert index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"chunk": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingError):
        SamplerSettings(**wrong)  # type: ignore[arg-type]


def test_given_times_are_followed_by_eulers_method() -> None:
    start, times = noise(5, 2), (0.0, 0.1, 0.7, 1.0)

    def field(place: Tensor, time: Tensor) -> Tensor:
        return place * time[:, None] + 1

    wanted = start
    for now, after in ((0.0, 0.1), (0.1, 0.7), (0.7, 1.0)):
        wanted = wanted + (after - now) * (wanted * now + 1)
    torch.testing.assert_close(sample(field, start, SamplerSettings(times=times)), wanted)
    assert not torch.allclose(sample(field, start, SamplerSettings(steps=3)), wanted)


@pytest.mark.parametrize("times", [(0.0, 0.5), (0.1, 1.0), (0.0, 0.6, 0.5, 1.0), (0.0, 0.5, 0.5, 1.0)])
def test_times_that_do_not_rise_from_0_to_1_are_refused(times: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="must rise from 0 to 1"):
        SamplerSettings(times=times)
