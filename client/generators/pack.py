"""Generator packs: a folder with a generator, its latent map and a manifest that vouches for both.

Everybody in a federation uses the same pack, so a pack is known by the hash of its manifest, which holds the hash of
every other file.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor

from client.generators import art, half, proof
from client.generators.chunks import in_chunks
from client.generators.fetched import FETCHABLE
from client.generators.installed import InstalledPacks
from client.generators.interface import LARGEST, SMALLEST, Output
from client.generators.item_cache import ItemCache
from client.generators.manifest import (
    CONDITIONS,
    FIRST_FORMAT,
    FORMAT,
    GENERATOR,
    LATENT_MAP,
    MANIFEST,
    SIGNATURE,
    TORCH,
    Manifest,
)
from client.generators.onnx import OPSET, OnnxModel
from client.generators.order import Order, checked_latents
from client.generators.pack_files import check_target, fingerprint, read_manifest, refuse_others, verified, write_pack
from client.generators.pack_signature import signer_of
from client.generators.speed import LARGEST_CHUNK, SpeedSettings
from client.generators.torch_network import TorchModel
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

_PIXELS_AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 22}  # a few hundred MiB, or a few GiB, of intermediate values
_LATENTS_AT_ONCE = 1 << 15
_PROBED = 8  # items that float16 is checked on


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
        speed: how it runs; see `tuned`.
        cache: items drawn before, read by `generate`; None for none. See `client.generators.ready`.
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
        self.speed = SpeedSettings()
        self.cache: ItemCache | None = None
        self._content = content
        self._proven = proven
        self._fitting: dict[tuple[int, ...], int] = {}  # by shape, where less fitted in memory than was thought
        self._noise_on: dict[torch.device, dict[str, Tensor]] = {}

    @classmethod
    def open(
        cls, name_or_folder: str | Path, home: Path | None = None, *, speed: SpeedSettings | None = None
    ) -> GeneratorPack:
        """Open a pack that comes with the program, one that was added, or one in a folder.

        Args:
            name_or_folder: a name from `known_generators`, which comes first; a name of an added one; or the path of a
                folder.
            home: folder of the added ones; None for the usual one.
            speed: how it runs, such as with gradient checkpointing; None for the usual way.

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
        if manifest.runtime == TORCH:
            refuse_others(folder, manifest)
        pack = cls(folder, manifest, content, signer=signer_of(folder, manifest), proven=proven)
        return pack if speed is None else pack.tuned(speed)

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
        bare = replace(manifest, files=kept, components=0, r2=(), scale=(), learned=None)
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
    def generator(self) -> OnnxModel | TorchModel:
        """The network that draws; loaded when first used, after its first run in a child process if it is foreign."""
        if not all(self._is_trusted(name) for name in self.manifest.network_files):
            proof.must_hold(self.manifest, proof.prove_generator(self.manifest, self._content))
        checkpointing = self.speed.gradient_checkpointing
        model = proof.network_of(self.manifest, self._content, self._device(), checkpointing=checkpointing)
        if isinstance(model, TorchModel):
            return model
        if model.inputs != self.manifest.inputs:
            raise DamagedPack(f"{GENERATOR} takes {model.inputs}, not {self.manifest.inputs}; fetch the pack again")
        if model.device.type == "cuda" and self.speed.half:
            span = self.manifest.output.high - self.manifest.output.low
            return half.faster(model, self._content[GENERATOR], self._probe(model.device), span)
        return model

    @cached_property
    def latent_map(self) -> OnnxModel:
        """The network from latents to perceptual features; loaded when first used, as `generator`."""
        if LATENT_MAP not in self._content:
            raise PackError(f"pack {self.name!r} has no latent map yet; run: plgl generator map {self.folder}")
        if not self._is_trusted(LATENT_MAP):
            proof.prove_map(self.manifest, self._content)
        model = OnnxModel(self._content[LATENT_MAP], LATENT_MAP, self._device())
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

    def tuned(self, speed: SpeedSettings) -> GeneratorPack:
        """The same pack, run in another way."""
        other = copy.copy(self)
        other.speed, other._fitting = speed, {}
        for network in ("generator", "latent_map"):
            other.__dict__.pop(network, None)
        return other

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
        change an item beyond rounding. Latents on a GPU that the network runs on give items there, and nothing is
        copied to the host on the way. From a generator that runs in torch, latents that ask for gradients give items
        with a gradient back to them; the memory that takes grows with ``n``, and no item comes from the cache.

        Args:
            latents: ``(n, d)``; n may be 0.
            size: height and width in pixels, from 16 to 4096; None for the pack's own.
            progress: called with the number of items made so far.
            conditions: values of some conditions, each ``(n, *shape)``, or ``shape`` for all items; the others keep
                their default.
            truncation: psi, from 0 to 10, of a pack that has it; None for its own.

        Returns:
            ``(n, *output.shape)`` float32 within the output's range, on the device of the latents; pictures
            ``(n, 3, h, w)`` in [-1, 1].

        Raises:
            SettingError: latents of another shape or not finite; a size out of range, or another size from a generator
                that cannot be resized; an unknown condition or one of another shape; truncation where there is none.
            DamagedPack: the generator answers with something else than its manifest says.
            OutOfMemory: not even one item fits.
        """
        order = self._order(latents, size, conditions, truncation)
        if latents.requires_grad and torch.is_grad_enabled() and isinstance(model := self.generator, TorchModel):
            return self._traced(model, replace(order, latents=latents.to(torch.float32)), progress)
        media = order.latents.new_empty(len(order), *order.shape)
        missing = self._read(media, order)
        if len(missing) == len(order):
            self._draw(media, order, progress)
        elif len(missing):
            fresh = media.new_empty(len(missing), *order.shape)
            self._draw(fresh, order.select(missing), progress)
            media[missing] = fresh
        return media

    def keys(
        self,
        latents: Tensor,
        size: int | None = None,
        *,
        conditions: Mapping[str, Tensor] | None = None,
        truncation: float | None = None,
    ) -> tuple[str, list[str]]:
        """Group and names of items in an `ItemCache`; arguments as of `generate`."""
        return self._order(latents, size, conditions, truncation).names(self.manifest, self.hash)

    def _order(
        self, latents: Tensor, size: int | None, conditions: Mapping[str, Tensor] | None, truncation: float | None
    ) -> Order:
        return Order.checked(self.manifest, latents, size, conditions or {}, truncation, self.defaults)

    def _read(self, media: Tensor, order: Order) -> Tensor:
        """Fill in what was drawn before; the rows ``(m,)`` that were not."""
        if self.cache is None or not len(media):
            return torch.arange(len(media))
        group, names = order.names(self.manifest, self.hash)
        missing = []
        for row, name in enumerate(names):
            found = self.cache.get(group, name, order.shape)
            if found is None:
                missing.append(row)
            else:
                media[row] = found
        return torch.tensor(missing, dtype=torch.long)

    def _draw(self, media: Tensor, order: Order, progress: Callable[[int], None] | None) -> None:
        """Run the network in chunks, into ``media`` ``(n, *shape)``."""
        model = self.generator

        def work(rows: slice, inputs: dict[str, Tensor]) -> None:
            model.run(media[rows], **inputs)

        self._in_chunks(order, work, progress)

    def _traced(self, model: TorchModel, order: Order, progress: Callable[[int], None] | None) -> Tensor:
        """Media ``(n, *shape)`` with a gradient back to the latents."""
        parts = [order.latents.new_empty(0, *order.shape)]

        def work(rows: slice, inputs: dict[str, Tensor]) -> None:
            found = model.traced(**inputs)
            if found.shape != (rows.stop - rows.start, *order.shape):
                raise DamagedPack(
                    f"pack {self.name!r} drew {tuple(found.shape[1:])}, not {order.shape}; fetch it again"
                )
            parts.append(found)

        self._in_chunks(order, work, progress)
        return torch.cat(parts)

    def _in_chunks(
        self,
        order: Order,
        work: Callable[[slice, dict[str, Tensor]], None],
        progress: Callable[[int], None] | None,
    ) -> None:
        """Work on the inputs of the network in chunks that fit in memory."""
        inputs = order.inputs(self.manifest, self._noise(order.latents.device))
        batched = {"latent", *order.conditions}

        def part(rows: slice) -> None:
            work(rows, {n: value[rows] if n in batched else value for n, value in inputs.items()})

        usual = max(1, 3 * _PIXELS_AT_ONCE[self.generator.device.type] // math.prod(order.shape))
        chunk = min(self.speed.items_at_once or usual, self._fitting.get(order.shape, LARGEST_CHUNK))
        fitted = in_chunks(len(order), chunk, part, progress)
        if fitted < chunk:
            self._fitting[order.shape] = fitted

    def _noise(self, device: torch.device) -> dict[str, Tensor]:
        """Values of the noise inputs, brought to a device once."""
        if device not in self._noise_on:
            self._noise_on[device] = {name: value.to(device) for name, value in self.noise.items()}
        return self._noise_on[device]

    def _device(self) -> torch.device | None:
        """Where the networks shall run; None leaves it to what there is."""
        if self.speed.device == "cuda" and not torch.cuda.is_available():
            raise SettingError("device='cuda': there is no GPU that torch can use; say auto or cpu")
        return None if self.speed.device == "auto" else torch.device(self.speed.device)

    def _probe(self, device: torch.device) -> dict[str, Tensor]:
        """Inputs for some typical items at the pack's own size."""
        latents = self.latents.sample(_PROBED, torch.Generator().manual_seed(0)).to(device)
        return self._order(latents, None, None, None).inputs(self.manifest, self._noise(device))

    def features(self, latents: Tensor, components: int | None = None) -> Tensor:
        """Perceptual features of latents, with a constant for the bias.

        Guarantee: each of the first ``k`` columns has mean 0 and variance 1 over the latent law, up to the size of the
        sample it was measured on; fewer components are a prefix of more.

        Args:
            latents: ``(n, d)``; n may be 0.
            components: ``k``, from 1 to the pack's own; None for all.

        Returns:
            ``(n, k + 1)`` float64 on the device of the latents; the last column is 1.

        Raises:
            SettingError: latents of another shape or not finite; more components than there are.
            PackError: the pack has no latent map yet.
            DamagedPack: the map answers with another number of components.
        """
        latents = checked_latents(self.manifest, latents)
        model = self.latent_map
        k = self.components if components is None else components
        if not 1 <= k <= self.components:
            raise SettingError(f"components={k} must lie between 1 and the {self.components} of pack {self.name!r}")
        features = torch.ones(len(latents), k + 1, dtype=torch.float64, device=latents.device)

        def work(rows: slice) -> None:
            found = model.run(latent=latents[rows])
            if found.shape != (len(latents[rows]), self.components) or not bool(found.isfinite().all()):
                raise DamagedPack(f"{LATENT_MAP} does not answer with {self.components} finite numbers per latent")
            features[rows, :k] = found[:, :k].double()

        in_chunks(len(latents), _LATENTS_AT_ONCE, work)
        return features

    def _is_trusted(self, name: str) -> bool:
        return self._proven or self.manifest.files[name][1] in _shipped()


@cache
def _shipped() -> frozenset[str]:
    """SHA-256 of every file that came with the program."""
    manifests = [read_manifest(PACKS / name) for name in known_generators()]
    return frozenset(sha for manifest in manifests for _, sha in manifest.files.values())
