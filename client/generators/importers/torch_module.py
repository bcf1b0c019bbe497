"""Weights for a torch class that the person names.

The weights are read without running anything of the file (``weights_only`` in a child process, or safetensors). The
class is the person's own code: it is imported because they named it, and for no other reason.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from client.generators import sandbox
from client.generators.importers.adapting import (
    SETTINGS,
    Adapted,
    Fit,
    condition_of,
    known_settings,
    law_and_dimension,
    shape_of,
)
from client.generators.importers.base import Imported, Importer, ImportSettings, origin_of
from common.errors import SettingError, UnreadableModel
from common.latents import LatentSpace

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors")
_SHOWN = 4
_ARGUMENT = "with."


def read(path: Path, settings: ImportSettings) -> Imported:
    """Fill the named class with the file's weights; see `Importer.read`."""
    own = {name: text for name, text in settings.settings.items() if not name.startswith(_ARGUMENT)}
    known_settings(own, IMPORTER.settings)
    if not settings.module:
        raise SettingError("weights need their class; name it with --module package.module:Class or file.py:Class")
    if path.suffix == ".pt2":
        raise UnreadableModel(f"{path.name} is a torch.export program, which is a pickle inside; export it to ONNX")
    arguments = {k.removeprefix(_ARGUMENT): _plain(v) for k, v in settings.settings.items() if k.startswith(_ARGUMENT)}
    tensors = sandbox.read_tensors(path, settings.limits)
    network = _made(settings.module, arguments)
    _fill(network, _chosen(tensors, own.get("key", ""), path.name), path.name)
    written = own.get("latent_shape", "")
    shape = shape_of(written, "--set latent_shape") if written else None
    law, dimension = law_and_dimension(settings, torch.Size(shape).numel() if shape else None)
    conditions = [condition_of(name, text) for name, text in settings.conditions.items()]
    defaults = {condition.name: value for condition, value in conditions}
    shape = shape or (dimension,)
    fit = Fit.of(_tried(network, shape, list(defaults.values())), settings)
    return Imported(
        network=Adapted(network, law, shape, fit).eval(),
        latents=LatentSpace(dimension),
        output=fit.output,
        licence=settings.licence or "NOASSERTION",
        notice=settings.notice,
        source=law,
        latent_shape=shape if len(shape) > 1 else (),
        conditions=tuple(condition for condition, _ in conditions),
        defaults=defaults,
        origin=origin_of(path),
    )


def looks_like(path: Path, head: bytes) -> bool:
    """Whether it holds weights, by its name."""
    return path.suffix.lower() in _SUFFIXES


IMPORTER = Importer(
    kind="torch",
    about="weights (.pt, .pth, .safetensors) for a class named with --module",
    sniff=looks_like,
    read=read,
    settings={
        **SETTINGS,
        "key": "where the weights lie in the file, such as ema/generator",
        "latent_shape": "of one latent as the class takes it, such as 100,1,1",
        "with.NAME": "an argument of the class, such as with.width=64",
    },
)


def _made(module: str, arguments: dict[str, Any]) -> nn.Module:
    """An object of the class that was named."""
    place, _, name = module.rpartition(":")
    if not place or not name.isidentifier():
        raise SettingError(f"--module {module} must be package.module:Class or file.py:Class")
    try:
        made = getattr(_imported(place), name)(**arguments)
    except AttributeError as error:
        raise SettingError(f"--module {module}: {error}") from error
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"--module {module} refuses its arguments ({error}); give them as --set with.name=v"
        ) from error
    if not isinstance(made, nn.Module):
        raise SettingError(f"--module {module} is no torch.nn.Module")
    return made.eval().requires_grad_(False)


def _imported(place: str) -> Any:
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ImportError as error:
            raise SettingError(f"--module {place} cannot be imported: {error}; is it installed?") from error
    file = Path(place)
    if not file.is_file():
        raise SettingError(f"--module {place}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"plgl_import_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise SettingError(f"--module {place} is no Python file")
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look themselves up there
    spec.loader.exec_module(found)
    return found


def _chosen(tensors: dict[str, Tensor], key: str, what: str) -> dict[str, Tensor]:
    """The tensors under a key, or the only ones there are."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.rpartition("/")
        groups.setdefault(group, {})[rest] = tensor
    found = groups.get(key) if key or len(groups) != 1 else next(iter(groups.values()))
    if found is None:
        raise SettingError(f"{what} holds weights under {', '.join(sorted(groups))}; choose with --set key=NAME")
    inside = all(name.startswith("module.") for name in found)  # trained on several devices
    return {name.removeprefix("module.") if inside else name: tensor for name, tensor in found.items()}


def _fill(network: nn.Module, weights: dict[str, Tensor], what: str) -> None:
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in weights]
    extra = [name for name in weights if name not in wanted]
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    found = {"missing": missing, "extra": extra, "of another shape": wrong}
    if said := [f"{label} {_few(names)}" for label, names in found.items() if names]:
        raise UnreadableModel(f"{what} does not fit {type(network).__name__}: {'; '.join(said)}; check its arguments")
    network.load_state_dict(weights)


def _tried(network: nn.Module, shape: tuple[int, ...], defaults: list[Tensor]) -> tuple[int, ...]:
    """Shape of one item."""
    others = [value.expand(2, *value.shape) for value in defaults]
    try:
        with torch.no_grad():
            made = network(torch.zeros(2, *shape), *others)
    except Exception as error:  # it is the person's code
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnreadableModel(
            f"{type(network).__name__} cannot take a latent of shape {(2, *shape)}: {first[:200]}; give another "
            "--latent or --set latent_shape"
        ) from error
    if not isinstance(made, Tensor) or made.ndim < 2 or len(made) != 2:
        raise UnreadableModel(f"{type(network).__name__} gives no tensor with an item for each latent")
    return tuple(made.shape[1:])


def _plain(text: str) -> Any:
    """An argument as written: a whole number, a number, yes or no, or text."""
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+)(e[+-]?\d+)?", text, re.IGNORECASE):
        return float(text)
    return {"yes": True, "no": False}.get(text, text)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
