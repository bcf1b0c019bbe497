"""The embedded generator: abstract art from a fixed random network over coordinates (CPPN, Stanley 2007).

Nothing in it is trained. The latent sets symmetry, zoom and warp of the plane, shifts every unit of a small random
network, and chooses a palette in OKLab; the network turns each coordinate into three fields that index the palette.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from client.generators.onnx import export

DIMENSION = 24
SEED = 12
WIDTH, LAYERS, COORDINATES = 20, 2, 8
CONTROLS = 18  # latent directions with a meaning of their own; orthogonal, so that none shadows another
FORMS = 6  # latent directions that shift the network; few, so that forms change in ways that can be learned

# OKLab to linear sRGB (Ottosson 2020): cone responses from lightness and two opponent axes, then their mixture.
_CONES = ((1.0, 0.3963377774, 0.2158037573), (1.0, -0.1055613458, -0.0638541728), (1.0, -0.0894841775, -1.2914855480))
_LIGHTS = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)


def pixel_grid(height: int, width: int | None = None) -> Tensor:
    """Coordinates of pixel centres: ``(2, height, width)`` float32, ``y`` then ``x``; the short side spans [-1, 1]."""
    width = height if width is None else width
    short = min(height, width)
    y = (torch.arange(height, dtype=torch.float32) * 2 + 1 - height) / short
    x = (torch.arange(width, dtype=torch.float32) * 2 + 1 - width) / short
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))


class ArtGenerator(nn.Module):
    """Latents to pictures of any size.

    Guarantee: the same seed gives the same pictures; ``forward`` is smooth in the latent, and a picture at another size
    is the same picture sampled at other points.
    """

    def __init__(self, seed: int = SEED) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def draw(name: str, rows: int, columns: int, scale: float) -> Tensor:
            values = torch.randn(rows, columns, generator=generator) * scale / math.sqrt(rows)
            self.register_buffer(name, values)
            return values

        axes = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=generator, dtype=torch.float64))[0]
        self.register_buffer("controls", axes[:, :CONTROLS].float().contiguous())
        self.register_buffer("forms", axes[:, -FORMS:].float().contiguous())
        draw("coordinate_weight", COORDINATES, WIDTH, 1.9)
        draw("coordinate_gain", FORMS, COORDINATES, 0.2)
        draw("coordinate_bias", FORMS, WIDTH, 0.2)
        draw("gain", FORMS, LAYERS * WIDTH, 0.11)
        draw("bias", FORMS, LAYERS * WIDTH, 0.2)
        for layer in range(LAYERS):
            draw(f"weight_{layer}", WIDTH, WIDTH, 1.35)
        draw("fields", WIDTH, 3, 1.3)
        self.register_buffer("cones", torch.tensor(_CONES))
        self.register_buffer("lights", torch.tensor(_LIGHTS))

    def forward(self, latent: Tensor, grid: Tensor) -> Tensor:
        """Draw pictures.

        Args:
            latent: ``(n, 24)``, drawn from N(0, I).
            grid: ``(2, h, w)`` coordinates, see `pixel_grid`.

        Returns:
            ``(n, 3, h, w)`` sRGB in [-1, 1].
        """
        control = (latent @ self.get_buffer("controls")).unsqueeze(-1)  # (n, 18, 1)
        plane = self._plane(control, grid.flatten(1))
        fields = self._fields(latent @ self.get_buffer("forms"), plane)
        return self._colours(control, fields).reshape(latent.shape[0], 3, grid.shape[1], grid.shape[2])

    def _plane(self, control: Tensor, points: Tensor) -> Tensor:
        """Coordinates the network sees, ``(n, 8, h * w)``, after zoom, turn, shift, warp and mirror symmetry."""
        zoom = torch.exp(0.2 * control[:, 0:1] + 0.05)
        turn = 0.3 * control[:, 1:2]
        y0, x0 = points[0], points[1]
        x = zoom * (x0 * torch.cos(turn) - y0 * torch.sin(turn))
        y = zoom * (x0 * torch.sin(turn) + y0 * torch.cos(turn))
        mirror = torch.sigmoid(4 * control[:, 2:3] + 0.5)
        fold = torch.sigmoid(4 * control[:, 3:4] - 2.0)
        x = mirror * torch.sqrt(x * x + 0.003) + (1 - mirror) * (x + 0.2 * control[:, 4:5])
        y = fold * torch.sqrt(y * y + 0.003) + (1 - fold) * (y + 0.2 * control[:, 5:6])
        wave = 0.35 * torch.tanh(0.5 * control[:, 6:7])
        x, y = (
            x + wave * torch.sin(2.2 * y + 0.6 * control[:, 4:5]),
            y + wave * torch.sin(2.2 * x + 0.6 * control[:, 5:6]),
        )
        square = x * x + y * y + 0.002
        r = torch.sqrt(square)
        c, s = x / r, y / r
        calm = square / (square + 0.06)  # angles are quiet at the centre, where they would tear
        three = calm * c * (4 * c * c - 3)
        five = calm * s * (16 * s**4 - 20 * s * s + 5)
        petals = torch.tanh(0.6 * control[:, 7:8]) * three + torch.tanh(0.6 * control[:, 8:9]) * five
        rings = torch.sin(3.2 * r + 1.5 * petals + 0.5 * control[:, 9:10])
        stripes = torch.sin(2.6 * x + 0.5 * control[:, 10:11])
        return torch.cat([x, y, 1.3 * r - 0.9, rings, stripes, torch.cos(2.6 * y), petals, x * y], 1)

    def _fields(self, form: Tensor, plane: Tensor) -> Tensor:
        """Three fields per picture, ``(n, 3, h * w)``, each with mean 0 and about unit spread over the picture."""
        plane = plane * torch.exp(form @ self.get_buffer("coordinate_gain")).unsqueeze(-1)
        bias = (form @ self.get_buffer("coordinate_bias")).unsqueeze(-1)
        unit = torch.tanh(self.get_buffer("coordinate_weight").T @ plane + bias)
        gains = torch.exp(form @ self.get_buffer("gain")).unsqueeze(-1)
        biases = (form @ self.get_buffer("bias")).unsqueeze(-1)
        quarter = WIDTH // 4
        for layer in range(LAYERS):
            rows = slice(layer * WIDTH, (layer + 1) * WIDTH)
            value = (self.get_buffer(f"weight_{layer}").T @ unit) * gains[:, rows] + biases[:, rows]
            first, second, third, fourth = torch.split(value, quarter, 1)
            unit = torch.cat(
                [torch.sin(first), torch.tanh(second), 2 * torch.exp(-third * third) - 1, torch.sin(fourth)], 1
            )
        field = self.get_buffer("fields").T @ unit
        field = field - field.mean(-1, keepdim=True)
        return field / torch.sqrt(field.square().mean(-1, keepdim=True) + 0.02)

    def _colours(self, control: Tensor, field: Tensor) -> Tensor:
        """Fields through the picture's palette, ``(n, 3, h * w)`` sRGB in [-1, 1]."""
        crisp = torch.exp(0.6 * control[:, 11:12] + 0.35)  # from soft gradients to paper cut-outs
        tone, light, accent = (
            torch.tanh(crisp * field[:, i : i + 1] * scale) for i, scale in enumerate((0.9, 0.9, 1.2))
        )
        # Hue is a direction of two latents: an angle would wrap, and no taste model could learn it.
        length = torch.sqrt(control[:, 12:13].square() + control[:, 13:14].square() + 0.02)
        cosine, sine = control[:, 12:13] / length, control[:, 13:14] / length
        spread = 1.1 * torch.tanh(control[:, 14:15])
        pop = torch.sigmoid(3 * (accent * crisp.clamp(max=1.5) - 0.55))  # a minority of the picture in another hue
        angle = spread * tone + pop * (1.7 + 0.5 * torch.tanh(control[:, 15:16]))
        chroma = (0.115 + 0.05 * torch.tanh(control[:, 15:16])) * (0.75 + 0.35 * tone * light + 0.35 * pop)
        lightness = 0.66 + 0.10 * torch.tanh(control[:, 16:17])
        lightness = (
            lightness + (0.20 + 0.06 * torch.tanh(control[:, 17:18])) * (0.85 * light + 0.35 * tone) + 0.05 * pop
        )
        a = chroma * (cosine * torch.cos(angle) - sine * torch.sin(angle))
        b = chroma * (sine * torch.cos(angle) + cosine * torch.sin(angle))
        cone = self.get_buffer("cones") @ torch.cat([lightness, a, b], 1)
        linear = (self.get_buffer("lights") @ (cone * cone * cone)).clamp(0.0, 1.0)
        return (2 * torch.pow(linear + 1e-3, 1 / 2.2) - 1).clamp(-1.0, 1.0)


def export_art() -> bytes:
    """The generator as an ONNX file: ``latent`` ``(n, 24)``, ``grid`` ``(2, h, w)`` to ``picture`` ``(n, 3, h, w)``."""
    inputs = {"latent": torch.zeros(3, DIMENSION), "grid": pixel_grid(16, 20)}
    return export(ArtGenerator(), inputs, "picture", {"latent": {0: "n"}, "grid": {1: "h", 2: "w"}})
