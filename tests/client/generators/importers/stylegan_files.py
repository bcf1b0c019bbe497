"""Writes StyleGAN files as the official training code does, with random weights: the same opcodes, the same wrapper.

The wrapper (`torch_utils.persistence`) pickles each network as a call of a function with the source text of its module,
its class name and its state. Reading such a file the usual way would run that source.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal  # type: ignore[import-untyped]
import scipy.special  # type: ignore[import-untyped]
import torch
from torch import Tensor

SOURCE = "import sys\nsys.exit('the source inside a file was run')\n"


class EasyDict(dict[str, Any]):
    """Stands for ``dnnlib.util.EasyDict``: pickled as a call of that name."""


def reconstruct(meta: dict[str, Any]) -> None:
    """Stands for ``torch_utils.persistence._reconstruct_persistent_obj``; nobody may call it."""
    raise AssertionError(f"{meta['class_name']} was reconstructed")


@dataclass(eq=False)
class Node:
    """A network as the wrapper sees it."""

    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor | None] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)
    keywords: dict[str, Any] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            "training": False,
            "_parameters": OrderedDict((k, torch.nn.Parameter(v)) for k, v in self.parameters.items()),
            "_buffers": OrderedDict(self.buffers),
            "_non_persistent_buffers_set": set(),
            "_backward_hooks": OrderedDict(),
            "_modules": OrderedDict(self.children),
            **self.attributes,
            "_init_args": (),
            "_init_kwargs": self.keywords,
        }
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self.kind, "state": state}
        return reconstruct, (meta,)

    def __getitem__(self, name: str) -> Tensor:
        """A tensor in float64, for references."""
        found = self.parameters[name] if name in self.parameters else self.buffers[name]
        assert found is not None
        return found.double()


@contextlib.contextmanager
def official_names() -> Iterator[None]:
    """Let pickle write the names of the official code for the classes here."""
    names = ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
    modules = {name: types.ModuleType(name) for name in names}
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = reconstruct  # type: ignore[attr-defined]
    modules["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]
    before = (reconstruct.__module__, reconstruct.__qualname__, EasyDict.__module__)
    reconstruct.__module__, reconstruct.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    EasyDict.__module__ = "dnnlib.util"
    sys.modules.update(modules)
    try:
        yield
    finally:
        reconstruct.__module__, reconstruct.__qualname__, EasyDict.__module__ = before
        for name in modules:
            del sys.modules[name]


def write(path: Path, generator: Any, protocol: int | None = None) -> Path:
    """A ``network-snapshot`` with this generator as ``G_ema``."""
    snapshot = {"training_set_kwargs": EasyDict(path="pictures.zip", use_labels=False), "G_ema": generator}
    with official_names(), path.open("wb") as file:
        pickle.dump(snapshot, file, protocol)
    return path


def draw(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=random)


def fully(
    random: torch.Generator,
    inputs: int,
    outputs: int,
    start: float = 0.0,
    activation: str = "linear",
    rate: float = 1.0,
) -> Node:
    """A fully connected layer with an equalised learning rate."""
    bias = (start + 0.1 * draw(random, outputs)) / rate
    about = {"in_features": inputs, "out_features": outputs, "activation": activation}
    gains = {"weight_gain": rate / np.sqrt(inputs), "bias_gain": rate}
    return Node("FullyConnectedLayer", about | gains, {"weight": draw(random, outputs, inputs) / rate, "bias": bias})


def mapping(random: torch.Generator, z: int, c: int, w: int, styles: int, layers: int) -> Node:
    about = {"z_dim": z, "c_dim": c, "w_dim": w, "num_ws": styles, "num_layers": layers, "w_avg_beta": 0.998}
    children = {"embed": fully(random, c, w)} if c else {}
    for i in range(layers):
        inputs = w if i else z + (w if c else 0)
        children[f"fc{i}"] = fully(random, inputs, w, activation="lrelu", rate=0.01)
    return Node("MappingNetwork", about, {}, {"w_avg": 0.2 * draw(random, w)}, children)


def smoothing() -> Tensor:
    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(row, row) / 64


def stylegan2(
    seed: int,
    side: int = 64,
    z: int = 12,
    c: int = 0,
    w: int = 10,
    channels: int = 8,
    architecture: str = "skip",
    colours: int = 3,
) -> Node:
    """A StyleGAN2 generator with random weights, as in ``training/networks_stylegan2.py``."""
    random = torch.Generator().manual_seed(seed)

    def layer(inputs: int, outputs: int, resolution: int, up: int) -> Node:
        about = {"resolution": resolution, "up": up, "use_noise": True, "activation": "lrelu", "conv_clamp": 256}
        parameters = {"weight": draw(random, outputs, inputs, 3, 3), "noise_strength": draw(random) * 0.3}
        parameters["bias"] = 0.1 * draw(random, outputs)
        buffers = {"resample_filter": smoothing(), "noise_const": draw(random, resolution, resolution)}
        return Node("SynthesisLayer", about, parameters, dict(buffers), {"affine": fully(random, w, inputs, 1.0)})

    blocks, resolution, inputs, convolutions = {}, 4, 0, 0
    while resolution <= side:
        outputs = channels if resolution < 32 else channels // 2
        last = resolution == side
        about = {"in_channels": inputs, "resolution": resolution, "architecture": architecture, "is_last": last}
        block = Node("SynthesisBlock", about, {}, {"resample_filter": smoothing()})
        if inputs:
            block.children["conv0"] = layer(inputs, outputs, resolution, 2)
        else:
            block.parameters["const"] = draw(random, outputs, 4, 4)
        block.children["conv1"] = layer(outputs, outputs, resolution, 1)
        convolutions += 2 if inputs else 1
        if last or architecture == "skip":
            parameters = {"weight": 0.3 * draw(random, colours, outputs, 1, 1), "bias": 0.1 * draw(random, colours)}
            affine = {"affine": fully(random, w, outputs, 1.0)}
            block.children["torgb"] = Node("ToRGBLayer", {"conv_clamp": 256}, parameters, {}, affine)
        if inputs and architecture == "resnet":
            skip = {"weight": draw(random, outputs, inputs, 1, 1)}
            buffers = {"resample_filter": smoothing()}
            block.children["skip"] = Node("Conv2dLayer", {"activation": "linear", "bias": None}, skip, dict(buffers))
        blocks[f"b{resolution}"] = block
        resolution, inputs = resolution * 2, outputs
    about = {"w_dim": w, "img_resolution": side, "img_channels": colours, "num_ws": convolutions + 1}
    synthesis = Node("SynthesisNetwork", about, {}, {}, blocks)
    children = {"synthesis": synthesis, "mapping": mapping(random, z, c, w, convolutions + 1, 2)}
    keywords = {"z_dim": z, "c_dim": c, "w_dim": w, "img_resolution": side, "mapping_kwargs": EasyDict(num_layers=2)}
    return Node("Generator", {"z_dim": z, "c_dim": c, "w_dim": w}, {}, {}, children, keywords)


def low_pass(taps: int, cutoff: float, width: float, rate: float, radial: bool) -> Tensor | None:
    """A Kaiser low-pass filter, or a radially symmetric one from a jinc (Karras et al. 2021, appendix C.1 and E)."""
    if taps == 1:
        return None
    if not radial:
        return torch.tensor(scipy.signal.firwin(taps, cutoff, width=width, fs=rate), dtype=torch.float32)
    axis = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(*np.meshgrid(axis, axis))
    window = np.kaiser(taps, scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, width / (rate / 2))))
    response = scipy.special.j1(2 * cutoff * np.pi * radius) / (np.pi * radius) * np.outer(window, window)
    return torch.tensor(response / response.sum(), dtype=torch.float32)


def stylegan3(
    seed: int,
    config: str,
    side: int = 64,
    z: int = 12,
    c: int = 0,
    w: int = 10,
    layers: int = 6,
    channels: tuple[int, int] | None = None,
    margin: int = 10,
    first_cutoff: float = 2.0,
) -> Node:
    """A StyleGAN3 generator with random weights, as in ``training/networks_stylegan3.py``; ``config`` is t or r.

    ``channels`` are its arguments ``channel_base`` and ``channel_max``.
    """
    random = torch.Generator().manual_seed(seed)
    kernel, radial = (3, False) if config == "t" else (1, True)
    base, most = channels or ((256, 10) if config == "t" else (512, 12))
    critical, first_stop, last_stop = 2, first_cutoff * 2**1.1, side / 2 * 2**0.3
    exponents = np.minimum(np.arange(layers + 1) / (layers - critical), 1)
    cutoffs = first_cutoff * (side / 2 / first_cutoff) ** exponents
    stops = first_stop * (last_stop / first_stop) ** exponents
    rates = np.exp2(np.ceil(np.log2(np.minimum(stops * 2, side))))
    halves = np.maximum(stops, rates / 2) - cutoffs
    sizes = rates + margin * 2
    sizes[-2:] = side
    widths = np.rint(np.minimum((base / 2) / cutoffs, most))
    widths[-1] = 3
    first = int(widths[0])
    turn = torch.tensor([[0.96, -0.28, 0.05], [0.28, 0.96, -0.1], [0.0, 0.0, 1.0]])
    wave = {"transform": turn, "freqs": draw(random, first, 2) * cutoffs[0], "phases": draw(random, first) / 4}
    about = {"size": np.array([int(sizes[0])] * 2), "sampling_rate": rates[0], "bandwidth": cutoffs[0]}
    affine = {"affine": fully(random, w, 4)}
    affine["affine"].parameters["bias"] += torch.tensor([1.0, 0, 0, 0])
    children = {"input": Node("SynthesisInput", about, {"weight": draw(random, first, first)}, dict(wave), affine)}
    for i in range(layers + 1):
        before, last = max(i - 1, 0), i == layers
        rate = max(rates[before], rates[i]) * (1 if last else 2)
        up, down = int(rate / rates[before]), int(rate / rates[i])
        side_of_kernel = 1 if last else kernel
        up_taps, down_taps = (6 * factor if factor > 1 and not last else 1 for factor in (up, down))
        inputs, outputs = int(widths[before]), int(widths[i])
        buffers = {
            "magnitude_ema": torch.tensor(0.3 + 0.1 * i),
            "up_filter": low_pass(up_taps, cutoffs[before], halves[before] * 2, rate, False),
            "down_filter": low_pass(down_taps, cutoffs[i], halves[i] * 2, rate, radial and i < layers - critical),
        }
        total = (sizes[i] - 1) * down + 1 - (sizes[before] + side_of_kernel - 1) * up + up_taps + down_taps - 2
        low = (int(total) + up) // 2
        about = {"up_factor": up, "down_factor": down, "padding": [low, int(total) - low] * 2, "is_torgb": last}
        about |= {"conv_clamp": 256, "in_sampling_rate": rates[before]}
        weight = draw(random, outputs, inputs, side_of_kernel, side_of_kernel)
        parameters = {"weight": weight, "bias": 0.1 * draw(random, outputs)}
        style = {"affine": fully(random, w, inputs, 1.0)}
        children[f"L{i}_{int(sizes[i])}_{outputs}"] = Node("SynthesisLayer", about, parameters, buffers, style)
    keywords: dict[str, Any] = {
        "w_dim": w,
        "img_resolution": side,
        "img_channels": 3,
        "num_layers": layers,
        "channel_base": base,
    }
    keywords |= {"channel_max": most, "conv_kernel": kernel, "use_radial_filters": radial, "magnitude_ema_beta": 0.999}
    if margin != 10:  # it notes what its maker said, not what it left out
        keywords["margin_size"] = margin
    if first_cutoff != 2.0:
        keywords |= {"first_cutoff": first_cutoff, "first_stopband": first_stop}
    about = {"w_dim": w, "num_ws": layers + 2, "img_resolution": side, "img_channels": 3, "output_scale": 0.25}
    synthesis = Node("SynthesisNetwork", about, {}, {}, children, keywords)
    parts = {"synthesis": synthesis, "mapping": mapping(random, z, c, w, layers + 2, 2)}
    return Node("Generator", {"z_dim": z, "c_dim": c, "w_dim": w}, {}, {}, parts, {"z_dim": z})
