"""The population prior: how tastes are distributed, ``w ~ N(mean, covariance)``, with its provenance.

On disk a prior is a folder of two files that anybody can read: ``prior.safetensors`` (mean, covariance, thresholds in
float64) and ``prior.json`` (format version, pack, sizes, the privacy statement, SHA-256 of the tensor file).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from common.errors import PriorError, SettingError
from common.files import write_atomically
from common.privacy.statement import PrivacyStatement

FORMAT = "plgl-prior-1"
TYPICAL_SPREAD = 1.5
"""Standard deviation of scores (log-odds) that a first, flat prior expects; public, from no person's data."""

DEFAULT_THRESHOLDS = (-2.0, -0.7, 0.7, 2.0)


@dataclass(frozen=True, kw_only=True)
class PopulationPrior:
    """Population law of tastes.

    Guarantee: finite, ``covariance`` symmetric and positive definite; anything else raises when it is made.

    Attributes:
        mean: ``(p,)`` float64; the last entry is the bias.
        covariance: ``(p, p)`` float64.
        thresholds: ``(4,)`` float64, ascending: log-odds cuts between 1 and 5 stars.
        pack: SHA-256 of the generator pack whose features these weights multiply.
        privacy: the claim that covers these numbers.
        rounds: releases that went into them.
    """

    mean: Tensor
    covariance: Tensor
    thresholds: Tensor
    pack: str
    privacy: PrivacyStatement
    rounds: int = 0

    def __post_init__(self) -> None:
        p = self.mean.shape[-1] if self.mean.dim() else 0
        if self.mean.shape != (p,) or self.covariance.shape != (p, p) or self.thresholds.shape != (4,):
            raise PriorError(
                f"prior shapes {tuple(self.mean.shape)}, {tuple(self.covariance.shape)}, "
                f"{tuple(self.thresholds.shape)} should be ({p},), ({p}, {p}), (4,)"
            )
        if not all(bool(x.isfinite().all()) for x in (self.mean, self.covariance, self.thresholds)):
            raise PriorError("prior holds NaN or infinite numbers; fetch it again")
        if not bool((self.thresholds.diff() > 0).all()):
            raise PriorError(f"thresholds {self.thresholds.tolist()} must ascend")
        asymmetry = float((self.covariance - self.covariance.T).abs().max())
        smallest = float(torch.linalg.eigvalsh(self.covariance)[0])
        if asymmetry > 1e-9 * float(self.covariance.abs().max()) or smallest <= 0:
            raise PriorError(f"covariance must be symmetric and positive definite; smallest eigenvalue {smallest:.3g}")

    @classmethod
    def flat(
        cls, parameters: int, pack: str, standard_deviation: float = 1.0, scale: Tensor | None = None
    ) -> PopulationPrior:
        """The prior of somebody who knows nobody: zero mean, independent weights.

        Args:
            parameters: p, the bias included.
            pack: SHA-256 of the generator pack.
            standard_deviation: of the score of a typical item (without the bias), and of the bias.
            scale: ``(p - 1,)`` relative spread of the weights, e.g. ``GeneratorPack.component_scale``; equal without.
        """
        if not standard_deviation > 0:
            raise SettingError(f"standard_deviation={standard_deviation} must be > 0; try 1.0")
        relative = torch.ones(parameters - 1) if scale is None else scale
        if relative.shape != (parameters - 1,) or not bool((relative > 0).all()):
            raise SettingError(f"scale of shape {tuple(relative.shape)} must be {parameters - 1} positive numbers")
        variance = relative.to(torch.float64).square()
        variance = torch.cat([variance / variance.sum(), variance.new_ones(1)]) * standard_deviation**2
        return cls(
            mean=torch.zeros(parameters, dtype=torch.float64),
            covariance=variance.diag(),
            thresholds=torch.tensor(DEFAULT_THRESHOLDS, dtype=torch.float64),
            pack=pack,
            privacy=PrivacyStatement.public(),
        )

    @property
    def parameters(self) -> int:
        """Number of taste weights p, the bias included."""
        return self.mean.shape[-1]

    def root(self) -> Tensor:
        """``(p, p)`` symmetric square root R of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root: Tensor = (vectors * values.sqrt()) @ vectors.T
        return root

    def whitener(self) -> Tensor:
        """``(p, p)`` symmetric inverse square root of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        whitener: Tensor = (vectors / values.sqrt()) @ vectors.T
        return whitener

    def save(self, folder: Path) -> None:
        """Write the two files; the JSON comes last, so a folder without it is an unfinished write."""
        tensors = safetensors.torch.save(
            {"mean": self.mean, "covariance": self.covariance.contiguous(), "thresholds": self.thresholds}
        )
        about = {
            "format": FORMAT,
            "pack": self.pack,
            "parameters": self.parameters,
            "rounds": self.rounds,
            "privacy": self.privacy.to_json(),
            "sha256": hashlib.sha256(tensors).hexdigest(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "prior.safetensors", tensors)
        write_atomically(folder / "prior.json", json.dumps(about, indent=2).encode() + b"\n")

    @classmethod
    def load(cls, folder: Path, *, pack: str | None = None, parameters: int | None = None) -> PopulationPrior:
        """Read a prior and check it.

        Args:
            folder: as written by ``save``.
            pack: hash of the pack it will be used with.
            parameters: weights the features have.

        Raises:
            PriorError: a file is missing, altered or unreadable, or the prior belongs to another pack or size.
        """
        try:
            about = json.loads((folder / "prior.json").read_text())
            raw = (folder / "prior.safetensors").read_bytes()
            if not isinstance(about, dict) or about.get("format") != FORMAT:
                raise PriorError(f"{folder} does not hold a prior of format {FORMAT}")
            if hashlib.sha256(raw).hexdigest() != about["sha256"]:
                raise PriorError(f"{folder / 'prior.safetensors'} was altered: its SHA-256 differs from prior.json")
            if pack is not None and about["pack"] != pack:
                raise PriorError(
                    f"the prior in {folder} was learned on pack {about['pack'][:12]}, not on {pack[:12]}; "
                    "use the pack it was made for, or train a prior for this one"
                )
            if parameters is not None and about["parameters"] != parameters:
                raise PriorError(
                    f"the prior in {folder} has {about['parameters'] - 1} features, this map has {parameters - 1}; "
                    f"pass --components {about['parameters'] - 1}"
                )
            prior = cls(
                **safetensors.torch.load(raw),
                pack=about["pack"],
                privacy=PrivacyStatement.from_json(about["privacy"]),
                rounds=about["rounds"],
            )
            if prior.parameters != about["parameters"]:
                raise PriorError(f"{folder} says {about['parameters']} weights and holds {prior.parameters}")
            return prior
        except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise PriorError(f"cannot read a prior from {folder}: {error}; fetch it again or train one") from error
