"""What is asked of a generator: latents, conditions, truncation and a shape, checked against its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from client.generators import proof
from client.generators.interface import LARGEST, SMALLEST
from client.generators.manifest import Manifest
from common.errors import SettingError


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """Items that a pack is to make.

    Attributes:
        latents: ``(n, d)`` float32.
        shape: of each item.
        conditions: every one the pack has, by name, each ``(n, *shape)``.
        truncation: psi; None for the pack's own.
    """

    latents: Tensor
    shape: tuple[int, ...]
    conditions: Mapping[str, Tensor]
    truncation: float | None

    @classmethod
    def checked(
        cls,
        manifest: Manifest,
        latents: Tensor,
        size: int | None,
        conditions: Mapping[str, Tensor],
        truncation: float | None,
        defaults: Mapping[str, Tensor],
    ) -> Order:
        """An order that a pack can carry out; arguments as of ``GeneratorPack.generate``.

        Args:
            manifest: of the pack.
            latents: see above.
            size: see above.
            conditions: some; see above.
            truncation: see above.
            defaults: values of the conditions that are not given.

        Raises:
            SettingError: what ``generate`` says.
        """
        latents = checked_latents(manifest, latents)
        _check_truncation(manifest, truncation)
        return cls(
            latents=latents,
            shape=_shape(manifest, size),
            conditions=_every_condition(manifest, conditions, defaults, latents),
            truncation=truncation,
        )

    def __len__(self) -> int:
        """Number of items."""
        return len(self.latents)

    def select(self, rows: Tensor) -> Order:
        """The items of some rows ``(m,)``."""
        some = {name: value[rows] for name, value in self.conditions.items()}
        return replace(self, latents=self.latents[rows], conditions=some)

    def inputs(self, manifest: Manifest, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs of the network, see `proof.network_inputs`; those of each item are ``latent`` and the conditions."""
        size = (self.shape[-2], self.shape[-1]) if len(self.shape) == 3 else None
        return proof.network_inputs(manifest, self.latents, self.conditions, noise, self.truncation, size)

    def names(self, manifest: Manifest, pack: str) -> tuple[str, list[str]]:
        """Group and names of the items in an `ItemCache`; ``pack`` is the hash of the manifest."""
        psi = manifest.truncation if self.truncation is None else self.truncation
        group = f"{pack[:32]}-{'x'.join(map(str, self.shape))}" + ("" if psi is None else f"-{float(psi)!r}")
        rows = [self.latents.cpu(), *(self.conditions[each.name].flatten(1).cpu() for each in manifest.conditions)]
        start = hashlib.sha256(f"plgl-item-1 {pack} {group} ".encode())
        names = []
        for row in torch.cat(rows, 1).contiguous().numpy():
            each = start.copy()
            each.update(row.tobytes())
            names.append(each.hexdigest())
        return group, names


def checked_latents(manifest: Manifest, latents: Tensor) -> Tensor:
    """Latents ``(n, d)`` as float32 without a gradient.

    Raises:
        SettingError: they have another shape or are not finite.
    """
    if latents.ndim != 2 or latents.shape[1] != manifest.dimension:
        raise SettingError(f"latents of shape {tuple(latents.shape)} should be (n, {manifest.dimension})")
    latents = latents.detach().to(torch.float32)
    if not bool(latents.isfinite().all()):
        raise SettingError("latents hold NaN or infinite numbers; draw them again")
    return latents


def _shape(manifest: Manifest, size: int | None) -> tuple[int, ...]:
    shape = manifest.output.shape
    if size is None:
        return shape
    if not SMALLEST <= size <= LARGEST:
        raise SettingError(f"size={size} must lie between {SMALLEST} and {LARGEST} pixels")
    if not manifest.resizable and shape[1:] != (size, size):
        own = " x ".join(str(side) for side in shape[1:] or shape)
        raise SettingError(f"size={size}: pack {manifest.name!r} only makes {own}; leave the size out")
    return (3, size, size)


def _every_condition(
    manifest: Manifest, given: Mapping[str, Tensor], defaults: Mapping[str, Tensor], latents: Tensor
) -> dict[str, Tensor]:
    """Every condition's value, ``(n, *shape)``, where the latents are."""
    n = len(latents)
    known = {each.name: each.shape for each in manifest.conditions}
    if unknown := sorted(given.keys() - known.keys()):
        names = ", ".join(known) or "none"
        raise SettingError(f"condition {unknown[0]!r} is unknown to pack {manifest.name!r}; it has: {names}")
    values = {}
    for name, shape in known.items():
        value = given.get(name, defaults[name]).detach().to(latents.device, torch.float32)
        if tuple(value.shape) not in (shape, (n, *shape)):
            raise SettingError(f"condition {name!r} of shape {tuple(value.shape)} should be {shape} or (n, ...)")
        if not bool(value.isfinite().all()):
            raise SettingError(f"condition {name!r} holds NaN or infinite numbers")
        values[name] = value.expand(n, *shape)
    return values


def _check_truncation(manifest: Manifest, truncation: float | None) -> None:
    if truncation is None:
        return
    if manifest.truncation is None:
        raise SettingError(f"truncation={truncation}: pack {manifest.name!r} has none; leave it out")
    if not 0 <= truncation <= 10:
        raise SettingError(f"truncation={truncation} must lie between 0 and 10")
