import dataclasses

import pytest
import torch

from client.contribution import contribution
from client.fit import laplace
from client.likelihood import Evidence
from common import update
from common.errors import SettingError
from common.prior import PopulationPrior
from common.privacy.clip import clip
from common.privacy.fixed_point import SCALE, quantise, sensitivity

P = 5
PRIOR = PopulationPrior.flat(P, "a" * 64, standard_deviation=1.5)


def said(people: int, answers: int = 12, seed: int = 0) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn(60, P, generator=generator, dtype=torch.float64)
    tastes = torch.randn(people, P, generator=generator, dtype=torch.float64) * 2
    shown = torch.randint(60, (people, answers, 1), generator=generator)
    scores = (items[shown[..., 0]] * tastes[:, None]).sum(-1)
    liked = torch.rand(people, answers, generator=generator, dtype=torch.float64) < torch.sigmoid(scores)
    return Evidence.gather(torch.zeros(people, answers, dtype=torch.int64), liked.long(), shown, items)


def test_the_sum_is_that_of_a_plain_loop_over_people() -> None:
    evidence = said(7)
    total = torch.zeros(update.length(P), dtype=torch.int64)
    for person in range(7):
        alone = evidence.select(slice(person, person + 1))
        fit = laplace(alone, PRIOR.mean, PRIOR.covariance, PRIOR.thresholds)
        total += quantise(clip(update.encode(fit.mean, fit.covariance, PRIOR), 1.0), SCALE)[0]
    assert (contribution(evidence, PRIOR, 1.0, SCALE) - total).abs().max() <= 1


@pytest.mark.parametrize("chunk_people", [1, 3, 7, 100])
def test_chunks_do_not_change_the_sum(chunk_people: int) -> None:
    evidence = said(7)
    whole = contribution(evidence, PRIOR, 2.0, SCALE)
    assert (contribution(evidence, PRIOR, 2.0, SCALE, chunk_people=chunk_people) - whole).abs().max() <= 1


def test_nobody_and_people_without_ratings_give_zeros() -> None:
    for evidence in (said(4).select(slice(0, 0)), said(4, answers=0)):
        assert not contribution(evidence, PRIOR, 2.0, SCALE).any()


@pytest.mark.parametrize("norm_bound", [0.01, 0.5, 8.0])
def test_one_person_never_moves_the_sum_by_more_than_the_sensitivity(norm_bound: float) -> None:
    everybody = contribution(said(9), PRIOR, norm_bound, SCALE)
    for person in range(9):
        others = torch.arange(9) != person
        moved = everybody - contribution(said(9).select(others), PRIOR, norm_bound, SCALE)
        # chunks of other sizes may round an entry the other way
        assert moved.double().norm() <= sensitivity(norm_bound, update.length(P)) + moved.numel() ** 0.5


def test_features_in_single_precision_are_fitted_in_double() -> None:
    evidence = said(6)
    single = dataclasses.replace(evidence, features=evidence.features.float())
    assert (contribution(evidence, PRIOR, 4.0, SCALE) - contribution(single, PRIOR, 4.0, SCALE)).abs().max() <= 6


def test_broken_features_are_refused_without_naming_them() -> None:
    evidence = said(3)
    evidence.features[1, 2, 0, 3] = float("nan")
    with pytest.raises(SettingError, match="NaN"):
        contribution(evidence, PRIOR, 2.0, SCALE)
