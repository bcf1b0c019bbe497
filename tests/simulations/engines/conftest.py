import dataclasses
import math
from pathlib import Path

import pytest
import torch

from client.likelihood import Evidence
from common.prior import PopulationPrior
from common.privacy.settings import PrivacySettings
from simulations.engines import Job

P = 5


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Forty-three people on eight nodes, two rounds, no noise."""
    generator = torch.Generator().manual_seed(3)
    items = torch.randn(50, P, generator=generator, dtype=torch.float64)
    tastes = 0.5 + torch.randn(43, P, generator=generator, dtype=torch.float64)
    shown = torch.randint(50, (43, 12, 1), generator=generator)
    scores = (items[shown[..., 0]] * tastes[:, None]).sum(-1)
    liked = torch.rand(43, 12, generator=generator, dtype=torch.float64) < torch.sigmoid(scores)
    return Job(
        evidence=Evidence.gather(torch.zeros(43, 12, dtype=torch.int64), liked.long(), shown, items),
        prior=PopulationPrior.flat(P, "a" * 64),
        settings=PrivacySettings(
            epsilon=math.inf, participations=2, norm_bound=3.0, expected_people=43, minimum_people=10
        ),
        step=1.5,
        nodes=8,
        folder=tmp_path / "nodes",
        timeout_seconds=60.0,
    )


@pytest.fixture
def private_job(job: Job) -> Job:
    """The same with noise from a fixed stream of bytes; never do this outside a test."""
    return dataclasses.replace(job, settings=dataclasses.replace(job.settings, epsilon=1.0))
