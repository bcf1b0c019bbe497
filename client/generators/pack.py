"""Generator packs: a folder with a generator, its latent map and a manifest that vouches for both.

Everybody in a federation uses the same pack, so a pack is known by the hash of its manifest, which holds the hash of
every other file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor

from client.generators import art, proof
from client.generators.fetched import FETCHABLE
from client.generators.installed import InstalledPacks
from client.generators.interface import LARGEST, SMALLEST, Output
from client.generators.manifest import (
    CONDITIONS,
    FIRST_FORMAT,
    FORMAT,
    GENERATOR,
    LATENT_MAP,
    MANIFEST,
    SIGNATURE,
    Manifest,
)
from client.generators.onnx import OPSET, OnnxModel
from client.generators.pack_files import check_target, fingerprint, read_manifest, verified, write_pack
from client.generators.pack_signature import signer_of
from common.errors import DamagedPack, PackError, SettingError, UnknownGenerator
from common.latents import LatentSpace

__all__ = [
    "CONDITIONS",
    "FIRST_FORMAT",
    "FORMAT",
    "GENERATOR",
    "LARGEST",
    "LATENT_MAP",
    "MANIFEST",
    "PACKS",
    "SIGNATURE",
    "SMALLEST",
    "GeneratorPack",
    "Manifest",
    "check_target",
    "fingerprint",
    "folder_of",
    "known_generators",
    "manifest_of_art",
    "write_pack",
]

PACKS = Path(__file__).parent / "packs"

_PIXELS_AT_ONCE = 1 << 17  # a few hundred MiB of intermediate values at most
_LATENTS_AT_ONCE = 1 << 15


def known_generators() -> tuple[str, ...]:
    """Names of the packs that come with the program, sorted."""
    return tuple(sorted(path.parent.name for path in PACKS.glob(f"*/{MANIFEST}")))


def folder_of(name_or_folder: str | Path, home: Path | None = None) -> Path:
    """The folder of a generator: one that came with the program, one that was added, or the path of any other.

    Raises:
        UnknownGenerator: none of them; the message lists the names.
    """
    known, installed = known_generators(), InstalledPacks(home)
    name, folder = str(name_or_folder), Path(name_or_folder)
    if name in known:
        folder = PACKS / name
    elif name in installed.names():
        folder = installed.folder(name)
    if not name or not folder.is_dir():
        if name in FETCHABLE:
            raise UnknownGenerator(f"{name!r} is not here yet; fetch it with: plgl generator add {name}")
        names = ", ".join((*known, *installed.names())) or "none"
        raise UnknownGenerator(f"no generator {name!r}; known: {names}, or the folder of a pack")
    return folder


def manifest_of_art(generator: bytes) -> Manifest:
    """Manifest of the embedded art generator without a latent map; ``generator`` is its ONNX file."""
    return Manifest(
        format=FIRST_FORMAT,  # its hash names it in priors that exist
        name="art",
        version="1.0.0",
        dimension=art.DIMENSION,
        law="normal",
        output=Output(shape=(3, 256, 256), resizable=True),
        licence="Apache-2.0",
        opset=OPSET,
        files={GENERATOR: fingerprint(generator)},
    )


class GeneratorPack:
    """A generator with its latent map, verified and ready to run.

    Guarantee: the networks that run are byte for byte those the manifest names. Those that neither came with the
    program nor were checked when they were added run for the first time in a child process with little memory and time
    (`sandbox`). Nothing is fetched, and nothing but such a child's own folder is written.

    Attributes:
        folder: where it lies.
        manifest: what it says about itself.
        hash: SHA-256 of the canonical manifest; names the pack in priors and updates.
        latents: its latent space.
        signer: ``(32,)`` bytes of the public key that signed it, or None.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        content: dict[str, bytes],
        *,
        signer: bytes | None = None,
        proven: bool = False,
    ) -> None:
        """Take verified files; ``proven`` says that their networks were checked before."""
        self.folder = folder
        self.manifest = manifest
        self.hash = hashlib.sha256(manifest.encode()).hexdigest()
        self.latents = LatentSpace(manifest.dimension, manifest.law)
        self.signer = signer
        self._content = content
        self._proven = proven

    @classmethod
    def open(cls, name_or_folder: str | Path, home: Path | None = None) -> GeneratorPack:
        """Open a pack that comes with the program, one that was added, or one in a folder.

        Args:
            name_or_folder: a name from `known_generators`, which comes first; a name of an added one; or the path of a
                folder.
            home: folder of the added ones; None for the usual one.

        Raises:
            UnknownGenerator: none of them; the message lists the names.
            DamagedPack: a file is missing, altered, or not what the manifest says.
            SignatureError: it carries a signature that is not of this pack.
        """
        folder = folder_of(name_or_folder, home)
        installed = InstalledPacks(home)
        manifest = read_manifest(folder)
        content = {each: verified(folder, each, manifest) for each in sorted(manifest.files)}
        proven = folder == installed.folder(manifest.name) and installed.is_proven(manifest)
        return cls(folder, manifest, content, signer=signer_of(folder, manifest), proven=proven)

    @classmethod
    def open_without_map(cls, folder: Path, home: Path | None = None) -> GeneratorPack:
        """Open only the generator of a pack, to learn its latent map; a damaged map does no harm.

        Args:
            folder: of the pack.
            home: folder of the added ones; None for the usual one.

        Raises:
            UnknownGenerator: there is no such folder.
            DamagedPack: the manifest or the generator is missing, altered, or not what the manifest says.
        """
        if not folder.is_dir():
            raise UnknownGenerator(f"no folder {folder}; make one with: plgl generator build art {folder}")
        manifest = read_manifest(folder)
        kept = {name: about for name, about in manifest.files.items() if name != LATENT_MAP}
        bare = replace(manifest, files=kept, components=0, r2=(), scale=())
        installed = InstalledPacks(home)
        proven = folder == installed.folder(manifest.name) and installed.is_proven(manifest)
        return cls(folder, bare, {name: verified(folder, name, manifest) for name in kept}, proven=proven)

    @property
    def files(self) -> Mapping[str, bytes]:
        """The verified content of each file the manifest names."""
        return self._content

    @property
    def name(self) -> str:
        """Name, as in ``art``."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Version, as in ``1.0.0``."""
        return self.manifest.version

    @property
    def components(self) -> int:
        """Outputs ``k`` of the latent map."""
        return self.manifest.components

    @property
    def component_r2(self) -> Tensor:
        """``(k,)`` float64: how well the map predicts each component on held-out latents."""
        return torch.tensor(self.manifest.r2, dtype=torch.float64)

    @property
    def component_scale(self) -> Tensor:
        """``(k,)`` float64: standard deviation of each component among perceptual features, root mean square 1."""
        return torch.tensor(self.manifest.scale, dtype=torch.float64)

    @cached_property
    def generator(self) -> OnnxModel:
        """The network that draws; loaded when first used, after its first run in a child process if it is foreign."""
        if not self._is_trusted(GENERATOR):
            proof.must_hold(self.manifest, proof.prove_generator(self.manifest, self._content))
        model = OnnxModel(self._content[GENERATOR], GENERATOR)
        if model.inputs != self.manifest.inputs:
            raise DamagedPack(f"{GENERATOR} takes {model.inputs}, not {self.manifest.inputs}; fetch the pack again")
        return model

    @cached_property
    def latent_map(self) -> OnnxModel:
        """The network from latents to perceptual features; loaded when first used, as `generator`."""
        if LATENT_MAP not in self._content:
            raise PackError(f"pack {self.name!r} has no latent map yet; run: plgl generator map {self.folder}")
        if not self._is_trusted(LATENT_MAP):
            proof.prove_map(self.manifest, self._content)
        model = OnnxModel(self._content[LATENT_MAP], LATENT_MAP)
        if model.inputs != ("latent",):
            raise DamagedPack(f"{LATENT_MAP} takes {model.inputs}, not ('latent',); fetch the pack again")
        return model

    @cached_property
    def defaults(self) -> dict[str, Tensor]:
        """Value of each condition where nobody gives one, ``shape``, float32."""
        return proof.read_defaults(self.manifest, self._content.get(CONDITIONS))

    @cached_property
    def noise(self) -> dict[str, Tensor]:
        """Values of the noise inputs."""
        return proof.noise_values(self.manifest)

    def generate(
        self,
        latents: Tensor,
        size: int | None = None,
        progress: Callable[[int], None] | None = None,
        *,
        conditions: Mapping[str, Tensor] | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        """Draw pictures, or make sounds or points.

        Guarantee: memory beyond the result stays bounded whatever ``n`` and ``size``; how the work is cut does not
        change an item beyond rounding.

        Args:
            latents: ``(n, d)``; n may be 0.
            size: height and width in pixels, from 16 to 4096; None for the pack's own.
            progress: called with the number of items made so far.
            conditions: values of some conditions, each ``(n, *shape)``, or ``shape`` for all items; the others keep
                their default.
            truncation: psi, from 0 to 10, of a pack that has it; None for its own.

        Returns:
            ``(n, *output.shape)`` float32 within the output's range, on the CPU; pictures ``(n, 3, h, w)`` in [-1, 1].

        Raises:
            SettingError: latents of another shape or not finite; a size out of range, or another size from a generator
                that cannot be resized; an unknown condition or one of another shape; truncation where there is none.
            DamagedPack: the generator answers with something else than its manifest says.
        """
        latents = self._checked(latents)
        shape = self._shape(size)
        given = self._conditions(conditions or {}, len(latents))
        self._check_truncation(truncation)
        media = torch.empty(len(latents), *shape)
        chunk = max(1, 3 * _PIXELS_AT_ONCE // math.prod(shape))
        for start in range(0, len(latents), chunk):
            rows = slice(start, start + chunk)
            part = {name: value[rows] for name, value in given.items()}
            inputs = proof.network_inputs(
                self.manifest, latents[rows], part, self.noise, truncation, (shape[-2:] if len(shape) == 3 else None)
            )
            drawn = self.generator.run(**inputs)
            if drawn.shape != (len(latents[rows]), *shape):
                wanted = (len(latents[rows]), *shape)
                raise DamagedPack(f"{GENERATOR} drew {tuple(drawn.shape)}, not {wanted}; fetch the pack again")
            media[rows] = drawn
            if progress is not None:
                progress(min(start + chunk, len(latents)))
        return media

    def features(self, latents: Tensor, components: int | None = None) -> Tensor:
        """Perceptual features of latents, with a constant for the bias.

        Guarantee: each of the first ``k`` columns has mean 0 and variance 1 over the latent law, up to the size of the
        sample it was measured on; fewer components are a prefix of more.

        Args:
            latents: ``(n, d)``; n may be 0.
            components: ``k``, from 1 to the pack's own; None for all.

        Returns:
            ``(n, k + 1)`` float64 on the CPU; the last column is 1.

        Raises:
            SettingError: latents of another shape or not finite; more components than there are.
            PackError: the pack has no latent map yet.
            DamagedPack: the map answers with another number of components.
        """
        latents = self._checked(latents)
        model = self.latent_map
        k = self.components if components is None else components
        if not 1 <= k <= self.components:
            raise SettingError(f"components={k} must lie between 1 and the {self.components} of pack {self.name!r}")
        features = torch.ones(len(latents), k + 1, dtype=torch.float64)
        for start in range(0, len(latents), _LATENTS_AT_ONCE):
            part = latents[start : start + _LATENTS_AT_ONCE]
            found = model.run(latent=part)
            if found.shape != (len(part), self.components) or not bool(found.isfinite().all()):
                raise DamagedPack(f"{LATENT_MAP} does not answer with {self.components} finite numbers per latent")
            features[start : start + len(part), :k] = found[:, :k].double()
        return features

    def _checked(self, latents: Tensor) -> Tensor:
        if latents.ndim != 2 or latents.shape[1] != self.latents.dimension:
            raise SettingError(f"latents of shape {tuple(latents.shape)} should be (n, {self.latents.dimension})")
        latents = latents.detach().to("cpu", torch.float32)
        if not bool(latents.isfinite().all()):
            raise SettingError("latents hold NaN or infinite numbers; draw them again")
        return latents

    def _shape(self, size: int | None) -> tuple[int, ...]:
        shape = self.manifest.output.shape
        if size is None:
            return shape
        if not SMALLEST <= size <= LARGEST:
            raise SettingError(f"size={size} must lie between {SMALLEST} and {LARGEST} pixels")
        if not self.manifest.resizable and shape[1:] != (size, size):
            own = " x ".join(str(side) for side in shape[1:] or shape)
            raise SettingError(f"size={size}: pack {self.name!r} only makes {own}; leave the size out")
        return (3, size, size)

    def _conditions(self, given: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
        """Every condition's value, ``(n, *shape)``."""
        known = {each.name: each.shape for each in self.manifest.conditions}
        if unknown := sorted(given.keys() - known.keys()):
            names = ", ".join(known) or "none"
            raise SettingError(f"condition {unknown[0]!r} is unknown to pack {self.name!r}; it has: {names}")
        values = {}
        for name, shape in known.items():
            value = given.get(name, self.defaults[name]).detach().to("cpu", torch.float32)
            if tuple(value.shape) not in (shape, (n, *shape)):
                raise SettingError(f"condition {name!r} of shape {tuple(value.shape)} should be {shape} or (n, ...)")
            if not bool(value.isfinite().all()):
                raise SettingError(f"condition {name!r} holds NaN or infinite numbers")
            values[name] = value.expand(n, *shape)
        return values

    def _check_truncation(self, truncation: float | None) -> None:
        if truncation is None:
            return
        if self.manifest.truncation is None:
            raise SettingError(f"truncation={truncation}: pack {self.name!r} has none; leave it out")
        if not 0 <= truncation <= 10:
            raise SettingError(f"truncation={truncation} must lie between 0 and 10")

    def _is_trusted(self, name: str) -> bool:
        return self._proven or self.manifest.files[name][1] in _shipped()


@cache
def _shipped() -> frozenset[str]:
    """SHA-256 of every file that came with the program."""
    manifests = [read_manifest(PACKS / name) for name in known_generators()]
    return frozenset(sha for manifest in manifests for _, sha in manifest.files.values())
