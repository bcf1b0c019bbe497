import dataclasses

import numpy as np
import pytest
import torch

from client.contribution import contribution
from common.errors import CohortError
from common.privacy.fixed_point import SCALE
from simulations.engines import ENGINES, Job, Outcome, batched, direct, inline


def same(one: Outcome, other: Outcome) -> None:
    """To rounding: a few of the integers may differ by a step of 1 / 4096, over 43 people."""
    assert torch.allclose(one[0].mean, other[0].mean, rtol=0, atol=1e-4)
    assert torch.allclose(one[0].covariance, other[0].covariance, rtol=0, atol=1e-4)
    assert one[0].privacy == other[0].privacy
    assert one[1] == other[1]


def test_tensors_give_the_same_prior_as_function_calls_and_messages(job: Job) -> None:
    found = batched.run(job)
    same(found, direct.run(job))
    same(found, inline.run(job))
    assert float(found[0].mean.abs().max()) > 0.1
    assert "batched" in ENGINES


def test_with_the_same_noise_too(private_job: Job) -> None:
    one, other = (dataclasses.replace(private_job, randomness=np.random.default_rng(5).bytes) for _ in range(2))
    same(batched.run(one), direct.run(other))


def test_the_sum_is_the_one_of_the_clients_to_a_few_steps(job: Job) -> None:
    mine = batched._total(job.evidence, job.prior, 3.0, SCALE)
    theirs = contribution(job.evidence, job.prior, 3.0, SCALE)
    assert int((mine - theirs).abs().max()) <= 1
    assert int((mine != theirs).sum()) <= 2
    assert int(theirs.abs().max()) > 1_000


def test_too_few_people_end_it_in_the_same_way(job: Job) -> None:
    settings = dataclasses.replace(job.settings, minimum_people=44, expected_people=44)
    for engine in (batched, direct):
        with pytest.raises(CohortError):
            engine.run(dataclasses.replace(job, settings=settings))
