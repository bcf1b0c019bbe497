"""Settings of a run of rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from client.rounds.reward import INPUTS, REWARDS, Inputs
from client.rounds.stages import FILTERS, PAIRINGS, SAMPLERS, choose
from client.rounds.stopping import STOPPINGS
from client.rounds.user import USERS
from common.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class RoundsSettings:
    """How rounds are run.

    Attributes:
        rounds: most rounds, >= 1.
        pairs: pairs shown in a round, >= 1; up to two more ask whether something beats the favourite.
        candidates: latents sampled in a round, at least ``2 * pairs``.
        size: height and width of the pictures the user judges, pixels; a generator that cannot be resized uses its own.
        sampling: one of ``SAMPLERS``.
        filtering: one of ``FILTERS``.
        pairing: one of ``PAIRINGS``.
        user: one of ``USERS``.
        reward: one of ``REWARDS``.
        inputs: what the reward model sees: ``features``, ``latents`` or ``both``.
        stopping: one of ``STOPPINGS``.
        epochs: passes over the memory in a round, >= 1.
        angle: how far samples and the destination go from where they start in the first round, radians.
        shrink: the angle is multiplied by this after each round, at most 1.
        smallest_angle: it never gets below this.
        distance: ``distance`` stops here; relative, 1 is the median of random pictures.
        patience: ``plateau`` stops after so many rounds without a nearer favourite, >= 1.
        good_share: share of random pictures the user calls good.
        tie: distances closer than this share of their mean are the same to the user.
        noise: standard deviation of the user's judgement of a distance.
        seed: of everything random.

    Raises:
        SettingError: a value is out of range or unknown.
    """

    rounds: int = 30
    pairs: int = 8
    candidates: int = 64
    size: int = 48
    sampling: str = "mixed"
    filtering: str = "reward"
    pairing: str = "favourite"
    user: str = "perceptual"
    reward: str = "mlp"
    inputs: Inputs = "features"
    stopping: str = "distance"
    epochs: int = 20
    angle: float = 1.2
    shrink: float = 0.93
    smallest_angle: float = 0.15
    distance: float = 0.2
    patience: int = 8
    good_share: float = 0.05
    tie: float = 0.03
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "rounds": (1, 100_000),
            "pairs": (1, 1000),
            "candidates": (2 * self.pairs, 100_000),
            "size": (16, 1024),
            "epochs": (1, 10_000),
            "angle": (1e-3, math.pi / 2),
            "shrink": (0.1, 1),
            "smallest_angle": (1e-4, self.angle),
            "distance": (0, 1),
            "patience": (1, 100_000),
            "good_share": (0, 1),
            "tie": (0, 1),
            "noise": (0, 100),
            "seed": (0, 2**31 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingError(f"{name}={value} must lie between {low:g} and {high:g}")
        choose(SAMPLERS, "sampling", self.sampling)
        choose(FILTERS, "filtering", self.filtering)
        choose(PAIRINGS, "pairing", self.pairing)
        choose(USERS, "user", self.user)
        choose(REWARDS, "reward", self.reward)
        choose(dict.fromkeys(INPUTS), "inputs", self.inputs)
        choose(STOPPINGS, "stopping", self.stopping)
