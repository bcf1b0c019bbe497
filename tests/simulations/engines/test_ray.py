import gc
import importlib.util
import logging
import os

import pytest
import torch

from simulations.engines import Job, direct, ray

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra [simulation]"),
    # Ray lets go of its ended processes without having waited for them, and announces future defaults.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


def test_ray_gives_the_same_prior_as_function_calls_quietly(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    prior, records = ray.run(job)
    gc.collect()  # so that Ray's warnings come while they are ignored, not in a later test
    expected, expected_records = direct.run(job)
    assert torch.allclose(prior.mean, expected.mean, rtol=0, atol=1e-4)
    assert torch.allclose(prior.covariance, expected.covariance, rtol=0, atol=1e-4)
    assert records == expected_records
    assert not list(job.folder.iterdir())
    assert os.environ.get("PYTHONPATH") == before.get("PYTHONPATH")
    assert logging.getLogger("flwr").level <= logging.INFO
    out, err = capfd.readouterr()
    assert out == ""
    assert "DEPRECATED" not in err
    assert "INFO" not in err
