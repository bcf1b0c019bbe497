"""Training a flow on true shapes, in steps that can be kept and gone on from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from client.flows.coupling import pair
from client.flows.network import NetworkSettings, PointFlow
from client.flows.rectified import flow_loss
from client.flows.shapes import ShapeSettings, sample_shapes
from common.errors import SettingError

_WARM = 100  # steps until the learning rate is reached
_AHEAD = 4  # batches that are drawn and paired together; more of them to choose from make straighter lines
_AVERAGE, _WEIGHT, _FIRST, _SECOND = "average.", "weight.", "first.", "second."


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a flow is trained; the same settings on the same kind of device give the same flow.

    Attributes:
        shapes: law of the shapes.
        network: size of the network.
        steps: of Adam (Kingma and Ba 2015), >= 1.
        batch: shapes in a step, >= 2.
        learning_rate: at its highest; it rises over the first 100 steps and falls as a cosine to nothing.
        averaging: weight of each step in the average of the networks that is the result, 0 to 1.
        seed: of the first weights, the shapes and the noise.
    """

    shapes: ShapeSettings = field(default_factory=ShapeSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    steps: int = 6000
    batch: int = 48
    learning_rate: float = 3e-3
    averaging: float = 0.005
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2:
            raise SettingError(f"steps={self.steps} must be >= 1 and batch={self.batch} >= 2; try 6000 and 48")
        if not 0 < self.learning_rate < math.inf:
            raise SettingError(f"learning_rate={self.learning_rate} must be > 0; try 0.003")
        if not 0 < self.averaging <= 1:
            raise SettingError(f"averaging={self.averaging} must lie between 0 and 1; try 0.005")
        if not 0 <= self.seed < 2**63:
            raise SettingError(f"seed={self.seed} must lie between 0 and 2^63 - 1; try 0")


class Training:
    """A flow that is being trained.

    Guarantee: training that is kept with `state` after a multiple of four steps and gone on with `resume` ends with
    the same weights as training that was never interrupted.

    Attributes:
        step: steps done.
        losses: flow-matching loss of each of them.
    """

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        """Start from random weights."""
        self.settings, self.device = settings, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self._network = PointFlow(settings.network).to(device)
            self._average = PointFlow(settings.network).to(device).requires_grad_(False)
        self._average.load_state_dict(self._network.state_dict())
        self._descent = torch.optim.Adam(self._network.parameters(), settings.learning_rate, betas=(0.9, 0.99))
        self._generator = torch.Generator(device).manual_seed(settings.seed)
        self._ahead: list[tuple[Tensor, Tensor]] = []
        self.step, self.losses = 0, list[float]()

    @property
    def done(self) -> bool:
        """Whether all steps are made."""
        return self.step >= self.settings.steps

    @property
    def flow(self) -> PointFlow:
        """The average of the networks, which draws better shapes than the last of them."""
        return self._average

    def advance(self) -> float:
        """Make one step.

        Returns:
            Its loss.

        Raises:
            SettingError: the loss is no longer finite.
        """
        noise, clouds = self._batch()
        time = torch.rand(len(noise), generator=self._generator, device=self.device)
        for group in self._descent.param_groups:
            group["lr"] = self._rate()
        loss = flow_loss(self._network, noise, clouds, time)
        self._descent.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._descent.step()
        for average, weight in zip(self._average.parameters(), self._network.parameters(), strict=True):
            # so long as the steps are few the average is a plain one, so that it does not hold on to the first weights
            average.lerp_(weight.detach(), max(self.settings.averaging, 1 / (self.step + 1)))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise SettingError(
                f"the loss of step {self.step} is {value}; try a lower rate than {self.settings.learning_rate}"
            )
        self.losses.append(value)
        self.step += 1
        return value

    def state(self) -> dict[str, Tensor]:
        """Everything `resume` needs, on the CPU."""
        kept = {_AVERAGE + name: value for name, value in self._average.state_dict().items()}
        for name, weight in self._network.named_parameters():
            kept[_WEIGHT + name] = weight.detach()
            moments = self._descent.state.get(weight, {})
            kept[_FIRST + name] = moments.get("exp_avg", torch.zeros_like(weight))
            kept[_SECOND + name] = moments.get("exp_avg_sq", torch.zeros_like(weight))
        kept["generator"] = self._generator.get_state()
        kept["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        return {name: value.cpu().clone().contiguous() for name, value in kept.items()}

    @classmethod
    def resume(cls, settings: TrainSettings, device: torch.device, state: Mapping[str, Tensor]) -> Training:
        """Go on from a `state` of the same settings.

        Raises:
            KeyError, RuntimeError, ValueError: the state is not of these settings.
        """
        training = cls(settings, device)
        training.losses = state["losses"].tolist()
        training.step = len(training.losses)
        training._average.load_state_dict(_under(_AVERAGE, state))
        training._network.load_state_dict(_under(_WEIGHT, state))
        for name, weight in training._network.named_parameters():
            training._descent.state[weight] = {
                "step": torch.tensor(float(training.step)),
                "exp_avg": state[_FIRST + name].to(device),
                "exp_avg_sq": state[_SECOND + name].to(device),
            }
        training._generator.set_state(state["generator"])
        return training

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Noises and the shapes they shall become, ``(batch, points, 3)`` each."""
        if not self._ahead:
            n = _AHEAD * self.settings.batch
            clouds, _ = sample_shapes(n, self.settings.shapes, self._generator)
            noise = torch.randn(clouds.shape, generator=self._generator, device=self.device)
            paired, _ = pair(noise, clouds)
            self._ahead = list(zip(*(torch.split(each, self.settings.batch) for each in (noise, paired)), strict=True))
        return self._ahead.pop()

    def _rate(self) -> float:
        """Learning rate of the step that comes."""
        wave = 0.5 + 0.5 * math.cos(math.pi * self.step / self.settings.steps)
        return self.settings.learning_rate * min(1.0, (self.step + 1) / _WARM) * wave


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
