"""The generator alone, which knows nobody."""

from __future__ import annotations

from simulations.streams.base import Listener, Made


def make(listener: Listener) -> Made:
    """Items of the latent law."""
    generator = listener.generator(1)
    return Made(lambda count: listener.session.pack.latents.sample(count, generator))
