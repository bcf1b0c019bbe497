"""Layers of Kokoro-82M: weights in 8 bits, normalisation by style, a recurrence, residual blocks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from client.generators.fetched.kokoro_file import KokoroFile

FEATURES = 512


class Weight(nn.Module):
    """A tensor kept in 8 bits: ``(stored - zero) * scale``."""

    def __init__(self, stored: Tensor, zero: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("stored", stored)
        self.register_buffer("zero", zero)
        self.register_buffer("scale", scale)

    def forward(self) -> Tensor:
        """In float32."""
        whole: Tensor = (self.get_buffer("stored").float() - self.get_buffer("zero")) * self.get_buffer("scale")
        return whole


class Convolution(nn.Module):
    """One-dimensional, with weights in 8 bits; keeps the length unless it has a stride."""

    def __init__(
        self, file: KokoroFile, path: str, dilation: int = 1, stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        self.weight = Weight(*file.convolution(path))
        self.register_buffer("bias", file.bias(path))
        reach = (self.weight.get_buffer("stored").shape[2] - 1) * dilation
        self._how = {"stride": stride, "padding": reach // 2 if padding is None else padding, "dilation": dilation}

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, t)`` to ``(n, c', t')``."""
        bias = self.bias if isinstance(self.bias, Tensor) else None
        return functional.conv1d(x, self.weight(), bias, **self._how)


class Styled(nn.Module):
    """Normalisation whose scale and shift come from the style: over time (AdaIN), or over channels (AdaLN)."""

    def __init__(self, file: KokoroFile, path: str, *, over_channels: bool = False) -> None:
        super().__init__()
        self.weight = Weight(*file.linear(f"{path}.fc"))
        self.register_buffer("bias", file.bias(f"{path}.fc"))
        self._axis = 1 if over_channels else 2

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``(n, c, t)``, styles ``(n, 128)``."""
        scale, shift = (style @ self.weight() + self.get_buffer("bias"))[:, :, None].chunk(2, 1)
        centred = x - x.mean(self._axis, keepdim=True)
        variance = centred.square().mean(self._axis, keepdim=True)
        styled: Tensor = (1 + scale) * centred * torch.rsqrt(variance + 1e-5) + shift
        return styled


class Recurrence(nn.Module):
    """A bidirectional LSTM, weights in 8 bits. The exporter cannot write torch's own for any batch: ONNX's is named."""

    def __init__(self, file: KokoroFile, path: str) -> None:
        super().__init__()
        inputs, states, bias = file.lstm(path)
        self.inputs, self.states = Weight(*inputs), Weight(*states)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, t, c)`` to ``(n, t, 512)``."""
        rows = (self.inputs().transpose(1, 2), self.states().transpose(1, 2), self.get_buffer("bias"))
        n, steps, _ = x.shape
        half = FEATURES // 2
        if torch.compiler.is_exporting():
            about: dict[str, Any] = {"hidden_size": half, "direction": "bidirectional"}
            shape = (steps, 2, n, half)
            found: Tensor = torch.onnx.ops.symbolic(
                "LSTM", (x.transpose(0, 1), *rows), about, dtype=torch.float32, shape=shape, version=14
            )
            return found.permute(2, 0, 1, 3).reshape(n, steps, FEATURES)
        first = x.new_zeros(2, n, half)
        result: Tensor = torch.lstm(x, (first, first), _as_torch(*rows), True, 1, 0.0, False, True, True)[0]
        return result


def _as_torch(inputs: Tensor, states: Tensor, bias: Tensor) -> list[Tensor]:
    """Weights in torch's order of gates and directions; ONNX keeps input, output, forget, cell."""
    found = []
    for direction in range(2):
        first, second = bias[direction].chunk(2)
        for rows in (inputs[direction], states[direction], first, second):
            gate = rows.chunk(4)
            found.append(torch.cat([gate[0], gate[2], gate[3], gate[1]]))
    return found


class Block(nn.Module):
    """A residual block of the decoder and of pitch and loudness; one with a ``pool`` doubles the length."""

    def __init__(self, file: KokoroFile, path: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = Styled(file, f"{path}.norm1"), Styled(file, f"{path}.norm2")
        self.conv1, self.conv2 = Convolution(file, f"{path}.conv1"), Convolution(file, f"{path}.conv2")
        self.shortcut = Convolution(file, f"{path}.conv1x1") if file.has(f"{path}.conv1x1") else None
        self.grows = file.has(f"{path}.pool")
        if self.grows:
            weight, bias = file.transposed(f"{path}.pool")
            self.register_buffer("pool_weight", weight)
            self.register_buffer("pool_bias", bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``(n, c, t)`` to ``(n, c', t or 2 t)``."""
        y = functional.leaky_relu(self.norm1(x, style), 0.2)
        if self.grows:
            weight, bias = self.get_buffer("pool_weight"), self.get_buffer("pool_bias")
            y = functional.conv_transpose1d(y, weight, bias, 2, 1, 1, groups=len(weight))
            x = x.repeat_interleave(2, 2)
        y = self.conv2(functional.leaky_relu(self.norm2(self.conv1(y), style), 0.2))
        both: Tensor = y + (x if self.shortcut is None else self.shortcut(x))
        return both / math.sqrt(2)
