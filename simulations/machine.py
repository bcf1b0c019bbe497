"""What this machine can do at best, to say how much of it a computation reached."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from common.errors import SettingError

_BEST_OF = 5


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Rates measured on a device.

    Attributes:
        name: of the device.
        flops: float32 operations per second of a large matrix product.
        bandwidth: bytes per second read and written by a copy that no cache holds.
        load: processes that wanted a core in the last minute, this one included, when it was measured.
    """

    name: str
    flops: float
    bandwidth: float
    load: float


def measure(device: torch.device, threads: int = 1) -> Machine:
    """Measure a device, in about a second.

    Args:
        device: CPU or GPU.
        threads: cores to use on a CPU.
    """
    large = device.type != "cpu"
    size, numbers = (8_192, 2**28) if large else (1_024, 2**24)
    inside = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a = torch.randn(size, size, device=device)
        flops = 2 * size**3 / _best_seconds(lambda: a @ a, device)
        source = torch.zeros(numbers, device=device)
        target = torch.ones_like(source)
        bandwidth = 8 * numbers / _best_seconds(lambda: target.copy_(source), device)
    finally:
        torch.set_num_threads(inside)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, {threads} cores"
    return Machine(name=name, flops=flops, bandwidth=bandwidth, load=load())


def chosen_device(name: str) -> torch.device:
    """The device of ``auto``, ``cpu`` or ``cuda``.

    Raises:
        SettingError: another name, or a GPU that is not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise SettingError(f"device={name!r} must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingError("device='cuda' needs an NVIDIA GPU that torch can use, and there is none; try --device auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def peak_memory(device: torch.device) -> int:
    """Most bytes this process has held so far: on a GPU what torch took there, else what the system counts."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    if sys.platform == "win32":
        return 0  # the system does not tell without a library of its own
    import resource

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(held) * (1 if sys.platform == "darwin" else 1024)


def load() -> float:
    """Processes that wanted a core in the last minute; NaN where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    def once() -> float:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    once()
    return min(once() for _ in range(_BEST_OF))
