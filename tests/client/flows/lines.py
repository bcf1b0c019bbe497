"""The smallest flow there is, for tests: two heaps of points on a line, a rare one at 2 and a common one at -1."""

from functools import cache

import torch
from torch import Tensor, nn

from client.flows.model import FlowModel
from client.flows.rectified import SamplerSettings, flow_loss


class Line(nn.Module):
    """A velocity on samples ``(n, 1)``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1))

    def forward(self, place: Tensor, time: Tensor) -> Tensor:
        found: Tensor = self.layers(torch.cat([place, time[:, None]], -1))
        return found


def heaps(n: int, generator: torch.Generator) -> Tensor:
    rare = torch.rand(n, 1, generator=generator) < 0.2
    return torch.where(rare, 2.0, -1.0) + 0.1 * torch.randn(n, 1, generator=generator)


@cache
def trained_line(steps: int = 500) -> Line:
    """Trained with noise and samples drawn independently; nobody may change it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = Line()
    generator = torch.Generator().manual_seed(0)
    descent = torch.optim.Adam(flow.parameters(), 5e-3)
    for _ in range(steps):
        noise, time = torch.randn(256, 1, generator=generator), torch.rand(256, generator=generator)
        descent.zero_grad()
        flow_loss(flow, noise, heaps(256, generator), time).backward()  # type: ignore[no-untyped-call]
        descent.step()
    return flow.requires_grad_(False)


def line_model(flow: nn.Module) -> FlowModel:
    return FlowModel(velocity=flow, shape=(1,), sampler=SamplerSettings(steps=20, chunk=2000))


NOISE = torch.randn(2000, 1, generator=torch.Generator().manual_seed(9))


def rare(model: FlowModel) -> float:
    """Share of the rare heap."""
    return float((model.draw(NOISE) > 0.5).double().mean())
