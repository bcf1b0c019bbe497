"""Gaussian noise that devices add themselves, for experiments on methods that need it.

It is floating-point noise from a pseudo-random generator, one for each process and device, seeded by the operating
system: right in law, fast enough for a million simulated people, and not fit to protect anybody (Mironov 2012, "On
significance of the least significant bits for differential privacy"). Statements made with it say so.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from common.errors import SettingError

CAVEAT = "simulated in floating point, for research"


class DeviceNoise:
    """A source of standard normal numbers.

    Args:
        seed: for tests that need the same numbers twice; otherwise every process draws its own seed.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __reduce__(self) -> tuple[type[DeviceNoise], tuple[()]]:
        # A copy in another process must not repeat this one's noise, or it would cancel between devices.
        if self._seed is not None:
            raise SettingError("noise from a fixed seed cannot be sent to other processes; leave the seed out")
        return DeviceNoise, ()

    def like(self, example: Tensor) -> Tensor:
        """Independent standard normal numbers of the shape, dtype and device of ``example``."""
        generator = self._generators.get(example.device)
        if generator is None:
            seed = int.from_bytes(os.urandom(8), "little") >> 1 if self._seed is None else self._seed
            generator = self._generators[example.device] = torch.Generator(example.device).manual_seed(seed)
        return torch.randn(example.shape, generator=generator, dtype=example.dtype, device=example.device)
