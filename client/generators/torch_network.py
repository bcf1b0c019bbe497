"""Networks that run in torch: weights as safetensors, and a description from which this program builds them itself.

For networks that one ONNX file cannot hold, and for gradients with respect to the latent. A pack names one of our
builders and its settings; neither code nor a pickle of the pack is ever loaded.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from client.generators.manifest import NETWORK, WEIGHTS
from common.errors import DamagedPack, OutOfMemory, SettingError

FORMAT = "plgl-network-1"
BUILDERS = ("diffusers", "trained", "vae")
"""Who can build a network from its description: what importers of these names read, and what was trained here."""
_NO_MEMORY = ("allocate memory", "bad_alloc", "out of memory")


class WrongWeights(DamagedPack):
    """The weights are not those the described network asks for."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build a network but for its weights.

    Attributes:
        builder: one of `BUILDERS`.
        settings: its arguments, plain JSON.

    Raises:
        DamagedPack: the builder is unknown.
    """

    builder: str
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.builder not in BUILDERS:
            known = ", ".join(BUILDERS)
            raise DamagedPack(f"{NETWORK} asks for the builder {self.builder[:40]!r}; known: {known}; update plgl")

    def encode(self) -> bytes:
        """Canonical JSON, as in a manifest."""
        about = {"format": FORMAT, "builder": self.builder, "settings": dict(self.settings)}
        return (json.dumps(about, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()

    @classmethod
    def decode(cls, content: bytes) -> Recipe:
        """Read a description.

        Raises:
            DamagedPack: it is not one, or its builder is unknown.
        """
        try:
            about = json.loads(content)
            if set(about) != {"format", "builder", "settings"} or about["format"] != FORMAT:
                raise ValueError(f"not of format {FORMAT}")
            return cls(builder=str(about["builder"]), settings=dict(about["settings"]))
        except (ValueError, TypeError, RecursionError) as error:
            raise DamagedPack(f"{NETWORK} describes no network: {str(error)[:200]}; fetch the pack again") from error


class TorchModel:
    """One torch network with named float32 inputs and one float32 output; as `OnnxModel`, and differentiable.

    Attributes:
        device: where it runs and wants its inputs.
        inputs: names of the inputs, in order.
        provider: what runs it, such as ``"torch on cpu"``.
        network: the module, in eval mode, its weights fixed.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        inputs: tuple[str, ...],
        device: torch.device | None = None,
        *,
        checkpointing: bool = False,
    ) -> None:
        """Build a network.

        Args:
            files: ``network.json`` and ``generator.safetensors``.
            inputs: names of its inputs, in order.
            device: where to run it; None for the GPU when there is one, else the CPU.
            checkpointing: where gradients are asked for, keep only what goes into each step of a sampler, or into the
                whole of another network, and compute the rest again in the backward pass.

        Raises:
            DamagedPack: they do not make a network.
            SettingError: a library it needs is not installed.
            OutOfMemory: the device does not hold it.
        """
        self.inputs = inputs
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.provider = f"torch on {self.device}"
        network = build(Recipe.decode(files[NETWORK]), files[WEIGHTS])
        try:
            self.network = network.to(self.device)
        except RuntimeError as error:
            raise _understood(error) from error
        steps = [module for module in network.modules() if hasattr(module, "checkpointing")]
        for module in steps:
            module.checkpointing = checkpointing  # type: ignore[assignment]
        self._whole = checkpointing and not steps

    @torch.no_grad()
    def run(self, into: Tensor | None = None, /, **inputs: Tensor) -> Tensor:
        """Run the network without gradients.

        Args:
            into: float32 tensor of the output's shape to write in.
            inputs: one tensor for each name in `inputs`.

        Returns:
            Its output, float32 on the device of the first input; ``into`` where that is given.

        Raises:
            DamagedPack: the network refuses inputs of these shapes, or does not answer with the shape of ``into``.
            OutOfMemory: memory does not hold a batch of this size.
        """
        found = self.traced(**inputs)
        if into is None:
            return found
        if into.shape != found.shape:
            wanted = tuple(into.shape)
            raise DamagedPack(f"{WEIGHTS} drew {tuple(found.shape)}, not {wanted}; fetch the pack again")
        return into.copy_(found)

    def traced(self, **inputs: Tensor) -> Tensor:
        """As `run`, with a gradient back to the inputs where torch records one."""
        home = next(iter(inputs.values())).device
        try:
            given = [inputs[name].to(self.device, torch.float32) for name in self.inputs]
            with _exact():
                if self._whole and torch.is_grad_enabled():
                    found = checkpoint(self.network, *given, use_reentrant=False)
                else:
                    found = self.network(*given)
        except Exception as error:  # whatever the network's operations bring about
            raise _understood(error) from error
        made: Tensor = found.to(home, torch.float32)
        return made


def build(recipe: Recipe, weights: bytes) -> nn.Module:
    """The network of a description with these weights, on the CPU, in eval mode, its weights fixed.

    Guarantee: nothing is allocated for a network before its weights are known to be exactly those in the file: same
    names, same shapes, float32, finite.

    Raises:
        DamagedPack: the settings make no network of this builder.
        WrongWeights: the weights are not those of the network.
        SettingError: a library it needs is not installed.
    """
    builder = _builders()[recipe.builder]
    try:
        with torch.device("meta"):  # shapes without memory
            network = builder(**recipe.settings)
    except SettingError:
        raise
    except Exception as error:  # libraries raise whatever impossible settings bring about
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        again = "update plgl and its libraries, or fetch the pack again"
        raise DamagedPack(f"{NETWORK} makes no network of {recipe.builder!r} ({why}); {again}") from error
    network.load_state_dict(_fitting(weights, network), assign=True)
    if any(each.is_meta for each in (*network.parameters(), *network.buffers())):
        raise DamagedPack(f"{NETWORK} describes a network with values that are not stored; use ONNX for it")
    return network.eval().requires_grad_(False)


def ready(recipe: Recipe) -> None:
    """Import what the builder needs, before any limit of memory.

    Raises:
        SettingError: it is not installed.
    """
    from client.generators.importers import diffusers_folder

    _builders()
    if recipe.builder == "diffusers":
        for name in diffusers_folder.MODELS:
            getattr(diffusers_folder.library("diffusers"), name)


def stored(recipe: Recipe, network: nn.Module) -> dict[str, bytes]:
    """The files of a network: its description and its weights."""
    weights = {name: value.detach().float().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    return {NETWORK: recipe.encode(), WEIGHTS: safetensors.torch.save(weights)}


def bytes_of(network: nn.Module) -> int:
    """Bytes of a network's weights in float32."""
    numbers: int = sum(value.numel() for value in network.state_dict().values())
    return 4 * numbers


def _builders() -> dict[str, Callable[..., nn.Module]]:
    from client.generators.importers import diffusers_pipeline, vae  # they import this module
    from client.generators.training import course

    return {"diffusers": diffusers_pipeline.rebuilt, "trained": course.rebuilt, "vae": vae.rebuilt}


def _fitting(content: bytes, network: nn.Module) -> dict[str, Tensor]:
    """Weights of a file, exactly those of a network."""
    try:
        found = safetensors.torch.load(content)
    except Exception as error:  # safetensors has an error type of its own, and raises others
        raise WrongWeights(f"{WEIGHTS} is no safetensors file ({str(error)[:100]}); fetch the pack again") from error
    wanted = network.state_dict()
    if other := sorted(found.keys() ^ wanted.keys()):
        says = "holds" if other[0] in found else "lacks"
        raise WrongWeights(f"{WEIGHTS} {says} {other[0][:80]!r}, unlike the network; fetch the pack again")
    for name, value in found.items():
        if value.shape != wanted[name].shape or value.dtype != torch.float32:
            kind, shape = tuple(value.shape), tuple(wanted[name].shape)
            raise WrongWeights(f"{WEIGHTS} has {name[:80]!r} as {value.dtype} {kind}, not float32 {shape}")
        if not bool(value.isfinite().all()):
            raise WrongWeights(f"{WEIGHTS} holds NaN or infinite weights in {name[:80]!r}; fetch the pack again")
    return found


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Float32 means float32: without this, convolutions on a GPU keep 10 of its 23 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _understood(error: Exception) -> Exception:
    """What went wrong in a run, as an error of this project."""
    words = str(error).lower()
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(each in words for each in _NO_MEMORY):
        return OutOfMemory("the network needs more memory than there is; make fewer items at once")
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return DamagedPack(f"{WEIGHTS} cannot be run: {first[:200]}; fetch the pack again")
