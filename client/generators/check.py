"""What a pack promises, checked one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from client.generators import proof
from client.generators.manifest import TORCH, Manifest
from client.generators.pack import GeneratorPack
from client.generators.pack_files import read_manifest, refuse_others, verified
from client.generators.pack_signature import signer_of
from client.generators.sandbox import Limits, UnsafeShape
from common.errors import DamagedPack, SignatureError, UnsafeFile
from common.signing import fingerprint

PROMISES = (
    "hashes",
    "signature",
    "operators",
    "shapes",
    "first run",
    "value range",
    "finite",
    "deterministic",
    "latent map",
)
_LATENTS, _ITEMS = 4096, 16


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One promise of a pack.

    Attributes:
        name: of `PROMISES`.
        kept: True, False, or None where it does not apply or could not be looked at.
        says: what was found, one line.
    """

    name: str
    kept: bool | None
    says: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Checked:
    """A pack and how it keeps its promises.

    Attributes:
        manifest: what it says about itself.
        promises: one for each of `PROMISES`, in that order.
        pack: ready to run; None if a promise is broken.
    """

    manifest: Manifest
    promises: tuple[Promise, ...]
    pack: GeneratorPack | None

    @property
    def broken(self) -> tuple[Promise, ...]:
        """The promises that are not kept."""
        return tuple(promise for promise in self.promises if promise.kept is False)

    def as_json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "name": self.manifest.name,
            "version": self.manifest.version,
            "pack": hashlib.sha256(self.manifest.encode()).hexdigest(),
            "provider": None if self.pack is None else self.pack.generator.provider,
            "sound": not self.broken,
            "promises": [{"promise": p.name, "kept": p.kept, "says": p.says} for p in self.promises],
        }

    def must_be_sound(self) -> GeneratorPack:
        """The pack.

        Raises:
            DamagedPack: names the broken promises.
        """
        if self.pack is None:
            broken = "; ".join(f"{promise.name}: {promise.says}" for promise in self.broken)
            raise DamagedPack(f"{self.manifest.name} {self.manifest.version} breaks its promises: {broken}")
        return self.pack


def check(folder: Path, limits: Limits | None = None) -> Checked:
    """Check the pack in a folder; its networks first run in a child process, whatever was checked before.

    Args:
        folder: of the pack.
        limits: of the first run; None for the usual ones.

    Raises:
        DamagedPack: there is no manifest, or it is not one.
        StorageError: there is no room for a copy.
    """
    manifest = read_manifest(folder)
    found: dict[str, Promise] = {}

    def note(name: str, kept: bool | None, says: str) -> None:
        found[name] = Promise(name=name, kept=kept, says=says)

    content: dict[str, bytes] = {}
    signer: bytes | None = None
    try:
        content = {name: verified(folder, name, manifest) for name in sorted(manifest.files)}
        if manifest.runtime == TORCH:
            refuse_others(folder, manifest)
        note("hashes", True, f"{len(content)} files are what the manifest names")
        signer = _signature(folder, manifest, note)
        _first_run(manifest, content, limits, note)
    except DamagedPack as error:
        note(_next(found), False, str(error))
    pack = None
    if all(promise.kept is not False for promise in found.values()):
        pack = GeneratorPack(folder, manifest, content, signer=signer, proven=True)
        _more_items(pack, note)
        _latent_map(pack, limits, note)
    promises = tuple(found.get(n) or Promise(name=n, kept=None, says="not looked at") for n in PROMISES)
    broken = any(promise.kept is False for promise in promises)
    return Checked(manifest=manifest, promises=promises, pack=None if broken else pack)


def _next(found: Mapping[str, Promise]) -> str:
    """The promise that was being looked at."""
    return next(name for name in PROMISES if name not in found)


def _signature(folder: Path, manifest: Manifest, note: Any) -> bytes | None:
    try:
        signer = signer_of(folder, manifest)
    except SignatureError as error:
        note("signature", False, str(error))
        return None
    if signer is None:
        note("signature", None, "not signed")
    else:
        note("signature", True, f"signed by {fingerprint(signer)}; compare that with its owner")
    return signer


def _first_run(manifest: Manifest, content: Mapping[str, bytes], limits: Limits | None, note: Any) -> None:
    try:
        report = proof.prove_generator(manifest, content, limits)
    except DamagedPack as error:
        rule = "operators" if type(error) is UnsafeFile else "first run"
        note("shapes" if isinstance(error, UnsafeShape) else rule, False, str(error))
        return
    if manifest.runtime == TORCH:
        note(
            "operators", True, f"no code: weights are safetensors alone, plgl built the network as {report['builder']}"
        )
        note("shapes", True, f"{report['tensors']} tensors of {report['numbers']} float32, as the network asks for")
    else:
        note("operators", True, f"{len(report['operators'])} kinds, all plain; operator set {report['opset']}")
        note("shapes", True, f"all known before it runs; the largest value takes {report['largest_bytes']} bytes")
    note("first run", True, f"in a child process: {report['limits']}")
    faults = proof.faults(manifest, report)
    for name, says in {
        "value range": f"within {manifest.output.low:g} to {manifest.output.high:g}",
        "finite": "no NaN, no infinity, no such weight",
        "deterministic": "the same latents gave the same bytes, alone and in a batch the same item",
    }.items():
        if name not in faults and not report["finite"] and name != "finite":
            note(name, None, "not known")
        else:
            note(name, name not in faults, faults.get(name, says))


def _more_items(pack: GeneratorPack, note: Any) -> None:
    """Range and finite numbers over more items than the first run drew."""
    media = pack.generate(
        pack.latents.sample(_ITEMS, torch.Generator().manual_seed(1)), 64 if pack.manifest.resizable else None
    )
    report = {"finite": True, "low": float("inf"), "high": float("-inf"), "repeats": True, "alone_error": 0.0}
    for name, says in proof.faults(pack.manifest, proof.seen_too(report, media)).items():
        note(name, False, says)


def _latent_map(pack: GeneratorPack, limits: Limits | None, note: Any) -> None:
    if not pack.components:
        note("latent map", None, f"none yet; learn it with: plgl generator map {pack.name}")
        return
    try:
        proof.prove_map(pack.manifest, pack.files, limits)
        features = pack.features(pack.latents.sample(_LATENTS, torch.Generator().manual_seed(1)))[:, :-1]
    except DamagedPack as error:
        note("latent map", False, str(error))
        return
    mean, low, high = float(features.mean(0).abs().max()), float(features.var(0).min()), float(features.var(0).max())
    good = mean <= 0.2 and low >= 0.5 and high <= 2
    says = f"{pack.components} components, means within {mean:.3f} of 0, variances {low:.2f} to {high:.2f}"
    again = "" if good else f"; not standardised, run: plgl generator map {pack.folder}"
    note("latent map", good, says + again)
