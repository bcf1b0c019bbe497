"""A policy of everybody: what a person's stream begins with, before any rating of their own.

It raises the chance that a person drawn from the population likes what it makes. All it needs to know of people is a
law of tastes, ``w ~ N(mean, covariance)``: a released prior, or what ``simulations.strategies.policy_gradient``
released. Whatever is made of releases alone is post-processing: it costs no privacy, and their statement goes on with
it. Whoever has the prior and the generator makes the same policy at home.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from client.curator import Curator
from client.generators.pack import GeneratorPack
from client.lens import Lens
from client.policy.flow import FlowSettings, LatentPolicy
from client.policy.goal import Goal, GoalSettings
from client.policy.guard import Check, Guard, GuardSettings
from client.policy.learner import LearnSettings, learner
from client.policy.replay import warm_start
from client.policy.reward import Lens as See
from client.policy.reward import Mixed, Part, Reward, Typical
from client.policy.training import Learned, Tell, Training
from common.errors import PriorError, RewardError, SettingError
from common.population_policy import PopulationPolicy
from common.prior import PopulationPrior
from common.privacy.statement import PrivacyStatement

STRICT = 5.0  # deviations of the reward that an item loses for each time it is too extreme
_PROBIT = math.pi / 8  # MacKay 1992, "The evidence framework applied to classification networks", eq. 10


@dataclass(frozen=True, kw_only=True)
class PopulationSettings:
    """How a population policy is made; none of it is about people.

    Attributes:
        couplings: layers of the policy; width: units of each.
        width: see above.
        warm: steps of the warm start from the generator's best items; 0 for none.
        seed: of everything random.
        goal: prices and variety; higher prices than a person's own stream has, because people differ.
        learn: rounds and batches.
        guard: when to stop; nobody's answers are held out, so a guard halves these limits, and they are all there is.
    """

    couplings: int = 6
    width: int = 64
    warm: int = 60
    seed: int = 0
    goal: GoalSettings = field(default_factory=lambda: GoalSettings(safe=0.1, surprising=1.0, most=8.0, nearest=2.0))
    learn: LearnSettings = field(default_factory=LearnSettings)
    guard: GuardSettings = field(default_factory=lambda: GuardSettings(divergence=32.0, distance=4.0))

    def __post_init__(self) -> None:
        if self.warm < 0:
            raise SettingError(f"warm={self.warm} must be >= 0; try 60")


class Popular(Reward):
    """Log-odds that somebody of the population likes an item.

    With ``w ~ N(mean, covariance)`` the chance is ``E sigma(w . phi) ~ sigma(m / sqrt(1 + pi v / 8))``, m and v mean
    and variance of the score: what is liked by most counts, and not by how much.
    """

    differentiable = True

    def __init__(self, lens: See, mean: Tensor, covariance: Tensor | None = None) -> None:
        """Take a law of tastes.

        Args:
            lens: latents to features ``(n, p)``, the last one constant.
            mean: ``(p,)``.
            covariance: ``(p, p)``; None where only the mean is known, or where ``mean`` is about chances already.

        Raises:
            PriorError: NaN or an infinity in either, or shapes that do not fit.
        """
        p = mean.shape[-1] if mean.dim() == 1 else 0
        spread = mean.new_zeros(p, p) if covariance is None else covariance
        if not p or spread.shape != (p, p):
            raise PriorError(f"a law of tastes of shapes {tuple(mean.shape)} and {tuple(spread.shape)} is none")
        if not (bool(mean.isfinite().all()) and bool(spread.isfinite().all())):
            raise PriorError("a law of tastes holds NaN or infinite numbers; fetch it again")
        self.lens, self.mean, self.covariance = lens, mean.float(), spread.float()

    def __call__(self, latents: Tensor) -> Tensor:
        """See `Reward`."""
        seen = self.lens(latents).features
        score, variance = seen @ self.mean, ((seen @ self.covariance) * seen).sum(1)
        return score / (1 + _PROBIT * variance.clamp(min=0)).sqrt()


def train(
    pack: GeneratorPack,
    mean: Tensor,
    covariance: Tensor | None = None,
    settings: PopulationSettings | None = None,
    tell: Tell | None = None,
) -> Learned:
    """Learn a policy for a population.

    Guarantee: the same law, generator and settings give the same policy on the same machine. A law that likes nothing
    better than anything else, such as one that nobody's answers went into, gives the generator itself.

    Args:
        pack: the generator.
        mean: ``(p,)`` of tastes, about the first ``p - 1`` components of the pack's map.
        covariance: ``(p, p)``, see `Popular`.
        settings: how.
        tell: is told of every check.

    Raises:
        PriorError: the law is broken, or for another number of features.
        OutOfMemory: a batch does not fit.
    """
    how = settings or PopulationSettings()
    if not 1 <= len(mean) - 1 <= pack.components:
        raise PriorError(
            f"a law of {len(mean) - 1} features is not for pack {pack.name!r}, whose map has {pack.components}"
        )
    generator, lens = torch.Generator().manual_seed(how.seed), Lens(pack, len(mean) - 1)
    law, curator = Popular(lens, mean, covariance), Curator(pack.latents, lens, how.seed)
    typical = Part(reward=Typical(lens, curator.extremeness), weight=STRICT, scaled=False)
    size = FlowSettings(dimension=pack.latents.dimension, couplings=how.couplings, width=how.width, seed=how.seed)
    policy = LatentPolicy(size)
    scale = lens.scale.float()

    def see(latents: Tensor) -> Tensor:
        return lens(latents).features[:, :-1] * scale

    try:
        reward = Mixed([Part(reward=law), typical], pack.latents, generator)
    except RewardError:  # the same for all items
        return unheard(policy)
    goal = Goal.measure(reward, see, pack.latents, generator, how.goal)
    guard = Guard(goal, None, how.guard, generator)
    training = Training(
        learner("reparameterised", policy, goal, how.learn, generator),
        guard,
        (lambda: warm_start(policy, goal, generator, steps=how.warm)) if how.warm else None,
    )
    return training.run(tell)


def unheard(policy: LatentPolicy) -> Learned:
    """A policy as it is, with nothing learned and nothing measured: the numbers of its check are NaN."""
    check = Check(round=0, reward=math.nan, held_out=math.nan, error=math.nan, divergence=math.nan, distance=math.nan)
    return Learned(policy, check, (check,), None)


def of_prior(
    pack: GeneratorPack, prior: PopulationPrior, settings: PopulationSettings | None = None, tell: Tell | None = None
) -> Learned:
    """The policy of a released prior, at no further cost in privacy; see `train`.

    Raises:
        PriorError: the prior belongs to another pack or map.
    """
    if prior.pack != pack.hash:
        raise PriorError(
            f"the prior was learned on pack {prior.pack[:12]}, not on {pack.hash[:12]}; use the pack it was made for"
        )
    return train(pack, prior.mean, prior.covariance, settings, tell)


def publish(policy: LatentPolicy, pack: GeneratorPack, privacy: PrivacyStatement, rounds: int) -> PopulationPolicy:
    """A policy as it is published.

    Args:
        policy: made of releases alone.
        pack: the generator it draws for.
        privacy: the claim that covers those releases.
        rounds: how many they were.
    """
    weights = {name: value.detach().clone().cpu() for name, value in policy.state_dict().items()}
    return PopulationPolicy(
        weights=weights, size=asdict(policy.settings), pack=pack.hash, privacy=privacy, rounds=rounds
    )


def policy_of(published: PopulationPolicy, pack: GeneratorPack) -> LatentPolicy:
    """The policy that was published, to draw from or to go on learning.

    Raises:
        PriorError: it is for another pack, or its weights are not those of a policy of the size it claims.
    """
    if published.pack != pack.hash:
        raise PriorError(
            f"the population policy draws for pack {published.pack[:12]}, not for {pack.hash[:12]}; "
            "use the pack it was made for"
        )
    try:
        size = FlowSettings(**dict(published.size))
        if size.dimension != pack.latents.dimension:
            raise PriorError(
                f"the population policy draws {size.dimension} numbers, {pack.name} takes {pack.latents.dimension}; "
                "fetch it again"
            )
        there, needed = sum(weight.numel() for weight in published.weights.values()), numbers_of(size)
        if there != needed:  # asked before memory is taken for it
            raise SettingError(f"{there} numbers where there should be {needed}")
        policy = LatentPolicy(size)
        policy.load_state_dict(dict(published.weights))
    except (TypeError, SettingError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise PriorError(f"the population policy is of another size than it says ({reason}); fetch it again") from error
    return policy


def numbers_of(size: FlowSettings) -> int:
    """How many numbers a policy of this size has, without making it."""
    half, width = size.dimension // 2, size.width
    kept = [half if turn % 2 == 0 else size.dimension - half for turn in range(size.couplings)]
    moved = [size.dimension - each for each in kept]
    return sum((k + 3) * width + (width + 3) * 2 * m for k, m in zip(kept, moved, strict=True))
