"""A policy that belongs to everybody, as it is published: another kind of prior, with its provenance.

On disk it is a folder of two files that anybody can read: ``policy.safetensors`` (the weights of the network that turns
noise into latents, float32) and ``policy.json`` (format version, size, pack, rounds, the privacy statement, SHA-256 of
the tensor file). What the network is, `client.policy.flow` knows; here it is numbers with names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from common.errors import PriorError
from common.files import write_atomically
from common.privacy.statement import PrivacyStatement

FORMAT = "plgl-population-policy-1"
LARGEST_BYTES = 64 * 2**20
"""Of a tensor file that is read; a policy of the usual size has under a megabyte."""

_TENSORS, _ABOUT = "policy.safetensors", "policy.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class PopulationPolicy:
    """Weights of a policy with the claim that covers them.

    Guarantee: finite float32 weights, at least one; anything else raises when it is made.

    Attributes:
        weights: by name.
        size: of the network, whole numbers by name.
        pack: SHA-256 of the generator pack whose latents it draws.
        privacy: the claim that covers these numbers: that of the releases they were made from.
        rounds: releases that went into them.
    """

    weights: Mapping[str, Tensor]
    size: Mapping[str, int]
    pack: str
    privacy: PrivacyStatement
    rounds: int = 0

    def __post_init__(self) -> None:
        if not self.weights or any(weight.dtype != torch.float32 for weight in self.weights.values()):
            raise PriorError("a population policy must hold float32 weights and nothing else")
        if broken := [name for name, weight in self.weights.items() if not bool(weight.isfinite().all())]:
            raise PriorError(f"weights {broken[0]!r} of the population policy are NaN or infinite; fetch it again")
        if type(self.rounds) is not int or self.rounds < 0:
            raise PriorError(f"rounds={str(self.rounds)[:40]} of a population policy must be a number from 0")
        if any(type(value) is not int for value in self.size.values()):
            raise PriorError("the size of a population policy must be whole numbers")

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, 64 hexadecimal digits."""
        return hashlib.sha256(self._tensors()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the two files; the JSON comes last, so a folder without it is an unfinished write.

        Raises:
            StorageError: the disk refuses.
        """
        tensors = self._tensors()
        about = {
            "format": FORMAT,
            "pack": self.pack,
            "size": dict(self.size),
            "rounds": self.rounds,
            "privacy": self.privacy.to_json(),
            "sha256": hashlib.sha256(tensors).hexdigest(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / _TENSORS, tensors)
        write_atomically(folder / _ABOUT, json.dumps(about, indent=2).encode() + b"\n")

    @classmethod
    def load(cls, folder: Path, *, pack: str | None = None) -> PopulationPolicy:
        """Read a policy and check it.

        Args:
            folder: as written by ``save``.
            pack: hash of the pack it will be used with.

        Raises:
            PriorError: a file is missing, altered, too large or unreadable, or the policy belongs to another pack.
        """
        try:
            about = json.loads((folder / _ABOUT).read_text())
            if not isinstance(about, dict) or about.get("format") != FORMAT:
                raise PriorError(f"{folder} does not hold a population policy of format {FORMAT}")
            if pack is not None and about["pack"] != pack:
                raise PriorError(
                    f"the policy in {folder} draws for pack {str(about['pack'])[:12]}, not for {pack[:12]}; "
                    "use the pack it was made for, or make a policy for this one"
                )
            if (length := (folder / _TENSORS).stat().st_size) > LARGEST_BYTES:
                raise PriorError(f"{folder / _TENSORS} has {length} bytes, over the limit of {LARGEST_BYTES}")
            raw = (folder / _TENSORS).read_bytes()
            if hashlib.sha256(raw).hexdigest() != about["sha256"]:
                raise PriorError(f"{folder / _TENSORS} was altered: its SHA-256 differs from {_ABOUT}")
            privacy = PrivacyStatement.from_json(about["privacy"])
            return cls(
                weights=safetensors.torch.load(raw),
                size=dict(about["size"]),
                pack=str(about["pack"]),
                privacy=privacy,
                rounds=about["rounds"],
            )
        except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise PriorError(f"cannot read a population policy from {folder}: {error}; fetch it again") from error

    def _tensors(self) -> bytes:
        return safetensors.torch.save({name: weight.cpu().contiguous() for name, weight in self.weights.items()})
