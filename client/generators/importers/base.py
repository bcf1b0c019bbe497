"""What every importer returns, and how that becomes a pack.

To add an importer: one file beside this one with ``IMPORTER = Importer(...)``, and one line in `registry.py`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from client.generators import onnx_rules, proof, torch_network
from client.generators.interface import Condition, Noise, Origin, Output, SourceLaw
from client.generators.manifest import (
    CONDITIONS,
    FORMAT,
    GENERATOR,
    LARGEST_WEIGHTS,
    ONNX,
    TORCH,
    TORCH_FORMAT,
    Manifest,
)
from client.generators.onnx import export
from client.generators.pack_files import fingerprint, write_pack
from client.generators.sandbox import LARGEST_FILE, OWN, Limits
from client.generators.torch_network import Recipe
from common.errors import SettingError, StorageError, UnreadableModel, UnsafeFile
from common.latents import LatentSpace

HEAD = 1 << 16
"""Bytes of a file that `Importer.sniff` sees."""
COMPARED, TOLERANCE = 64, 1e-3
"""Latents on which a pack is compared with its source, and the largest difference relative to the largest value."""
RUNTIME = f"what runs the pack: {ONNX} or {TORCH}; {ONNX} without it, {TORCH} for more weights than ONNX holds"
"""Help of ``--set runtime`` for importers whose networks can also run in torch."""
_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Imported:
    """A generator as an importer read it: a torch network and everything its pack will say.

    Guarantee: shapes of conditions, defaults and latent agree, checked when made. The network is not run here.

    Attributes:
        network: in eval mode. ``forward(latent, *conditions, *noise[, truncation])`` with ``latent`` ``(n, d)`` float32
            from N(0, I), each condition ``(n, *shape)``, each noise ``shape`` and ``truncation`` ``(1,)``, in this
            order, gives ``(n, *output.shape)`` float32 within the output's range. Another latent law, a reshape of the
            latent, a rescaled range and a grey picture's three channels are layers of it: see `normal_to_uniform`.
        latents: its latent space; the law is ``normal``.
        output: what one latent becomes.
        licence: SPDX identifier of the weights, or ``LicenseRef-...``; ``NOASSERTION`` where nobody said.
        notice: what whoever adds it should read, such as terms of the training data; may be empty.
        source: the law the network was trained with.
        latent_shape: shape the network gives the latent, such as ``(4, 8, 8)``; empty for a plain vector.
        conditions: further inputs of every item.
        defaults: for each condition, its value where nobody gives one, ``shape``, float32.
        noise: inputs that are the same for every item.
        truncation: default psi of the input ``truncation``; None for a network without that input.
        origin: the file it came from.
        onnx: the network as an ONNX file with these input names and one output, where it is one already; it is then
            taken as it is, and ``network`` must agree with it.
        written: writes the network as such a file, where that is quicker than tracing all of it; None for tracing.
        compared: what of items ``(n, *output.shape)`` must agree with the source; None for the numbers themselves. For
            a sound made from angles, where rounding can turn one by a whole circle, that is its spectrum.
        recipe: how this program builds the network again without its weights, for a pack that runs in torch; None where
            it cannot.
        runtime: ``onnx`` or ``torch``; empty for ONNX, and torch where there is a recipe and the weights are more than
            one ONNX file holds.
        tolerance: largest difference allowed. More than `TOLERANCE` only where rounding alone moves the source itself
            by as much, as where pitches add up to angles.

    Raises:
        SettingError: something does not fit together.
    """

    network: nn.Module
    latents: LatentSpace
    output: Output
    licence: str
    notice: str = ""
    source: SourceLaw = field(default_factory=SourceLaw)
    latent_shape: tuple[int, ...] = ()
    conditions: tuple[Condition, ...] = ()
    defaults: Mapping[str, Tensor] = field(default_factory=dict)
    noise: tuple[Noise, ...] = ()
    truncation: float | None = None
    origin: Origin | None = None
    onnx: bytes | None = None
    written: Callable[[], bytes] | None = None
    compared: Callable[[Tensor], Tensor] | None = None
    recipe: Recipe | None = None
    runtime: str = ""
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        names = [each.name for each in self.conditions] + [each.name for each in self.noise]
        if len(set(names)) != len(names):
            raise SettingError(f"inputs {', '.join(names)} must have different names")
        if set(self.defaults) != {each.name for each in self.conditions}:
            raise SettingError(f"defaults of {sorted(self.defaults)} must be those of the conditions")
        for each in self.conditions:
            if tuple(self.defaults[each.name].shape) != each.shape:
                found = tuple(self.defaults[each.name].shape)
                raise SettingError(f"default of condition {each.name!r} has shape {found}, not {each.shape}")
        if self.latent_shape and math.prod(self.latent_shape) != self.latents.dimension:
            raise SettingError(f"latent shape {self.latent_shape} does not hold {self.latents.dimension} numbers")
        if self.runtime not in ("", ONNX, TORCH) or (self.runtime == TORCH and self.recipe is None):
            raise SettingError(f"runtime={self.runtime[:40]!r} must be {ONNX}, or {TORCH} where there is a recipe")
        if self.network.training:
            raise SettingError("the network is in training mode; call eval() first")


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """What a person says about a model file. None and empty mean: as the file or the importer says.

    Attributes:
        dimension: ``d``, numbers in a latent.
        law: the law the network was trained with.
        size: height and width of a picture, where a state dict does not tell.
        output_range: least and largest value the network gives, such as ``(0, 1)``.
        truncation: default psi.
        seed: of noise inputs.
        module: the class to fill with weights, ``package.module:Class`` or ``file.py:Class``.
        conditions: defaults as written: ``{"label": "3"}`` or ``{"style": "0.1,0.2"}``.
        licence: of the weights.
        notice: to show.
        settings: what only this importer knows, as written in ``--set name=value``; `Importer.settings` lists them.
        limits: what the file may take when it is first looked at.
    """

    dimension: int | None = None
    law: SourceLaw | None = None
    size: int | None = None
    output_range: tuple[float, float] | None = None
    truncation: float | None = None
    seed: int = 0
    module: str = ""
    conditions: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    notice: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class Importer:
    """One kind of model file.

    Attributes:
        kind: its name, as in ``--as stylegan2``.
        about: one line for help and messages.
        sniff: whether a file looks like this kind, from its path and first `HEAD` bytes; runs nothing, never raises.
        read: reads the file. Raises `UnreadableModel` for one it cannot read, with the reason and the next step, and
            `SettingError` where the person has to say more.
        settings: names of ``--set`` it understands, each with one line of help.
    """

    kind: str
    about: str
    sniff: Callable[[Path, bytes], bool]
    read: Callable[[Path, ImportSettings], Imported]
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A pack that was made and checked, not yet written anywhere.

    Attributes:
        manifest: what it says about itself; without a latent map, which `plgl generator map` learns.
        files: content of each file the manifest names.
        error: largest difference from the source over `COMPARED` latents, relative to the largest value of the source.
        report: of the first run, see `sandbox.first_run`.
    """

    manifest: Manifest
    files: dict[str, bytes]
    error: float
    report: Mapping[str, Any]


def make(imported: Imported, *, name: str, version: str = "1.0.0", limits: Limits = OWN) -> Made:
    """Turn what an importer read into the files of a pack.

    Guarantee: an ONNX file kept every rule of `onnx_rules` in a child process; a network that runs in torch was built
    there by our own code from safetensors. It kept the promises about range, finite
    numbers and repetition there, and agrees with the source on `COMPARED` latents within the tolerance it states.

    Args:
        imported: from an importer.
        name: of the pack, such as ``faces``.
        version: three numbers.
        limits: of the first run.

    Raises:
        UnreadableModel: the network cannot be written as ONNX, or the result does not agree with it.
        UnsafeFile: it breaks a rule, a limit or a promise.
        DamagedPack: the name or version cannot be a pack's.
    """
    torch_runs = _runs_in_torch(imported)
    files = _stored(imported) if torch_runs else {GENERATOR: _onnx(imported)}
    if imported.conditions:
        values = {each: value.detach().float().contiguous() for each, value in imported.defaults.items()}
        files[CONDITIONS] = safetensors.torch.save(values)
    manifest = Manifest(
        name=name,
        version=version,
        dimension=imported.latents.dimension,
        law=imported.latents.law,
        output=imported.output,
        licence=imported.licence,
        opset=0 if torch_runs else onnx_rules.opset_of(_parsed(files[GENERATOR])),
        format=TORCH_FORMAT if torch_runs else FORMAT,
        files={each: fingerprint(data) for each, data in files.items()},
        notice=imported.notice,
        source=imported.source,
        latent_shape=imported.latent_shape,
        conditions=imported.conditions,
        noise=imported.noise,
        truncation=imported.truncation,
        origin=imported.origin,
    )
    report = proof.prove_generator(manifest, files, limits)
    proof.must_hold(manifest, report)
    error, report = _compared(imported, manifest, files, report)
    proof.must_hold(manifest, report)
    if not error < imported.tolerance:
        raise UnreadableModel(
            f"the pack differs from its source by {error:.1e} of the largest value, more than {imported.tolerance:g}; "
            "export the network in float32"
        )
    return Made(manifest=manifest, files=files, error=error, report=report)


def write(imported: Imported, folder: Path, *, name: str, version: str = "1.0.0", limits: Limits = OWN) -> Made:
    """`make` a pack and write it to a new or empty folder, or over a pack: all or nothing.

    Raises:
        PackError: as `make`.
        FolderError, StorageError: as `write_pack`.
    """
    made = make(imported, name=name, version=version, limits=limits)
    write_pack(folder, made.manifest, made.files)
    return made


def normal_to_uniform(latent: Tensor, law: SourceLaw) -> Tensor:
    """The exact change from N(0, I) to the law of the network, any shape: ``low + (high - low) * Phi(latent)``.

    Smooth and increasing in every coordinate. Laws other than ``uniform`` come back unchanged.
    """
    if law.name != "uniform":
        return latent
    return law.low + (law.high - law.low) * 0.5 * (1 + torch.erf(latent / math.sqrt(2)))


def content_of(path: Path) -> bytes:
    """A whole file, read once, so that what is looked at is what is used.

    Raises:
        UnreadableModel: no such file, or not a plain one.
        UnsafeFile: it is larger than any model file that is looked at.
    """
    head_of(path)
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise UnsafeFile(f"{path} has {size} bytes, more than the {LARGEST_FILE} that are looked at")
    return path.read_bytes()


def origin_of(path: Path) -> Origin:
    """Name and SHA-256 of a file.

    Raises:
        UnreadableModel: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return Origin(file=path.name, sha256=hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise UnreadableModel(f"{path} cannot be read: {error.strerror or error}") from error


def head_of(path: Path) -> bytes:
    """The first `HEAD` bytes of a file, for `Importer.sniff`.

    Raises:
        UnreadableModel: no such file, or not a plain one.
    """
    if not path.exists():
        raise UnreadableModel(f"there is no file {path}; give the path of a model file or of a pack's folder")
    if not path.is_file():  # a pipe would block for ever
        raise UnreadableModel(f"{path} is not a plain file; give the path of a model file")
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error


def _runs_in_torch(imported: Imported) -> bool:
    if imported.runtime:
        return imported.runtime == TORCH
    return imported.recipe is not None and torch_network.bytes_of(imported.network) > LARGEST_FILE


def _stored(imported: Imported) -> dict[str, bytes]:
    """Files of a network that runs in torch."""
    if (size := torch_network.bytes_of(imported.network)) > LARGEST_WEIGHTS:
        raise UnreadableModel(f"it has {size >> 30} GiB of weights, more than the {LARGEST_WEIGHTS >> 30} of a pack")
    if imported.recipe is None:
        raise SettingError("nothing says how to build this network again; leave out --set runtime")
    return torch_network.stored(imported.recipe, imported.network)


def _onnx(imported: Imported) -> bytes:
    return _exported(imported) if imported.onnx is None else imported.onnx


def _exported(imported: Imported) -> bytes:
    if imported.output.resizable:
        raise SettingError("an imported picture cannot be resizable; give its own size")
    n = proof.BATCH
    inputs = {"latent": torch.zeros(n, imported.latents.dimension)}
    inputs |= {each.name: imported.defaults[each.name].expand(n, *each.shape) for each in imported.conditions}
    dynamic = {name: {0: "n"} for name in inputs}
    inputs |= {each.name: torch.zeros(each.shape) for each in imported.noise}
    if imported.truncation is not None:
        inputs["truncation"] = torch.tensor([imported.truncation])
    try:
        content = imported.written() if imported.written else export(imported.network, inputs, "media", dynamic)
    except Exception as error:  # the exporter raises whatever the network's operations bring about
        cause = error.__cause__ or error  # the exporter's own words are advice to change its code
        first = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UnreadableModel(f"the network cannot be written as ONNX: {first[:300]}") from error
    if fixed := [each.name for each in _parsed(content).graph.input if each.name in dynamic and _is_fixed(each)]:
        raise UnreadableModel(
            f"the network takes {n} of {fixed[0]} at once and no other number, because its forward makes a number of "
            "the batch, as len(x) does; write x.shape[0], or -1 in reshape"
        )
    return content


def _is_fixed(value: Any) -> bool:
    """Whether the first side of an ONNX input is a number."""
    return bool(value.type.tensor_type.shape.dim[0].dim_value)


def _parsed(content: bytes) -> Any:
    try:
        return onnx_rules.parse(content)
    except onnx_rules.Refused as error:
        raise UnreadableModel(f"the network {error}") from error


@torch.no_grad()
def _compared(
    imported: Imported, manifest: Manifest, files: Mapping[str, bytes], report: dict[str, Any]
) -> tuple[float, dict[str, Any]]:
    """The largest relative difference from the source, and the report with the range of these items too."""
    latents = imported.latents.sample(COMPARED, torch.Generator().manual_seed(1))
    noise = proof.noise_values(manifest)
    model = proof.network_of(manifest, files)
    worst, largest = 0.0, 0.0
    for part in torch.split(latents, _AT_ONCE):
        inputs = proof.network_inputs(manifest, part, imported.defaults, noise)
        wanted, found = imported.network(*inputs.values()).float().cpu(), model.run(**inputs)
        if wanted.shape != found.shape:
            raise UnreadableModel(f"the network gives {tuple(wanted.shape)}, and in the pack {tuple(found.shape)}")
        report = proof.seen_too(report, found)
        if imported.compared is not None:
            wanted, found = imported.compared(wanted), imported.compared(found)
        worst = max(worst, float((wanted - found).abs().max()))
        largest = max(largest, float(wanted.abs().max()))
    return worst / max(largest, 1e-12), report
