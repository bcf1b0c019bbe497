"""A latent policy, by either learner."""

from __future__ import annotations

from client.policy.flow import LatentPolicy
from client.policy.stream import Stream
from simulations.streams.base import Listener, Made


def make(listener: Listener) -> Made:
    """By the gradient through the taste model."""
    return _made(listener, "reparameterised")


def make_by_ppo(listener: Listener) -> Made:
    """By rewards alone."""
    import stable_baselines3  # noqa: F401  # told as missing before anything is learned

    return _made(listener, "ppo")


def _made(listener: Listener, learner: str) -> Made:
    learned, seconds = listener.learned(learner)
    return made(listener, learned.policy, seconds, learned.stopped or "")


def made(listener: Listener, policy: LatentPolicy, seconds: float, note: str) -> Made:
    """The stream of a policy."""
    drawn = Stream(listener.session, policy, level=listener.level, seed=listener.seed)
    return Made(drawn.latents, seconds, note, policy.parameters_in_all, policy=True)
