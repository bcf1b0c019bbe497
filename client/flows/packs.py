"""Flows out of generator packs, and back into one: what a person rated as a pack learns as a flow.

Weights that can learn are in a pack that runs in torch, and in the folder ``plgl generator train`` leaves. An ONNX file
holds constants that a compiler has folded, so a pack of that kind is taken together with the folder it came from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from client.flows.adapters import merged
from client.flows.denoising import Early
from client.flows.model import FlowModel, Reversed
from client.flows.rectified import SamplerSettings
from client.generators.importers.base import Imported
from client.generators.importers.sampling import Denoised, flow_steps
from client.generators.importers.unrolling import Shown, shown
from client.generators.installed import InstalledPacks
from client.generators.interface import Origin
from client.generators.manifest import NETWORK, TORCH
from client.generators.pack import GeneratorPack
from client.generators.torch_network import Recipe, TorchModel
from client.generators.training import checkpoint
from client.generators.training.cli import PACK
from client.generators.training.course import Course, TrainingSettings
from common.errors import FolderError, SettingError

_COMPARED = 4  # latents on which a folder and the pack beside it must agree
_ALIKE = 1e-2  # of the range; they are the same network in two libraries
_STREAM = "any generator has a stream of what you like: plgl stream --generator"


@dataclass(frozen=True, kw_only=True, eq=False)
class PackFlow:
    """A pack whose flow can learn.

    Attributes:
        pack: as it was rated.
        network: that draws, in torch, ``(n, d)`` latents to pictures; never changed.
        recipe: how it is built without its weights.
        flow: the same network as a flow that learns, with the pack's own steps.
    """

    pack: GeneratorPack
    network: Shown
    recipe: Recipe
    flow: FlowModel

    def samples(self, latents: Tensor) -> Tensor:
        """``(n, *shape)`` what the flow makes of latents ``(n, d)``, before it becomes a picture; on its device."""
        return self.flow.draw(latents.to(self.flow.device).reshape(-1, *self.flow.shape))

    def imported(self, taught: FlowModel, notice: str) -> Imported:
        """The generator with a flow that was taught in place of its own, as a pack that can be taught again.

        Args:
            taught: `FlowModel.moved` of `flow`.
            notice: what whoever uses it should read, after what the pack says itself.

        Raises:
            SettingError: the flow is another network.
        """
        network, manifest = copy.deepcopy(self.network).cpu(), self.pack.manifest
        denoised = network.network
        assert isinstance(denoised, Denoised)  # `flow_of` looked
        turned = plain(taught.velocity)
        velocity = (turned.network if isinstance(turned, Reversed) else turned).cpu()
        if {k: v.shape for k, v in velocity.state_dict().items()} != {
            k: v.shape for k, v in denoised.network.state_dict().items()
        }:
            raise SettingError("the flow that was taught is another network than the pack's; teach a copy of it")
        denoised.network = velocity.eval().requires_grad_(False)
        return Imported(
            network=network.eval(),
            latents=self.pack.latents,
            output=manifest.output,
            licence=manifest.licence,
            notice="\n".join(each for each in (manifest.notice, notice) if each),
            latent_shape=manifest.latent_shape,
            origin=Origin(file=f"{self.pack.name}-{self.pack.version}", sha256=self.pack.hash),
            recipe=self.recipe,
            runtime=TORCH,
        )


def open_flow(source: str | Path, home: Path | None = None, device: torch.device | None = None) -> PackFlow:
    """Open what a person rated as a flow that can learn.

    Args:
        source: a pack that runs in torch, by name or folder, or the folder of a training.
        home: folder of the added packs; None for the usual one.
        device: where the flow learns; None for the CPU.

    Raises:
        SettingError: it is no flow, or one that cannot be taught; the message says what to do.
        PackError, FolderError: it cannot be opened, or the pack of a training is not drawn by its weights.
    """
    folder = Path(source)
    if (folder / checkpoint.FILE).is_file():
        return _of_training(folder, home, device)
    pack = GeneratorPack.open(source, home)
    if pack.manifest.runtime != TORCH:
        raise SettingError(
            f"{pack.name} runs in ONNX, which holds no weights that learn; give the folder it was trained in, or train "
            f"it with: plgl generator train --kind flow --runtime torch; {_STREAM} {source}"
        )
    if pack.manifest.conditions:
        raise SettingError(f"{pack.name} draws by {pack.manifest.conditions[0].name}; {_STREAM} {source}")
    model = pack.generator
    assert isinstance(model, TorchModel)
    return _made(pack, model.network, Recipe.decode(pack.files[NETWORK]), device)


def flow_of(network: nn.Module, name: str) -> FlowModel:
    """The flow inside a pack's network, followed by the steps of the pack.

    Args:
        network: latents to pictures.
        name: what messages call it.

    Raises:
        SettingError: there is no flow inside.
    """
    inside = network.network if isinstance(network, Shown) else network
    if not isinstance(network, Shown) or not isinstance(inside, Denoised):
        raise SettingError(f"{name} draws in one step, so it is no flow; {_STREAM} {name}")
    numbers = inside.get_buffer("steps").double().cpu()
    sigmas = [*(-numbers[:, 2]).tolist(), float(numbers[-1, 6])]
    longest = float(numbers[0, 0]) / sigmas[0] if sigmas[0] else 0.0
    wanted = torch.tensor([step.numbers for step in flow_steps(sigmas, [longest * each for each in sigmas[:-1]])])
    if not torch.allclose(numbers.float(), wanted, rtol=1e-4, atol=1e-5) or (sigmas[0], sigmas[-1]) != (1.0, 0.0):
        raise SettingError(f"{name} is a diffusion model with steps of its own, no rectified flow; {_STREAM} {name}")
    if inside.guidance != 1.0:
        raise SettingError(f"{name} is guided by a prompt; {_STREAM} {name}")
    return FlowModel(
        velocity=Reversed(inside.network, longest).eval(),
        shape=network.latent_shape,
        sampler=SamplerSettings(times=tuple(1 - each for each in sigmas), chunk=64),
        media=_media(inside.decoder),
    )


def plain(velocity: nn.Module) -> nn.Module:
    """A velocity that was taught as one network with the layers it had before: without adapters.

    Raises:
        SettingError: it is another network early on the way than late.
    """
    if isinstance(velocity, Early):
        if velocity.until < 1:
            raise SettingError(f"until={velocity.until:g} leaves two networks, and a pack holds one; try 1")
        velocity = velocity.early
    return merged(velocity)


def _of_training(folder: Path, home: Path | None, device: torch.device | None) -> PackFlow:
    """A training's weights, and the pack that was made of them."""
    about, kept = checkpoint.read(folder)
    try:
        course = Course(TrainingSettings(**{each.name: about[each.name] for each in fields(TrainingSettings)}))
        course.load_state_dict(kept.part("average"))
    except (KeyError, TypeError, RuntimeError) as error:
        raise FolderError(f"{folder / checkpoint.FILE} is of another version ({str(error)[:100]})") from error
    if course.settings.kind != "flow":
        raise SettingError(f"{folder} is the training of a {course.settings.kind}, no flow; {_STREAM} {folder / PACK}")
    if not (folder / PACK).is_dir():
        raise FolderError(f"{folder} has no pack yet; finish the training with the same command")
    pack, network = _once_proven(folder / PACK, home), course.network().requires_grad_(False)
    latents = pack.latents.sample(_COMPARED, torch.Generator().manual_seed(0))
    if pack.latents.dimension != course.dimension or float(
        (pack.generate(latents) - network(latents)).abs().max()
    ) > _ALIKE * (pack.manifest.output.high - pack.manifest.output.low):
        raise FolderError(f"{folder / PACK} was not made of the weights beside it; run the same training again")
    return _made(pack, network, course.recipe, device)


def _once_proven(folder: Path, home: Path | None) -> GeneratorPack:
    """A pack; where it was added too, that one, because its first run in a child process is behind it."""
    pack, added = GeneratorPack.open(folder, home), InstalledPacks(home)
    if pack.name in added.names() and added.is_proven(pack.manifest):
        there = GeneratorPack.open(pack.name, home)
        return there if there.hash == pack.hash else pack
    return pack


def _made(pack: GeneratorPack, network: nn.Module, recipe: Recipe, device: torch.device | None) -> PackFlow:
    network = copy.deepcopy(network).to(device or torch.device("cpu"))  # the pack goes on drawing where it does
    flow = flow_of(network, pack.name)
    assert isinstance(network, Shown)
    return PackFlow(pack=pack, network=network, recipe=recipe, flow=flow)


def _media(decoder: nn.Module) -> Callable[[Tensor], Tensor]:
    def media(samples: Tensor) -> Any:
        with torch.no_grad():
            return shown(decoder(samples))

    return media
