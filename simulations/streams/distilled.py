"""The latent policy distilled into one with a fifth of the parameters."""

from __future__ import annotations

import time

from client.policy.distillation import distil
from simulations.streams.base import Listener, Made
from simulations.streams.latent_policy import made


def make(listener: Listener) -> Made:
    """The small policy; seconds are those of the distillation alone."""
    learned, _ = listener.learned()
    started = time.process_time()
    small = distil(learned.policy, listener.goal().see, listener.distil)
    return made(listener, small, time.process_time() - started, "")
