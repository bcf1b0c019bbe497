"""Fixed steps written as one ONNX file: the rules of packs, weights that are shared, guidance by a prompt."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from client.generators import onnx_rules
from client.generators.importers import unrolling
from client.generators.importers.sampling import Denoised, ddim_step
from client.generators.importers.unrolling import Shown, unrolled
from client.generators.onnx import OnnxModel
from common.errors import UnreadableModel

SHAPE, TOKENS = (2, 4, 4), (5, 6)


class Answer(nn.Module):
    """As small as a network of pictures, time and prompt can be."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.told = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(6, 2)

    def forward(self, x: Tensor, time: Tensor, prompt: Tensor) -> Tensor:
        return torch.tanh(
            self.conv(x) + self.told(prompt).mean(1)[:, :, None, None] + 0.001 * time[:, None, None, None]
        )


def made(steps: int) -> tuple[Shown, Tensor]:
    torch.manual_seed(1)
    levels = torch.linspace(0.1, 0.95, steps + 1).tolist()
    taken = tuple(
        ddim_step(float(1000 - i), now, after, "epsilon", 2.0)
        for i, (now, after) in enumerate(itertools.pairwise(levels))
    )
    network = Denoised(Answer(), taken, SHAPE, nn.Conv2d(2, 1, 1), guidance=3.0, negative=torch.randn(1, *TOKENS))
    return Shown(network, SHAPE).eval(), torch.randn(TOKENS)


def test_weights_beyond_one_file_are_refused_before_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    network, prompt = made(1)
    size = 4 * sum(value.numel() for value in network.state_dict().values())
    monkeypatch.setattr(unrolling, "LARGEST_FILE", size - 1)
    with pytest.raises(UnreadableModel, match="one ONNX file holds 2"):
        unrolled(network, {"prompt": prompt})


@torch.no_grad()
def test_guided_steps_keep_the_rules_of_packs_and_draw_the_same() -> None:
    network, prompt = made(5)
    content = unrolled(network, {"prompt": prompt})
    for n in (3, 7):
        latent, prompts = torch.randn(n, 32), torch.randn(n, *TOKENS)
        shapes = {"latent": latent.shape, "prompt": prompts.shape}
        assert onnx_rules.check_shapes(onnx_rules.parse(content), shapes, 1 << 20) > 0
        found, wanted = OnnxModel(content, "steps").run(latent=latent, prompt=prompts), network(latent, prompts)
        assert found.shape == (n, 3, 4, 4)
        assert float((found - wanted).abs().max()) < 1e-5
        assert float((wanted - network(latent, prompts.flip(0))).abs().max()) > 1e-2  # the prompt matters
