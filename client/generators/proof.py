"""The first run of a pack's networks, in a child process: what it takes, gives, and whether it gives the same again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from client.generators import art, sandbox, torch_network
from client.generators.manifest import CONDITIONS, GENERATOR, LATENT_MAP, NETWORK, TORCH, WEIGHTS, Manifest
from client.generators.onnx import OnnxModel
from client.generators.sandbox import Limits
from client.generators.torch_network import Recipe, TorchModel
from common.errors import DamagedPack, UnsafeFile

BATCH = 3
_RANGE = "when adding it, say what it draws with --output-range LOW HIGH, or cut it with --set clip=yes"
ALONE = 1e-3
"""Most an item drawn alone may differ from the same item in a batch, relative to the largest value."""


def read_defaults(manifest: Manifest, content: bytes | None) -> dict[str, Tensor]:
    """Defaults of the conditions, from the file of that name: each ``shape``, float32.

    Raises:
        DamagedPack: the file does not hold exactly those.
    """
    if not manifest.conditions:
        return {}
    try:
        found = safetensors.torch.load(content or b"")
    except Exception as error:  # safetensors has an error type of its own, and raises others
        raise DamagedPack(f"{CONDITIONS} cannot be read; fetch the pack again") from error
    wanted = {each.name: each.shape for each in manifest.conditions}
    given = {name: tuple(value.shape) for name, value in found.items()}
    if given != wanted or not all(v.dtype == torch.float32 and bool(v.isfinite().all()) for v in found.values()):
        raise DamagedPack(f"{CONDITIONS} holds other values than the manifest's conditions; fetch the pack again")
    return found


def noise_values(manifest: Manifest) -> dict[str, Tensor]:
    """Values of the noise inputs, from their seeds."""
    return {
        each.name: torch.randn(each.shape, generator=torch.Generator().manual_seed(each.seed))
        for each in manifest.noise
    }


def network_inputs(
    manifest: Manifest,
    latents: Tensor,
    conditions: Mapping[str, Tensor],
    noise: Mapping[str, Tensor],
    truncation: float | None = None,
    size: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """Inputs of the generator's network for one batch, in its order.

    Args:
        manifest: of the pack.
        latents: ``(n, d)`` float32; their device is that of all inputs, where conditions and noise lie there too.
        conditions: each ``(n, *shape)``, or ``shape`` for all items alike.
        noise: as from `noise_values`.
        truncation: psi; None for the pack's own.
        size: height and width from a resizable generator; None for its own.
    """
    inputs = {"latent": latents}
    for each in manifest.conditions:
        value = conditions[each.name].to(torch.float32)
        inputs[each.name] = value if value.ndim > len(each.shape) else value.expand(len(latents), *each.shape)
    inputs |= {each.name: noise[each.name] for each in manifest.noise}
    if manifest.truncation is not None:
        inputs["truncation"] = torch.tensor(
            [manifest.truncation if truncation is None else truncation], device=latents.device
        )
    if manifest.resizable:
        inputs["grid"] = art.pixel_grid(*(size or (manifest.height, manifest.width))).to(latents.device)
    return inputs


def prove_generator(manifest: Manifest, content: Mapping[str, bytes], limits: Limits | None = None) -> dict[str, Any]:
    """Run a generator for the first time; a resizable one small.

    Returns:
        The report of `sandbox.first_run`, or of `sandbox.first_build` for a network that runs in torch.

    Raises:
        UnsafeFile: it breaks a rule or a limit.
        DamagedPack: it gives another shape than the manifest says.
    """
    latents = torch.randn(BATCH, manifest.dimension, generator=torch.Generator().manual_seed(0))
    side = (20, 24) if manifest.resizable else None
    defaults = read_defaults(manifest, content.get(CONDITIONS))
    inputs = network_inputs(manifest, latents, defaults, noise_values(manifest), size=side)
    batched = {"latent"} | {each.name for each in manifest.conditions}
    if manifest.runtime == TORCH:
        torch_network.ready(Recipe.decode(content[NETWORK]))  # what is not installed is said before anything is copied
        report = sandbox.first_build(content[NETWORK], content[WEIGHTS], WEIGHTS, _plain(inputs), batched, limits)
    else:
        report = sandbox.first_run(content[GENERATOR], GENERATOR, _plain(inputs), batched, limits)
    shape = [BATCH, *((3, *side) if side else manifest.output.shape)]
    if report["shape"] != shape or report["type"] != "float32":
        found = f"{report['type']} {tuple(report['shape'])}"
        what = manifest.network_files[-1]
        raise DamagedPack(f"{what} gives {found}, and the manifest says float32 {tuple(shape)}")
    return report


def network_of(
    manifest: Manifest,
    content: Mapping[str, bytes],
    device: torch.device | None = None,
    *,
    checkpointing: bool = False,
) -> OnnxModel | TorchModel:
    """The generator's network, loaded to run in this process; arguments as of `OnnxModel` and `TorchModel`."""
    if manifest.runtime == TORCH:
        return TorchModel(content, manifest.inputs, device, checkpointing=checkpointing)
    return OnnxModel(content[GENERATOR], GENERATOR, device)


def prove_map(manifest: Manifest, content: Mapping[str, bytes], limits: Limits | None = None) -> dict[str, Any]:
    """Run a latent map for the first time; as `prove_generator`."""
    latents = torch.randn(BATCH, manifest.dimension, generator=torch.Generator().manual_seed(0))
    report = sandbox.first_run(content[LATENT_MAP], LATENT_MAP, {"latent": latents}, {"latent"}, limits)
    if report["shape"] != [BATCH, manifest.components]:
        raise DamagedPack(f"{LATENT_MAP} gives {tuple(report['shape'])}, not {(BATCH, manifest.components)}")
    return report


def faults(manifest: Manifest, report: Mapping[str, Any]) -> dict[str, str]:
    """What a generator's first run shows against its promises, by promise; empty where all are kept."""
    found: dict[str, str] = {}
    low, high = manifest.output.low, manifest.output.high
    slack = 1e-3 * (high - low)
    if not report["finite"]:
        found["finite"] = "it draws NaN or infinite numbers"
    elif report["low"] < low - slack or report["high"] > high + slack:
        found["value range"] = (
            f"it draws {report['low']:.4g} to {report['high']:.4g}, outside {low:g} to {high:g}; {_RANGE}"
        )
    if not report["repeats"]:
        found["deterministic"] = "the same latents gave something else the second time"
    elif report["finite"] and (report["alone_error"] is None or report["alone_error"] > ALONE):
        found["deterministic"] = "an item depends on the others in its batch; export the network in eval mode"
    return found


def seen_too(report: Mapping[str, Any], media: Tensor) -> dict[str, Any]:
    """The report, with its range over these items too."""
    if not report["finite"] or not bool(media.isfinite().all()):
        return {**report, "finite": False}
    low, high = min(report["low"], float(media.min())), max(report["high"], float(media.max()))
    return {**report, "low": low, "high": high}


def must_hold(manifest: Manifest, report: Mapping[str, Any]) -> None:
    """Refuse a generator whose first run breaks a promise.

    Raises:
        UnsafeFile: names the promises.
    """
    if broken := faults(manifest, report):
        raise UnsafeFile(
            f"{manifest.network_files[-1]} of {manifest.name} cannot be used: " + "; ".join(broken.values())
        )


def _plain(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in inputs.items()}
