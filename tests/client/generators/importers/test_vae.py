"""Decoders of VAEs read from bare state dicts draw what the networks they come from draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from client.generators.importers.base import ImportSettings, make
from client.generators.importers.registry import importer_of, sniffed
from common.errors import SettingError, UnreadableModel


class Convolutional(nn.Module):
    """The layout of the PyTorch-VAE collection: its names, kernels and normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)))
        self.fc_mu, self.fc_var = nn.Linear(64, 6), nn.Linear(64, 6)
        self.decoder_input = nn.Linear(6, 16 * 4)
        up = nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1)
        self.decoder = nn.Sequential(nn.Sequential(up, nn.BatchNorm2d(8), nn.LeakyReLU()))
        again = nn.ConvTranspose2d(8, 8, 4, 2, 1)
        last = nn.ConvTranspose2d(8, 8, 2, 2)
        self.final_layer = nn.Sequential(
            again, nn.BatchNorm2d(8), nn.LeakyReLU(), last, nn.LeakyReLU(), nn.Conv2d(8, 3, 3, padding=1), nn.Tanh()
        )

    def drawn(self, latent: Tensor) -> Tensor:
        made: Tensor = self.final_layer(self.decoder(self.decoder_input(latent).view(-1, 16, 2, 2)))
        return made


class Dense(nn.Module):
    """The VAE of the PyTorch examples, for pictures of 28 x 28."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 10), nn.Linear(10, 4), nn.Linear(10, 4)
        self.fc3, self.fc4 = nn.Linear(4, 10), nn.Linear(10, 784)

    def drawn(self, latent: Tensor) -> Tensor:
        grey = torch.sigmoid(self.fc4(torch.relu(self.fc3(latent)))).view(-1, 1, 28, 28)
        return (2 * grey - 1).expand(-1, 3, -1, -1)


class Activated(nn.Module):
    """A decoder alone, with an activation between its dense layer and its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 8 * 16)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.ConvTranspose2d(4, 1, 4, 2, 1)

    def drawn(self, latent: Tensor) -> Tensor:
        x = torch.nn.functional.silu(self.fc(latent)).view(-1, 8, 4, 4)
        made: Tensor = torch.tanh(self.out(torch.nn.functional.silu(self.up(x))))
        return made.expand(-1, 3, -1, -1)


SAID = {
    "convolutional": (Convolutional, 6, {"activation": "leaky", "last": "tanh"}),
    "dense": (Dense, 4, {"first": "fc3"}),
    "activated": (Activated, 5, {"activation": "silu", "last": "tanh", "unfold": "activated"}),
}


def written(folder: Path, case: str) -> tuple[Any, Path, int, ImportSettings]:
    cls, dimension, said = SAID[case]
    torch.manual_seed(3)
    network = cls()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if "running" in name:
                value.uniform_(0.5, 1.5)
            elif value.ndim > 1:
                value.mul_(4)  # so that pictures differ
    torch.save(network.state_dict(), folder / "model.pt")
    return network.eval(), folder / "model.pt", dimension, ImportSettings(settings=said)


@pytest.mark.parametrize("case", SAID)
@torch.no_grad()
def test_layers_follow_from_the_shapes(tmp_path: Path, case: str) -> None:
    source, path, dimension, settings = written(tmp_path, case)
    read = importer_of("vae").read(path, settings)
    latents = torch.randn(64, dimension, generator=torch.Generator().manual_seed(1))
    wanted = source.drawn(latents)
    assert read.latents.dimension == dimension
    assert read.output.shape == wanted.shape[1:]
    assert float((read.network(latents) - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    assert float(wanted.std(0).max()) > 1e-3  # the latents matter, so that agreement says something


def test_another_activation_draws_something_else(tmp_path: Path) -> None:
    source, path, dimension, _ = written(tmp_path, "activated")
    read = importer_of("vae").read(path, ImportSettings(settings={"activation": "silu", "last": "tanh"}))
    latents = torch.randn(8, dimension, generator=torch.Generator().manual_seed(1))
    assert float((read.network(latents) - source.drawn(latents)).detach().abs().max()) > 1e-2


class Doubling(nn.Module):
    """As the PyTorch-VAE collection ends: a transposed kernel of 3 from and to equal channels."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder_input = nn.Linear(6, 8 * 64)
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)
        self.last = nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def drawn(self, latent: Tensor) -> Tensor:
        made: Tensor = torch.tanh(self.last(torch.relu(self.up(self.decoder_input(latent).view(-1, 8, 8, 8)))))
        return made


@torch.no_grad()
def test_what_shapes_do_not_tell_is_asked_for_and_not_guessed(tmp_path: Path) -> None:
    torch.manual_seed(4)
    network = Doubling()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    with pytest.raises(SettingError, match=r"up \(8, 8, 3, 3\) may be .* give --set odd=conv or --set odd=transposed"):
        importer_of("vae").read(tmp_path / "model.pt", ImportSettings(settings={"last": "tanh"}))
    found = {
        odd: importer_of("vae").read(tmp_path / "model.pt", ImportSettings(settings={"last": "tanh", "odd": odd}))
        for odd in ("conv", "transposed")
    }
    assert [each.output.shape[1] for each in found.values()] == [16, 32]
    latents = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(found["transposed"].network(latents), network.drawn(latents), atol=1e-5)


def test_a_whole_vae_is_recognised_and_becomes_a_pack(tmp_path: Path) -> None:
    _, path, _, settings = written(tmp_path, "convolutional")
    assert sniffed(path).kind == "vae"
    made = make(importer_of("vae").read(path, settings), name="vae")
    assert made.error < 1e-3
    assert made.manifest.output.shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"activation": "swish"}, "activation=swish is unknown"),
        ({"first": "fc9"}, "first=fc9"),
        ({"odd": "both"}, "odd=both"),
        ({"unfold": "maybe"}, "unfold=maybe"),
        ({"width": "3"}, "width is unknown"),
    ],
)
def test_unknown_settings_are_refused(tmp_path: Path, said: dict[str, str], why: str) -> None:
    _, path, _, _ = written(tmp_path, "dense")
    with pytest.raises(SettingError, match=why):
        importer_of("vae").read(path, ImportSettings(settings=said))


def test_layers_that_do_not_follow_each_other_and_nan_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a.weight": torch.ones(36, 4), "b.weight": torch.ones(8, 5, 4, 4)}, path)
    with pytest.raises(UnreadableModel, match="36 numbers do not unfold to 8 square channels"):
        importer_of("vae").read(path, ImportSettings())
    torch.save({"a.weight": torch.full((768, 4), torch.nan)}, path)
    with pytest.raises(UnreadableModel, match="NaN"):
        importer_of("vae").read(path, ImportSettings())
