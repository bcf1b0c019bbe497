"""Generators built the way their authors build them: DCGAN, ProGAN in two layouts, and the tree of StackGAN-v2."""

from __future__ import annotations

import itertools
import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Network = TypeVar("Network", bound=nn.Module)


def lively(network: Network, seed: int = 0) -> Network:
    """The network with random weights and random statistics, so that no layer is a no-op."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.copy_(torch.rand(value.shape, generator=random) + 0.5)
            elif value.is_floating_point():
                spread = 1 / math.sqrt(max(value[0].numel(), 1)) if value.ndim > 1 else 0.3
                value.copy_(torch.randn(value.shape, generator=random) * spread)
    return network.eval()


class OfficialDcGan(nn.Module):
    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.main = layers

    def forward(self, z: Tensor) -> Tensor:
        picture: Tensor = self.main(z[:, :, None, None])
        return picture


def official_dcgan(latent: int = 7, width: int = 4, channels: int = 3, doublings: int = 3) -> OfficialDcGan:
    """The generator of the PyTorch examples."""
    layers: list[nn.Module] = []
    sizes = [latent] + [width << i for i in reversed(range(doublings))]
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.ConvTranspose2d(inputs, outputs, 4, 2 if i else 1, 1 if i else 0, bias=False))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return lively(
        OfficialDcGan(nn.Sequential(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Tanh()))
    )


class Equalised(nn.Module):
    """A layer of the PyTorch GAN Zoo: He's constant on the output, bias included."""

    def __init__(self, module: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.module = module
        self.scale = math.sqrt(2 / module.weight[0].numel())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x) * self.scale
        return y


def unit(x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(1, keepdim=True) + 1e-8)


class ZooProGan(nn.Module):
    def __init__(self, latent: int = 6, widths: tuple[int, ...] = (8, 6, 4), alpha: float = 0.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.formatLayer = Equalised(nn.Linear(latent, 16 * widths[0]))
        self.groupScale0 = nn.ModuleList([Equalised(nn.Conv2d(widths[0], widths[0], 3, padding=1))])
        self.scaleLayers = nn.ModuleList(
            nn.ModuleList([Equalised(nn.Conv2d(a, b, 3, padding=1)), Equalised(nn.Conv2d(b, b, 3, padding=1))])
            for a, b in itertools.pairwise(widths)
        )
        self.toRGBLayers = nn.ModuleList(Equalised(nn.Conv2d(each, 3, 1)) for each in widths)
        for layer in [m for m in self.modules() if isinstance(m, Equalised)]:
            nn.init.normal_(layer.module.weight)
            nn.init.normal_(layer.module.bias, std=0.3)  # type: ignore[arg-type]

    def forward(self, z: Tensor) -> Tensor:
        x = functional.leaky_relu(self.formatLayer(unit(z)), 0.2)
        x = unit(x.view(len(z), -1, 4, 4))
        x = unit(functional.leaky_relu(self.groupScale0[0](x), 0.2))
        y = x
        for group in self.scaleLayers:
            y, x = x, functional.interpolate(x, scale_factor=2)
            assert isinstance(group, nn.ModuleList)
            for layer in group:
                x = unit(functional.leaky_relu(layer(x), 0.2))
        picture: Tensor = self.toRGBLayers[-1](x)
        if self.alpha:
            before = functional.interpolate(self.toRGBLayers[-2](y), scale_factor=2)
            picture = self.alpha * before + (1 - self.alpha) * picture
        return picture


class Scale(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale, self.b = nn.Parameter(torch.tensor([0.4])), nn.Parameter(torch.randn(size) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.b.view(1, -1, 1, 1)


class Unit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return unit(x)


class NormedBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, up: bool) -> None:
        super().__init__()
        self.up, self.conv, self.wscale = up, nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), Scale(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = unit(x)
        return functional.leaky_relu(
            self.wscale(self.conv(functional.interpolate(x, scale_factor=2) if self.up else x)), 0.2
        )


class OfficialProGan(nn.Module):
    """The official weights' layout: a full convolution of one pixel first."""

    def __init__(self, latent: int = 6, widths: tuple[int, ...] = (8, 6, 4)) -> None:
        super().__init__()
        self.in_layer = nn.Sequential(Unit(), nn.Conv2d(latent, widths[0], 4, padding=3, bias=False), Scale(widths[0]))
        blocks = [NormedBlock(widths[0], widths[0], False)]
        for a, b in itertools.pairwise(widths):
            blocks += [NormedBlock(a, b, True), NormedBlock(b, b, False)]
        self.upsampling_layers = nn.Sequential(*blocks)
        self.out_layer = nn.Sequential(Unit(), nn.Conv2d(widths[-1], 3, 1, bias=False), Scale(3))

    def forward(self, z: Tensor) -> Tensor:
        x = functional.leaky_relu(self.in_layer(z[:, :, None, None]), 0.2)
        picture: Tensor = self.out_layer(self.upsampling_layers(x))
        return picture


class Glu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        return x[:, :half] * torch.sigmoid(x[:, half:])


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def up_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2), conv3(inputs, 2 * outputs), nn.BatchNorm2d(2 * outputs), Glu())


class FirstOfTree(nn.Module):
    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.fc = nn.Sequential(nn.Linear(latent, width * 32, bias=False), nn.BatchNorm1d(width * 32), Glu())
        for i in range(1, 5):
            setattr(self, f"upsample{i}", up_block(width >> (i - 1), width >> i))

    def forward(self, z: Tensor) -> Tensor:
        x = self.fc(z).view(-1, self.width, 4, 4)
        for i in range(1, 5):
            x = getattr(self, f"upsample{i}")(x)
        return x  # type: ignore[no-any-return]


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        half = [conv3(width, 2 * width), nn.BatchNorm2d(2 * width), Glu()]
        self.block = nn.Sequential(*half, conv3(width, width), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y + x


class NextOfTree(nn.Module):
    def __init__(self, latent: int, width: int) -> None:
        super().__init__()
        self.jointConv = nn.Sequential(conv3(width + latent, 2 * width), nn.BatchNorm2d(2 * width), Glu())
        self.residual = nn.Sequential(Residual(width), Residual(width))
        self.upsample = up_block(width, width // 2)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        code = z[:, :, None, None].repeat(1, 1, x.shape[2], x.shape[2])
        y: Tensor = self.upsample(self.residual(self.jointConv(torch.cat((code, x), 1))))
        return y


class Colour(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.img = nn.Sequential(conv3(width, 3), nn.Tanh())


class Tree(nn.Module):
    """The unconditional generator of StackGAN-v2."""

    def __init__(self, latent: int = 5, width: int = 4, branches: int = 2) -> None:
        super().__init__()
        self.branches = branches
        self.h_net1, self.img_net1 = FirstOfTree(latent, 16 * width), Colour(width)
        for i in range(2, branches + 1):
            setattr(self, f"h_net{i}", NextOfTree(latent, width >> (i - 2)))
            setattr(self, f"img_net{i}", Colour(width >> (i - 1)))

    def forward(self, z: Tensor, branch: int = 0) -> Tensor:
        x = self.h_net1(z)
        for i in range(2, (branch or self.branches) + 1):
            x = getattr(self, f"h_net{i}")(x, z)
        picture: Tensor = getattr(self, f"img_net{branch or self.branches}").img(x)
        return picture
