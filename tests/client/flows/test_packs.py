"""Flows out of packs and back: what they draw is what the pack draws."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from client.flows.adapters import AdapterSettings, LowRank, adapted
from client.flows.denoising import Early
from client.flows.packs import PackFlow, flow_of, open_flow, plain
from client.generators.importers.sampling import Denoised, ddim_step, flow_steps
from client.generators.importers.unrolling import Shown
from client.generators.pack import GeneratorPack
from client.generators.training.checkpoint import FILE
from client.generators.training.cli import PACK
from common.errors import FolderError, SettingError
from tests.client.flows.trained import course, training, write_torch_pack


@pytest.fixture(autouse=True)
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run in a child process takes seconds and is tested with packs."""
    monkeypatch.setattr(GeneratorPack, "_is_trusted", lambda *_: True)


def latents(found: PackFlow, count: int = 4) -> torch.Tensor:
    return found.pack.latents.sample(count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("space", ["pixels", "vae"])
def test_the_flow_of_a_torch_pack_and_of_a_training_draws_what_the_pack_draws(space: str, tmp_path: Path) -> None:
    made = course(space=space)
    for found in (open_flow(training(tmp_path / "run", made)), open_flow(tmp_path / "run" / PACK)):
        noise = latents(found)
        drawn = found.flow.media(found.samples(noise))
        wanted = found.pack.generate(noise)
        assert float((drawn - wanted).abs().max()) < 1e-5
        assert float(wanted.std(0).mean()) > 0.01


def test_a_taught_flow_becomes_a_pack_that_draws_it_and_can_be_taught_again(tmp_path: Path) -> None:
    write_torch_pack(tmp_path / "pack", course())
    found = open_flow(tmp_path / "pack")
    network = adapted(found.flow.velocity, AdapterSettings(rank=3), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, LowRank):
                module.up.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    taught = found.flow.moved(Early(network, found.flow.velocity, 1.0))
    imported = found.imported(taught, "tuned")
    noise = latents(found)
    drawn = taught.media(taught.draw(noise.reshape(-1, 3, 16, 16)))
    assert float((imported.network(noise) - drawn).abs().max()) < 1e-4
    assert float((drawn - found.pack.generate(noise)).abs().max()) > 0.01  # it was taught something
    assert imported.origin is not None
    assert (imported.origin.sha256, imported.notice, imported.runtime) == (found.pack.hash, "tuned", "torch")
    again = flow_of(imported.network, "again")
    assert again.sampler == found.flow.sampler


def test_two_networks_on_one_way_are_no_pack() -> None:
    one = nn.Linear(2, 2)
    with pytest.raises(SettingError, match=r"until=0\.25 leaves two networks"):
        plain(Early(one, one, 0.25))


def test_weights_of_another_training_are_noticed(tmp_path: Path) -> None:
    mine, other = training(tmp_path / "mine", course(1)), training(tmp_path / "other", course(2))
    (mine / FILE).write_bytes((other / FILE).read_bytes())
    with pytest.raises(FolderError, match="was not made of the weights beside it"):
        open_flow(mine)


def test_a_training_without_a_pack_or_with_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    found = training(tmp_path / "run", course())
    (found / PACK).rename(tmp_path / "elsewhere")
    with pytest.raises(FolderError, match="has no pack yet; finish the training"):
        open_flow(found)
    (found / FILE).write_bytes(b"torn")
    with pytest.raises(FolderError, match="cannot be read"):
        open_flow(found)


def test_what_is_no_flow_says_what_it_is_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"art runs in ONNX, which holds no weights that learn.*plgl stream --gen"):
        open_flow("art")
    write_torch_pack(tmp_path / "vae", course(kind="vae"))
    with pytest.raises(SettingError, match=r"mine draws in one step, so it is no flow; .*plgl stream"):
        open_flow(tmp_path / "vae")
    with pytest.raises(SettingError, match="is the training of a vae, no flow"):
        open_flow(training(tmp_path / "run", course(kind="vae")))


class _Zero(nn.Module):
    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return 0 * x


def _diffusion() -> Denoised:
    return Denoised(_Zero(), (ddim_step(9.0, 0.1, 0.5, "epsilon"), ddim_step(5.0, 0.5, 1.0, "epsilon")), (3, 16, 16))


def _guided() -> Denoised:
    return Denoised(_Zero(), flow_steps([1.0, 0.5, 0.0], [1.0, 0.5]), (3, 16, 16), guidance=7.5)


def _late() -> Denoised:
    return Denoised(_Zero(), flow_steps([0.8, 0.5, 0.0], [0.8, 0.5]), (3, 16, 16))


@pytest.mark.parametrize(
    ("network", "why"),
    [(_diffusion, "is a diffusion model"), (_guided, "is guided by a prompt"), (_late, "is a diffusion model")],
)
def test_samplers_that_are_no_plain_rectified_flow_are_refused(network: Callable[[], Denoised], why: str) -> None:
    with pytest.raises(SettingError, match=why):
        flow_of(Shown(network(), (3, 16, 16)), "other")


def test_a_flow_of_diffusers_is_told_its_own_times() -> None:
    """Their times go up to 1000, and their steps may be uneven."""

    class Told(nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return (time / 1000)[:, None, None, None] * x

    sigmas = [1.0, 0.7, 0.2, 0.0]
    network = Shown(Denoised(Told(), flow_steps(sigmas, [1000.0, 700.0, 200.0]), (3, 16, 16)), (3, 16, 16))
    found, noise = flow_of(network, "other"), torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert float((found.media(found.draw(noise)) - network(noise.flatten(1))).abs().max()) < 1e-5
    even = replace(found, sampler=replace(found.sampler, times=(0.0, 1 / 3, 2 / 3, 1.0)))
    assert float((even.draw(noise) - found.draw(noise)).abs().max()) > 0.01
