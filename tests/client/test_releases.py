"""The shelf of a device: what lies on it was accepted, whole, and never goes back."""

import dataclasses
import math
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from client.ledger import Ledger
from client.likelihood import Evidence
from client.ratings import Best, Choice, Glance, Kind, Like, Rating, Stars
from client.releases import ANSWERS_NEEDED, MEAN_LIMIT, Shelf, Verdict, auc, judge, out_of_bounds
from common.errors import LedgerError, ReleaseError, StorageError
from common.prior import PopulationPrior
from common.privacy.promise import statement_of
from common.privacy.settings import PrivacySettings
from common.release import Release
from common.signing import SigningKey
from common.terms import Terms, Trust

KEY = SigningKey.from_bytes(bytes(range(32)))
P = 5
TERMS = Terms(
    federation="a" * 32,
    name="test",
    pack="c" * 64,
    components=P - 1,
    settings=PrivacySettings(epsilon=2.0),
    trust=Trust.CENTRAL,
    honest_people=50,
)
TASTE = torch.tensor([1.5, -1.0, 0.0, 0.0, 0.2], dtype=torch.float64)
FLAT = PopulationPrior.flat(P, TERMS.pack)


def prior(mean: torch.Tensor = TASTE) -> PopulationPrior:
    covariance = 0.3 * FLAT.covariance
    return dataclasses.replace(FLAT, mean=mean, covariance=covariance, rounds=1, privacy=statement_of(TERMS, 1))


def release(version: int = 1, mean: torch.Tensor = TASTE) -> Release:
    previous = "" if version == 1 else "ab" * 32
    return Release(
        terms=TERMS, version=version, round=version, prior=prior(mean), created=0, expires=900, previous=previous
    )


def said(answers: int, seed: int = 1) -> Evidence:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(1, answers, 1, P, dtype=torch.float64, generator=draw)
    features[..., -1] = 1
    scores = (features[:, :, 0] @ TASTE).sigmoid()
    liked = (torch.rand(scores.shape, dtype=torch.float64, generator=draw) < scores).long()
    shape = (1, answers)
    weight, shown = torch.ones(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.int64)
    return Evidence(torch.full(shape, int(Kind.LIKE)), liked, weight, features, shown)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(tmp_path / "ledger.db", create=True)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "releases", release_key=KEY.public)


def offer(shelf: Shelf, ledger: Ledger, made: Release, evidence: Evidence | None = None, now: float = 10) -> Verdict:
    return shelf.offer(
        made.to_bytes(KEY), release_key=KEY.public, terms=TERMS, ledger=ledger, now=now, evidence=evidence
    )


def test_a_good_release_is_kept_for_its_owner_only(shelf: Shelf, ledger: Ledger) -> None:
    assert shelf.current() is None
    verdict = offer(shelf, ledger, release(), said(60))
    assert verdict.accepted
    assert verdict.held_out_after > verdict.held_out_before
    assert any("first prior" in line for line in verdict.changes)
    current = shelf.current()
    assert current is not None
    assert torch.equal(current.prior.mean, TASTE)
    (file,) = shelf.folder.iterdir()
    assert (stat.S_IMODE(shelf.folder.stat().st_mode), stat.S_IMODE(file.stat().st_mode)) == (0o700, 0o600)
    assert ledger.highest_version(TERMS.federation) == 1


def test_the_same_release_again_changes_nothing(shelf: Shelf, ledger: Ledger) -> None:
    offer(shelf, ledger, release())
    before = (shelf.folder / "release.json").stat()
    assert offer(shelf, ledger, release()).accepted
    assert (shelf.folder / "release.json").stat().st_ino == before.st_ino


def test_a_newer_release_says_what_it_changes(shelf: Shelf, ledger: Ledger) -> None:
    offer(shelf, ledger, release())
    verdict = offer(shelf, ledger, release(2, TASTE + 0.1))
    assert verdict.accepted
    assert any(line.startswith("its mean moved by 0.34 ") for line in verdict.changes), verdict.changes
    assert "people differ 1.00 times as much as before" in verdict.changes
    current = shelf.current()
    assert current is not None
    assert current.version == 2


def test_a_bad_release_leaves_the_one_before_and_counts_as_seen(shelf: Shelf, ledger: Ledger) -> None:
    offer(shelf, ledger, release(), said(60))
    verdict = offer(shelf, ledger, release(2, -TASTE), said(60))
    assert not verdict.accepted
    assert "worse than knowing nothing" in verdict.reason
    assert verdict.held_out_after < verdict.held_out_before
    current = shelf.current()
    assert current is not None
    assert current.version == 1
    assert "older than release 2" in offer(shelf, ledger, release(), said(60)).reason


def test_too_few_answers_leave_the_bounds_alone_and_more_answers_take_it_back(shelf: Shelf, ledger: Ledger) -> None:
    verdict = offer(shelf, ledger, release(1, -TASTE), said(ANSWERS_NEEDED - 1))
    assert verdict.accepted
    assert "19 answers of your own are too few" in verdict.reason
    assert math.isnan(verdict.held_out_after)
    assert not offer(shelf, ledger, release(1, -TASTE), said(60)).accepted
    assert shelf.current() is None


def test_looks_are_no_answers() -> None:
    evidence = said(60)
    looks = dataclasses.replace(evidence, kind=torch.full_like(evidence.kind, int(Kind.GLANCE)))
    assert "0 answers of your own" in judge(release(1, -TASTE), None, looks).reason


def test_what_is_not_signed_or_too_old_never_reaches_the_ledger(shelf: Shelf, ledger: Ledger) -> None:
    for raw, now in (
        (b"{}", 10.0),
        (release(3).to_bytes(SigningKey.generate()), 10.0),
        (release(3).to_bytes(KEY), 1e4),
    ):
        verdict = shelf.offer(raw, release_key=KEY.public, terms=TERMS, ledger=ledger, now=now)
        assert not verdict.accepted
    assert ledger.highest_version(TERMS.federation) == 0


def test_what_was_altered_on_the_shelf_is_not_used(shelf: Shelf, ledger: Ledger) -> None:
    offer(shelf, ledger, release())
    file = shelf.folder / "release.json"
    file.write_bytes(file.read_bytes().replace(b'"version":1', b'"version":2'))
    assert shelf.current() is None
    assert offer(shelf, ledger, release()).accepted
    assert shelf.current() is not None
    with pytest.raises(ReleaseError, match="release_key"):
        Shelf(shelf.folder).current()


def test_trouble_with_ledger_or_disk_is_no_verdict(tmp_path: Path, ledger: Ledger) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(StorageError):
        offer(Shelf(blocked / "releases"), ledger, release())
    (tmp_path / "ledger.db").unlink()
    with pytest.raises(LedgerError):
        offer(Shelf(tmp_path / "releases"), ledger, release(2))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"mean": FLAT.mean + 0.9 * MEAN_LIMIT * FLAT.covariance.diag().sqrt()}, None),
        ({"mean": FLAT.mean + 1.1 * MEAN_LIMIT * FLAT.covariance.diag().sqrt()}, "standard deviations"),
        ({"mean": torch.tensor([0, 0, 0, 0, 3.1], dtype=torch.float64)}, "its bias 3.1"),
        ({"covariance": 90 * FLAT.covariance}, "typical spread is 90"),
        ({"covariance": 40 * FLAT.covariance}, None),
        ({"covariance": 0.03 * FLAT.covariance}, None),
        ({"covariance": 0.01 * FLAT.covariance}, "typical spread"),
        ({"covariance": torch.diag(torch.tensor([1, 1, 1, 1, 1e-6], dtype=torch.float64))}, "least spread"),
        ({"covariance": torch.diag(torch.tensor([1, 1, 1, 1, 101], dtype=torch.float64))}, "greatest spread"),
        ({"thresholds": FLAT.thresholds + 1e-6}, "cuts between stars"),
    ],
)
def test_bounds_are_where_they_are_said_to_be(changes: dict[str, Any], says: str | None) -> None:
    found = out_of_bounds(dataclasses.replace(FLAT, **changes), FLAT)
    assert (found is None) if says is None else (found is not None and says in found), found


def test_auc_of_likes_is_that_of_scikit_learn() -> None:
    evidence = said(200)
    scores = torch.randn(200, 1, generator=torch.Generator().manual_seed(3)).round(decimals=1)  # with ties
    expected = roc_auc_score(evidence.value[0].numpy(), scores[:, 0].numpy())
    assert auc(evidence, scores) == pytest.approx(expected)


def test_auc_of_every_kind_is_one_for_the_truth_and_zero_for_its_opposite() -> None:
    items = torch.arange(6, dtype=torch.float64)[:, None]
    answers: list[Rating] = [Choice(3, 1, "a"), Choice(1, 3, "b"), Choice(4, 5, "both"), Choice(0, 1, "neither")]
    answers += [Best((0, 5, 2), 1), Best((0, 5, 2), 0, worst=True), Stars(5, 5), Stars(0, 1), Stars(2, 3)]
    for said in (answers, [*answers[:2]], [*answers[2:4]], [answers[4]], [answers[5]], [Like(5, True), Like(0, False)]):
        evidence = Evidence.of(said, items)
        scores = evidence.features[0, ..., 0]
        assert auc(evidence, scores) == 1.0
        assert auc(evidence, -scores) == 0.0
        assert auc(evidence, 0 * scores) == 0.5
    nothing = Evidence.of([Like(0, True), Stars(1, 3), Glance(1, 500)], items)
    assert math.isnan(auc(nothing, nothing.features[0, ..., 0]))
