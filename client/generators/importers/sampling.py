"""Deterministic samplers of diffusion and rectified-flow models as fixed steps, each linear but for one cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from client.generators.importers.diffusers_folder import library
from common.errors import SettingError, UnreadableModel

MOST_STEPS = 200
NUMBERS = 8
"""Numbers that make up a step."""
_FLOW = "FlowMatchEulerDiscreteScheduler"
_PREDICTIONS = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step from ``x`` with the network's answer ``o`` at ``time``.

    The predicted picture ``clean[0] x + clean[1] o`` (cut at ``limit``) and the predicted noise
    ``noise[0] x + noise[1] o`` are mixed anew: ``mix[0] picture + mix[1] noise``.

    Attributes:
        time: what the network is told.
        clean: of the predicted picture.
        noise: of the predicted noise.
        mix: of the next ``x``.
        limit: largest absolute value of a predicted picture; 0 for none.
    """

    time: float
    clean: tuple[float, float]
    noise: tuple[float, float]
    mix: tuple[float, float]
    limit: float = 0.0

    @property
    def numbers(self) -> tuple[float, ...]:
        """All of it, ``NUMBERS`` of them, as `Denoised.step` takes them."""
        return (self.time, *self.clean, *self.noise, *self.mix, self.limit or torch.finfo(torch.float32).max)


def flow_steps(sigmas: list[float], times: list[float]) -> tuple[Step, ...]:
    """Euler's method on ``dx / dsigma = o``, from noise at ``sigmas[0] = 1`` to the picture at ``sigmas[-1] = 0``.

    With ``x = (1 - sigma) picture + sigma noise`` and ``o = noise - picture`` (Liu, Gong and Liu 2023, equation 1, with
    time reversed), a step to the next sigma mixes the same two predictions, which is ``x + (next - sigma) o``.

    Args:
        sigmas: one more than there are steps, falling.
        times: what the network is told at each.
    """
    pairs = zip(times, sigmas[:-1], sigmas[1:], strict=True)
    return tuple(
        Step(time=time, clean=(1.0, -sigma), noise=(1.0, 1 - sigma), mix=(1 - after, after))
        for time, sigma, after in pairs
    )


def ddim_step(time: float, alpha: float, after: float, prediction: str, limit: float = 0.0) -> Step:
    """A step of DDIM (Song, Meng and Ermon 2021, equation 12, sigma 0).

    Args:
        time: what the network is told.
        alpha: cumulative product of alphas now, in (0, 1).
        after: the same after the step, in (0, 1].
        prediction: what the network answers with, of ``epsilon``, ``sample`` and ``v_prediction``.
        limit: see `Step`.

    Raises:
        UnreadableModel: another prediction.
    """
    root, rest = alpha**0.5, (1 - alpha) ** 0.5
    found = {
        "epsilon": ((1 / root, -rest / root), (0.0, 1.0)),
        "sample": ((0.0, 1.0), (1 / rest, -root / rest)),
        "v_prediction": ((root, -rest), (rest, root)),
    }
    if prediction not in found:
        raise UnreadableModel(f"the scheduler predicts {prediction[:40]!r}; known: {', '.join(_PREDICTIONS)}")
    clean, noise = found[prediction]
    return Step(time=time, clean=clean, noise=noise, mix=(after**0.5, (1 - after) ** 0.5), limit=limit)


def steps_of(config: Mapping[str, Any], count: int) -> tuple[Step, ...]:
    """The steps of a pipeline's scheduler: Euler for flow matching, DDIM with the same noise levels for the others.

    Args:
        config: of ``scheduler_config.json``.
        count: steps, from 1 to `MOST_STEPS`.

    Raises:
        SettingError: an impossible count.
        UnreadableModel: a scheduler with settings that have no deterministic steps here.
    """
    if not 1 <= count <= MOST_STEPS:
        raise SettingError(f"--set steps={count} must lie between 1 and {MOST_STEPS}; try 20")
    name = str(config.get("_class_name", ""))
    if bad := [each for each in ("thresholding", "use_dynamic_shifting", "stochastic_sampling") if config.get(each)]:
        raise UnreadableModel(f"scheduler {name[:60]} uses {bad[0]}, which has no fixed steps; replace the scheduler")
    try:
        return _flow(config, count) if name == _FLOW else _ddim(config, count)
    except (TypeError, ValueError, KeyError, NotImplementedError) as error:
        raise UnreadableModel(f"scheduler {name[:60]} cannot be read with {count} steps: {error}") from error


def _flow(config: Mapping[str, Any], count: int) -> tuple[Step, ...]:
    scheduler = library("diffusers").FlowMatchEulerDiscreteScheduler.from_config(dict(config))
    scheduler.set_timesteps(count)
    return flow_steps(scheduler.sigmas.double().tolist(), scheduler.timesteps.double().tolist())


def _ddim(config: Mapping[str, Any], count: int) -> tuple[Step, ...]:
    scheduler = library("diffusers").DDIMScheduler.from_config(_shared(config))
    scheduler.set_timesteps(count)
    levels, stride = scheduler.alphas_cumprod.double(), scheduler.config.num_train_timesteps // count
    limit = float(scheduler.config.clip_sample_range) if scheduler.config.clip_sample else 0.0
    steps = []
    for time in scheduler.timesteps.tolist():
        after = levels[time - stride] if time >= stride else scheduler.final_alpha_cumprod
        steps.append(ddim_step(float(time), float(levels[time]), float(after), scheduler.config.prediction_type, limit))
    return tuple(steps)


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """What every diffusion scheduler means alike; the rest is how it takes steps."""
    names = (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "prediction_type",
        "clip_sample",
        "clip_sample_range",
        "set_alpha_to_one",
        "steps_offset",
        "timestep_spacing",
        "rescale_betas_zero_snr",
    )
    shared = {"clip_sample": False, **{name: config[name] for name in names if name in config}}
    if config.get("_class_name") in ("DDIMScheduler", "DDPMScheduler"):
        shared["clip_sample"] = config.get("clip_sample", True)  # the others know no such cut
    return shared


class Denoised(nn.Module):
    """Noise to medium by fixed steps of a network, a deterministic map of the latent.

    Args:
        network: ``(n, *shape)``, times ``(n,)`` and further inputs to an answer ``(n, *shape)``.
        steps: in order.
        shape: of one latent.
        decoder: from the last ``x`` to the medium; None where it is the medium.
        guidance: weight of classifier-free guidance (Ho and Salimans 2022, equation 6, as ``1 + w``); 1 for none.
        negative: the further input of the unguided half, ``(1, ...)``.
        checkpointing: recompute each step, and the decoder, in the backward pass instead of keeping it: memory of one
            of them, a forward pass more of time. Only matters where gradients are asked for.
    """

    def __init__(
        self,
        network: nn.Module,
        steps: tuple[Step, ...],
        shape: tuple[int, ...],
        decoder: nn.Module | None = None,
        *,
        guidance: float = 1.0,
        negative: Tensor | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.shape = network, shape
        self.decoder = decoder or nn.Identity()
        self.guidance, self.checkpointing = guidance, checkpointing
        self.register_buffer("negative", negative)
        self.register_buffer("steps", torch.tensor([step.numbers for step in steps]))

    def forward(self, latent: Tensor, *others: Tensor) -> Tensor:
        """Media of latents ``(n, d)``."""
        x = latent.reshape(-1, *self.shape)
        for numbers in self.get_buffer("steps"):
            x = self._kept(self.step, x, numbers, *others)
        return self._kept(self.decoder, x)

    def step(self, x: Tensor, numbers: Tensor, *others: Tensor) -> Tensor:
        """The next ``x``, by the ``(NUMBERS,)`` numbers of a `Step`."""
        answer = self._answer(x, numbers[:1], *others)
        picture = numbers[1] * x + numbers[2] * answer
        picture = torch.minimum(torch.maximum(picture, -numbers[7]), numbers[7])
        return numbers[5] * picture + numbers[6] * (numbers[3] * x + numbers[4] * answer)

    def _kept(self, part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """The result of a part, of which only the inputs are kept for the backward pass where that is wanted."""
        if self.checkpointing and torch.is_grad_enabled():
            made: Tensor = checkpoint(part, *inputs, use_reentrant=False)
            return made
        return part(*inputs)

    def _answer(self, x: Tensor, time: Tensor, *others: Tensor) -> Tensor:
        times = time.expand(x.shape[0])
        within: Tensor = self.network(x, times, *others)
        if self.guidance == 1.0:
            return within
        negative = self.get_buffer("negative").expand(x.shape[0], -1, -1)
        without: Tensor = self.network(x, times, negative)  # one batch of both has a shape that ONNX rules do not see
        return without + self.guidance * (within - without)
