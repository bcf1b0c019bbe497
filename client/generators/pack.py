"""Generator packs: a folder with a generator, its latent map and a manifest that vouches for both.

Everybody in a federation uses the same pack, so a pack is known by the hash of its manifest, which holds the hash of
every other file.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client.generators import art
from client.generators.onnx import OPSET, OnnxModel
from common.errors import DamagedPack, FolderError, PackError, SettingError, StorageError, UnknownGenerator
from common.files import write_atomically
from common.latents import LatentSpace

FORMAT = "plgl-pack-1"
GENERATOR, LATENT_MAP, MANIFEST = "generator.onnx", "latent_map.onnx", "manifest.json"
SMALLEST, LARGEST = 16, 4096
PACKS = Path(__file__).parent / "packs"

_PIXELS_AT_ONCE = 1 << 17  # a few hundred MiB of intermediate values at most
_LATENTS_AT_ONCE = 1 << 15
_MANIFEST_LIMIT = 1 << 20


def known_generators() -> tuple[str, ...]:
    """Names of the packs that come with the program, sorted."""
    return tuple(sorted(path.parent.name for path in PACKS.glob(f"*/{MANIFEST}")))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a pack says about itself.

    Guarantee: every field has its type and range, checked when made.

    Attributes:
        name: lower-case name, as in ``art``.
        version: three numbers, as in ``1.0.0``.
        dimension: latent dimension ``d``.
        law: latent law, see `LatentSpace`.
        channels: colour channels of a picture.
        height: default height in pixels.
        width: default width in pixels.
        resizable: whether the generator draws any size.
        licence: SPDX identifier.
        opset: ONNX operator set of the files.
        files: for each file, its size in bytes and its SHA-256 in hexadecimal.
        components: ``k``, outputs of the latent map; 0 without one.
        r2: ``(k,)`` share of each component's variance that the map explains on held-out latents.
        scale: ``(k,)`` standard deviation of each component among perceptual features, root mean square 1.

    Raises:
        DamagedPack: a field is missing or impossible.
    """

    name: str
    version: str
    dimension: int
    law: str
    channels: int
    height: int
    width: int
    resizable: bool
    licence: str
    opset: int
    files: dict[str, tuple[int, str]]
    components: int = 0
    r2: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        expected = {GENERATOR, LATENT_MAP} if self.components else {GENERATOR}
        checks = {
            "name": bool(re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", self.name)),
            "version": bool(re.fullmatch(r"\d+\.\d+\.\d+", self.version)),
            "latent": 1 <= self.dimension <= 65536,
            "output": self.channels == 3 and all(SMALLEST <= side <= LARGEST for side in (self.height, self.width)),
            "components": 0 <= self.components <= 65536,
            "r2": len(self.r2) == self.components and all(value <= 1 for value in self.r2),
            "scale": len(self.scale) == self.components and all(0 < value < 1e6 for value in self.scale),
            "files": set(self.files) == expected
            and all(size > 0 and len(sha) == 64 for size, sha in self.files.values()),
        }
        if wrong := [field for field, good in checks.items() if not good]:
            raise DamagedPack(f"the manifest's {', '.join(wrong)} cannot be right; fetch the pack again")
        try:
            LatentSpace(self.dimension, self.law)
        except SettingError as error:
            raise DamagedPack(f"the manifest's latent cannot be right: {error}; fetch the pack again") from error

    @classmethod
    def of_art(cls, generator: bytes) -> Manifest:
        """Manifest of the embedded art generator without a latent map; ``generator`` is its ONNX file."""
        return cls(
            name="art",
            version="1.0.0",
            dimension=art.DIMENSION,
            law="normal",
            channels=3,
            height=256,
            width=256,
            resizable=True,
            licence="Apache-2.0",
            opset=OPSET,
            files={GENERATOR: fingerprint(generator)},
        )

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, two spaces, UTF-8, one line feed at the end."""
        about = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "latent": {"dimension": self.dimension, "law": self.law},
            "output": {
                "kind": "image",
                "channels": self.channels,
                "range": [-1.0, 1.0],
                "height": self.height,
                "width": self.width,
                "resizable": self.resizable,
            },
            "components": self.components,
            "r2": list(self.r2),
            "scale": list(self.scale),
            "licence": self.licence,
            "opset": self.opset,
            "files": {name: {"size": size, "sha256": sha} for name, (size, sha) in self.files.items()},
        }
        return (json.dumps(about, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def decode(cls, content: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            DamagedPack: not JSON, not of this format, or with a field missing, unknown or impossible.
        """
        try:
            about = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DamagedPack(f"{MANIFEST} is not JSON; fetch the pack again") from error
        if not isinstance(about, dict) or "format" not in about:
            raise DamagedPack(f"{MANIFEST} is not about a generator pack; choose another folder")
        if about["format"] != FORMAT:
            found = str(about["format"])[:40]
            raise DamagedPack(f"pack format {found!r} is not {FORMAT!r}; update the program or the pack")
        try:
            manifest = cls(
                name=_text(about["name"]),
                version=_text(about["version"]),
                dimension=_whole(about["latent"]["dimension"]),
                law=_text(about["latent"]["law"]),
                channels=_whole(about["output"]["channels"]),
                height=_whole(about["output"]["height"]),
                width=_whole(about["output"]["width"]),
                resizable=bool(about["output"]["resizable"]),
                licence=_text(about["licence"]),
                opset=_whole(about["opset"]),
                files={_text(k): (_whole(v["size"]), _text(v["sha256"])) for k, v in about["files"].items()},
                components=_whole(about["components"]),
                r2=tuple(float(value) for value in about["r2"]),
                scale=tuple(float(value) for value in about["scale"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DamagedPack(f"{MANIFEST} lacks a field or has a wrong type: {error}; fetch the pack again") from error
        if json.loads(manifest.encode()) != about:
            raise DamagedPack(f"{MANIFEST} says more or other than format {FORMAT!r} allows; fetch the pack again")
        return manifest


class GeneratorPack:
    """A generator with its latent map, verified and ready to run.

    Guarantee: the networks that run are byte for byte those the manifest names; nothing is fetched or written.

    Attributes:
        folder: where it lies.
        manifest: what it says about itself.
        hash: SHA-256 of the canonical manifest; names the pack in priors and updates.
        latents: its latent space.
    """

    def __init__(self, folder: Path, manifest: Manifest, content: dict[str, bytes]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.hash = hashlib.sha256(manifest.encode()).hexdigest()
        self.latents = LatentSpace(manifest.dimension, manifest.law)
        self._content = content

    @classmethod
    def open(cls, name_or_folder: str | Path) -> GeneratorPack:
        """Open a pack that comes with the program, or one in a folder.

        Args:
            name_or_folder: a name from `known_generators`, which comes first, or the path of a folder.

        Raises:
            UnknownGenerator: neither; the message lists the names.
            DamagedPack: a file is missing, altered, or not what the manifest says.
        """
        known = known_generators()
        folder = PACKS / name_or_folder if str(name_or_folder) in known else Path(name_or_folder)
        if not str(name_or_folder) or not folder.is_dir():
            raise UnknownGenerator(
                f"no generator {str(name_or_folder)!r}; known: {', '.join(known) or 'none'}, or the folder of a pack"
            )
        manifest = Manifest.decode(_read(folder, MANIFEST, _MANIFEST_LIMIT))
        return cls(folder, manifest, {name: _verified(folder, name, manifest) for name in sorted(manifest.files)})

    @classmethod
    def open_without_map(cls, folder: Path) -> GeneratorPack:
        """Open only the generator of a pack, to learn its latent map; a damaged map does no harm.

        Raises:
            UnknownGenerator: there is no such folder.
            DamagedPack: the manifest or the generator is missing, altered, or not what the manifest says.
        """
        if not folder.is_dir():
            raise UnknownGenerator(f"no folder {folder}; make one with: plgl generator build art {folder}")
        manifest = Manifest.decode(_read(folder, MANIFEST, _MANIFEST_LIMIT))
        bare = replace(manifest, files={GENERATOR: manifest.files[GENERATOR]}, components=0, r2=(), scale=())
        return cls(folder, bare, {GENERATOR: _verified(folder, GENERATOR, manifest)})

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
        """The network that draws; loaded when first used."""
        model = OnnxModel(self._content[GENERATOR], GENERATOR)
        wanted = ("latent", "grid") if self.manifest.resizable else ("latent",)
        if model.inputs != wanted:
            raise DamagedPack(f"{GENERATOR} takes {model.inputs}, not {wanted}; fetch the pack again")
        return model

    @cached_property
    def latent_map(self) -> OnnxModel:
        """The network from latents to perceptual features; loaded when first used."""
        if LATENT_MAP not in self._content:
            raise PackError(f"pack {self.name!r} has no latent map yet; run: plgl generator map {self.folder}")
        model = OnnxModel(self._content[LATENT_MAP], LATENT_MAP)
        if model.inputs != ("latent",):
            raise DamagedPack(f"{LATENT_MAP} takes {model.inputs}, not ('latent',); fetch the pack again")
        return model

    def generate(
        self, latents: Tensor, size: int | None = None, progress: Callable[[int], None] | None = None
    ) -> Tensor:
        """Draw pictures.

        Guarantee: memory beyond the result stays bounded whatever ``n`` and ``size``; how the work is cut does not
        change a picture beyond rounding.

        Args:
            latents: ``(n, d)``; n may be 0.
            size: height and width in pixels, from 16 to 4096; None for the pack's own.
            progress: called with the number of pictures drawn so far.

        Returns:
            ``(n, 3, h, w)`` float32 in [-1, 1], on the CPU.

        Raises:
            SettingError: latents of another shape or not finite; a size out of range, or another size from a generator
                that cannot be resized.
            DamagedPack: the generator answers with something else than pictures.
        """
        latents = self._checked(latents)
        height, width = self._shape(size)
        inputs = {"grid": art.pixel_grid(height, width)} if self.manifest.resizable else {}
        pictures = torch.empty(len(latents), 3, height, width)
        chunk = max(1, _PIXELS_AT_ONCE // (height * width))
        for start in range(0, len(latents), chunk):
            part = latents[start : start + chunk]
            drawn = self.generator.run(latent=part, **inputs)
            if drawn.shape != (len(part), 3, height, width):
                raise DamagedPack(f"{GENERATOR} drew {tuple(drawn.shape)}, not {(len(part), 3, height, width)}")
            pictures[start : start + chunk] = drawn
            if progress is not None:
                progress(start + len(part))
        return pictures

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

    def _shape(self, size: int | None) -> tuple[int, int]:
        height, width = self.manifest.height, self.manifest.width
        if size is None:
            return height, width
        if not SMALLEST <= size <= LARGEST:
            raise SettingError(f"size={size} must lie between {SMALLEST} and {LARGEST} pixels")
        if not self.manifest.resizable and size != height:
            raise SettingError(f"size={size}: pack {self.name!r} only draws {height} pixels; leave the size out")
        return size, size


def fingerprint(content: bytes) -> tuple[int, str]:
    """Size in bytes and SHA-256 in hexadecimal, as a manifest holds them."""
    return len(content), hashlib.sha256(content).hexdigest()


def check_target(folder: Path) -> Manifest | None:
    """Whether a pack may be written here.

    Returns:
        The manifest of the pack that would be replaced; None for a new or an empty folder.

    Raises:
        FolderError: something else is there.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise FolderError(f"{folder} is a file; choose another folder")
    if not any(folder.iterdir()):
        return None
    try:
        return Manifest.decode(_read(folder, MANIFEST, _MANIFEST_LIMIT))
    except DamagedPack as error:
        raise FolderError(f"{folder} is not empty and holds no generator pack; choose another folder") from error


def write_pack(folder: Path, manifest: Manifest, content: dict[str, bytes]) -> None:
    """Write a pack, or the changed files of one.

    Guarantee: a new folder appears whole or not at all. In an existing pack each file is whole, and the manifest comes
    last: after a crash in between, opening the pack says that it is damaged and the same command repairs it.

    Args:
        folder: new, empty, or a pack; its parent folders are made.
        manifest: with the fingerprints of all files.
        content: the files to write.

    Raises:
        FolderError: something else is there.
        StorageError: the disk refused.
    """
    existing = check_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if existing is not None:
            _write_files(folder, manifest, content)
            for name in existing.files.keys() - manifest.files.keys():
                (folder / name).unlink(missing_ok=True)
            return
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as workshop:
            whole = Path(workshop) / "pack"
            whole.mkdir()
            _write_files(whole, manifest, content)
            if folder.exists():
                folder.rmdir()
            shutil.move(whole, folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {folder}: {reason}; free some space or choose another folder") from error


def _write_files(folder: Path, manifest: Manifest, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        write_atomically(folder / name, data)
    write_atomically(folder / MANIFEST, manifest.encode())


def _verified(folder: Path, name: str, manifest: Manifest) -> bytes:
    """Content of a file, exactly as the manifest names it."""
    size, sha = manifest.files[name]
    content = _read(folder, name, size)
    if len(content) != size:
        found = "more" if len(content) > size else len(content)
        raise DamagedPack(f"{folder / name} has {found} bytes, not {size}; fetch the pack again")
    if hashlib.sha256(content).hexdigest() != sha:
        raise DamagedPack(f"{folder / name} was altered: its SHA-256 is not the manifest's; fetch the pack again")
    return content


def _read(folder: Path, name: str, limit: int) -> bytes:
    """At most ``limit + 1`` bytes of a file, so that a huge one cannot fill the memory."""
    try:
        with (folder / name).open("rb") as file:
            return file.read(limit + 1)
    except FileNotFoundError as error:
        raise DamagedPack(f"{folder} has no {name}; it is not a generator pack, or fetch the pack again") from error
    except OSError as error:
        raise DamagedPack(f"{folder / name} cannot be read: {error.strerror or error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is not text")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{value} is not a whole number")
    return operator.index(value)
