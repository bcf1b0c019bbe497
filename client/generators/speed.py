"""How fast a generator runs; what it draws stays the same."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import SettingError

DEVICES = ("auto", "cpu", "cuda")
LARGEST_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """Settings that change speed and memory, and what is drawn by less than one grey level of 255.

    Attributes:
        device: ``auto`` for the GPU when there is one, ``cpu`` or ``cuda``.
        half: on a GPU, run in float16 where that is safe: see `half.faster`. On a CPU it would be slower and is never
            done, nor is it to networks that run in torch.
        items_at_once: most items in one run of the network; None for as many as the size of a picture suggests. A run
            that does not fit in memory is cut in half either way.
        gradient_checkpointing: in a network that runs in torch, compute each step of a sampler (or the whole of
            another network) again in the backward pass instead of keeping it: less memory, more time. Only matters
            where latents ask for gradients.

    Raises:
        SettingError: a value is outside its range.
    """

    device: str = "auto"
    half: bool = True
    items_at_once: int | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise SettingError(f"device={self.device!r} must be one of {', '.join(DEVICES)}")
        if self.items_at_once is not None and not 1 <= self.items_at_once <= LARGEST_CHUNK:
            raise SettingError(f"items_at_once={self.items_at_once} must lie between 1 and {LARGEST_CHUNK}")
