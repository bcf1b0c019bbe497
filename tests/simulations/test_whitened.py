import pytest
import torch

from client.contribution import updates_of
from client.likelihood import Evidence
from client.ratings import Kind
from common.prior import PopulationPrior
from simulations import whitened
from simulations.interview import WIDTH
from simulations.invented_crowd import Habits, InventedCrowd, World

WORLD = World.abstract(components=10, pool=200, unseen=100)
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""Of an entry of an update. A step of the rounding that follows is 2.4e-4."""


def prior() -> PopulationPrior:
    """One that is not flat, as after a round."""
    flat = WORLD.flat
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(11, 11, generator=generator, dtype=torch.float64)
    return PopulationPrior(
        mean=0.3 * torch.randn(11, generator=generator, dtype=torch.float64),
        covariance=flat.covariance + 0.05 * mix @ mix.T,
        thresholds=flat.thresholds,
        pack=flat.pack,
        privacy=flat.privacy,
    )


def seen(crowd: InventedCrowd, dtype: torch.dtype) -> Evidence:
    now = prior()
    return crowd.answers(0, 60).seen_as(whitened.table(crowd.items.features.to(dtype), now.mean, now.covariance))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("kind", list(WIDTH))
def test_people_send_what_the_client_would_send(kind: Kind, dtype: torch.dtype) -> None:
    crowd = InventedCrowd(WORLD, 60, kind=kind, habits=Habits(unequal=1.0))
    exact = updates_of(crowd.answers(0, 60).seen_as(crowd.items.features), prior())
    found = whitened.statistics(seen(crowd, dtype), prior().thresholds)
    assert found.dtype == dtype
    assert float((found.double() - exact).abs().max()) < TOLERANCE[dtype]
    assert float(exact.abs().max()) > 0.5


def test_kinds_may_be_mixed() -> None:
    crowds = [InventedCrowd(WORLD, 60, kind=kind, ratings=8) for kind in (Kind.CHOICE, Kind.LIKE)]
    choices, likes = (crowd.answers(0, 60) for crowd in crowds)
    padded = torch.cat([likes.items, torch.full_like(likes.items, -1)], dim=2)
    for table in (WORLD.pool.features, whitened.table(WORLD.pool.features, prior().mean, prior().covariance)):
        parts = [Evidence.gather(choices.kind, choices.value, choices.items, table)]
        parts.append(Evidence.gather(likes.kind, likes.value, padded, table))
        both = Evidence(*(torch.cat(pair, dim=1) for pair in zip(*(part.tensors() for part in parts), strict=True)))
        if table is WORLD.pool.features:
            exact = updates_of(both, prior())
        else:
            found = whitened.statistics(both, prior().thresholds)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-8)


def test_glances_are_understood() -> None:
    likes = InventedCrowd(WORLD, 20, kind=Kind.LIKE).answers(0, 20)
    looks = torch.full_like(likes.kind, int(Kind.GLANCE))
    table = whitened.table(WORLD.pool.features, prior().mean, prior().covariance)
    found = whitened.statistics(Evidence.gather(looks, 700 * likes.value, likes.items, table), prior().thresholds)
    exact = updates_of(Evidence.gather(looks, 700 * likes.value, likes.items, WORLD.pool.features), prior())
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", [Kind.LIKE, Kind.CHOICE, Kind.STARS])
def test_whoever_said_nothing_sends_zeros(kind: Kind) -> None:
    evidence = seen(InventedCrowd(WORLD, 60, kind=kind), torch.float64)
    silent = Evidence(evidence.kind, evidence.value, 0 * evidence.weight, evidence.features, evidence.shown)
    assert float(whitened.statistics(silent, prior().thresholds).abs().max()) < 1e-12
    nothing = evidence.first(0)
    assert float(whitened.statistics(nothing, prior().thresholds).abs().max()) < 1e-12


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_tastes_that_are_hard_to_fit_are_fitted(dtype: torch.dtype) -> None:
    """Features far out and answers that contradict the prior: a full Newton step overshoots."""
    crowd = InventedCrowd(WORLD, 60, kind=Kind.LIKE)
    answers = crowd.answers(0, 60)
    wide = PopulationPrior.flat(11, "a" * 64, 30.0)
    exact = updates_of(answers.seen_as(crowd.items.features), wide)
    table = whitened.table(crowd.items.features.to(dtype), wide.mean, wide.covariance)
    found = whitened.statistics(answers.seen_as(table), wide.thresholds)
    assert float((found.double() - exact).abs().max()) < (1e-7 if dtype == torch.float64 else 1e-2)
