"""Published priors on a device: which of them the person's own machine takes up, and why.

A release is taken up only if it is signed with the pinned key, belongs to the terms the person agreed to, is fresh,
never goes back, lies within the bounds below, and does not foretell the person's own answers worse than knowing
nothing would. Nothing about this judgement leaves the device.

The bounds are in units of the public flat prior ``N(0, F)``: with ``W = F^(-1/2)`` the whitened mean ``W m`` and the
eigenvalues of ``W C W``. Honest priors of strong and of common tastes lie well inside them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from client.classifiers.bayes import FLAT_SPREADS
from client.fit import Posterior, log_predictive, weigh
from client.ledger import Ledger
from client.likelihood import Evidence
from client.ratings import Kind
from client.store_files import disk_errors, private_folder
from common.errors import ReleaseError, SignatureError
from common.files import write_privately
from common.prior import DEFAULT_THRESHOLDS, PopulationPrior
from common.release import Release, check_fresh, check_terms, digest
from common.terms import Terms

ANSWERS_NEEDED = 20
"""Own answers below which a prior is judged by its bounds alone."""

LOG_TOLERANCE = 0.0
"""Nats for each held-out answer that a prior may cost against flat ones."""

AUC_TOLERANCE = 0.1
"""Area under the curve that a prior may cost against flat ones. Twenty answers measure it no better than that, and the
log probability is the sharper of the two; this stops a prior that is rightly unsure and wrong in every order."""

MEAN_LIMIT = 3.0
"""Standard deviations of the flat prior: root mean square over all weights, and the bias alone."""

EIGENVALUES = (1e-5, 100.0)
"""Least and greatest spread in any direction, as a variance in units of the flat prior. Noise narrows single
directions: 1,000 people at epsilon 1 leave 6e-4, 200 people 6e-7, which no session could unlearn."""

TYPICAL_EIGENVALUES = (0.02, 50.0)
"""The same for the geometric mean over all directions; 0.3 for 1,000 people at epsilon 1, 0.01 for 200."""

_DRAWS = 256
_CURRENT = "release.json"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a release.

    Attributes:
        accepted: whether it is in use now.
        reason: why, or why not; for people.
        held_out_before: mean log probability of own held-out answers with the prior in use (flat ones if there is
            none), in nats; NaN with too few answers.
        held_out_after: the same with the release.
        changes: what is new about it, a line each; for people.
    """

    accepted: bool
    reason: str
    held_out_before: float = math.nan
    held_out_after: float = math.nan
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Foretold:
    log_chance: float
    auc: float


def judge(
    release: Release,
    current: PopulationPrior | None,
    evidence: Evidence | None,
    *,
    scale: Tensor | None = None,
) -> Verdict:
    """Whether a release is good for this person. Signature, terms and dates are checked elsewhere.

    Each answer is foretold from the half of the answers it is not in: by the released prior alone, and by the flat
    priors a session would use without one.

    Args:
        release: that was read.
        current: the prior in use.
        evidence: what the person said, features ``(1, t, m, p)``; None where it cannot be read now.
        scale: ``(p - 1,)`` relative spread of the weights under a flat prior; equal without.
    """
    prior = release.prior
    changes = _changes(release, current)
    flat = PopulationPrior.flat(prior.parameters, prior.pack, scale=scale)
    if problem := out_of_bounds(prior, flat):
        return Verdict(accepted=False, reason=problem, changes=changes)
    heard = None if evidence is None else _told(evidence)
    if heard is None or heard.kind.shape[1] < ANSWERS_NEEDED:
        count = 0 if heard is None else heard.kind.shape[1]
        reason = f"within bounds; {count} answers of your own are too few to try it on ({ANSWERS_NEEDED} are needed)"
        return Verdict(accepted=True, reason=reason, changes=changes)
    flats = [PopulationPrior.flat(prior.parameters, prior.pack, spread, scale) for spread in FLAT_SPREADS]
    without, after = _foretell(heard, flats), _foretell(heard, [prior])
    before = without if current is None else _foretell(heard, [current])
    lost, area = without.log_chance - after.log_chance, without.auc - after.auc
    # the comparisons are also False where something is not a number
    if lost <= LOG_TOLERANCE and (area <= AUC_TOLERANCE or math.isnan(without.auc)):
        accepted, reason = True, "it foretells your own answers no worse than knowing nothing"
    else:
        accepted = False
        reason = (
            f"it foretells your own answers worse than knowing nothing, by {lost:.3f} nats an answer and "
            f"{100 * area:.1f} points of AUC; the prior in use stays"
        )
    return Verdict(
        accepted=accepted,
        reason=reason,
        held_out_before=before.log_chance,
        held_out_after=after.log_chance,
        changes=changes,
    )


def out_of_bounds(prior: PopulationPrior, flat: PopulationPrior) -> str | None:
    """What is beyond all honest priors about a prior, or None."""
    if not torch.equal(prior.thresholds, prior.thresholds.new_tensor(DEFAULT_THRESHOLDS)):
        return "its cuts between stars are not the usual ones, which no round changes"
    whiten = flat.whitener()
    mean = whiten @ prior.mean
    away, bias = float(mean.square().mean().sqrt()), float(mean[-1].abs())
    if not max(away, bias) <= MEAN_LIMIT:
        return (
            f"its mean is {away:.3g} and its bias {bias:.3g} standard deviations from a flat prior; "
            f"{MEAN_LIMIT:g} is the limit"
        )
    values = torch.linalg.eigvalsh(whiten @ prior.covariance @ whiten)
    typical = float(values.clamp(min=1e-300).log().mean().exp())
    for name, value, (least, most) in (
        ("least spread", float(values[0]), EIGENVALUES),
        ("greatest spread", float(values[-1]), EIGENVALUES),
        ("typical spread", typical, TYPICAL_EIGENVALUES),
    ):
        if not least <= value <= most:
            return f"its {name} is {value:.3g} times that of a flat prior; {least:g} to {most:g} are the limits"
    return None


def auc(evidence: Evidence, scores: Tensor) -> float:
    """How often scores put a liked item above a disliked one, and a preferred one above the other; ties count half.

    Args:
        evidence: what one person said.
        scores: ``(t, m)`` of the items of each answer.

    Returns:
        0 to 1; NaN where nothing can be compared.
    """
    kind, value = evidence.kind[0], evidence.value[0]
    preference = (kind == Kind.CHOICE) & (value < 2)
    first = scores[preference, 0] - scores[preference, 1] if scores.shape[1] > 1 else scores[:0, 0]
    gaps = [first * (1 - 2 * value[preference]).to(scores)]
    for chosen, sign in ((Kind.BEST, 1.0), (Kind.WORST, -1.0)):
        for row in (kind == chosen).nonzero().flatten().tolist():
            shown, best = int(evidence.shown[0, row]), int(value[row])
            gap = sign * (scores[row, best] - scores[row, :shown])
            gaps.append(gap[torch.arange(shown) != best])
    liked = ((kind == Kind.LIKE) & (value == 1)) | ((kind == Kind.STARS) & (value > 3))
    disliked = ((kind == Kind.LIKE) & (value == 0)) | ((kind == Kind.STARS) & (value < 3))
    gaps.append((scores[liked, 0][:, None] - scores[disliked, 0]).flatten())
    both, neither = ((kind == Kind.CHOICE) & (value == side) for side in (2, 3))
    together = scores[:, :2].mean(1)
    gaps.append((together[both][:, None] - together[neither]).flatten())
    gap = torch.cat(gaps)
    return float((1 + gap.sign()).mean() / 2) if len(gap) else math.nan


class Shelf:
    """The accepted release of one membership, in a folder only its owner may read.

    Guarantee: what is on it was accepted, whole; a crash leaves the one before or the new one.
    """

    def __init__(self, folder: Path, *, release_key: bytes | None = None) -> None:
        """Take the folder; it is made when something is put there.

        Args:
            folder: on the device.
            release_key: ``(32,)`` pinned key; what lies on the shelf must be signed with it.
        """
        self.folder, self._key = folder, release_key

    def offer(
        self,
        raw: bytes,
        *,
        release_key: bytes,
        terms: Terms,
        ledger: Ledger,
        now: float,
        evidence: Evidence | None = None,
        scale: Tensor | None = None,
    ) -> Verdict:
        """Judge what was fetched, and put it on the shelf if it is good.

        A release that is genuine counts as seen even if it is no good for this person, so nothing older comes after.

        Args:
            raw: bytes of any origin.
            release_key: ``(32,)`` public key, as pinned in the invitation.
            terms: the person agreed to.
            ledger: remembers the newest version seen.
            now: seconds since 1970.
            evidence: see `judge`.
            scale: see `judge`.

        Raises:
            LedgerError, StoreInUse: the ledger cannot be used.
            StorageError: the disk refuses; the one before stays.
        """
        self._key = release_key
        try:
            release = Release.from_bytes(raw, release_key)
            check_terms(release, terms)
            check_fresh(release, now)
            ledger.saw_version(terms.federation, release.version, digest(raw))
        except (SignatureError, ReleaseError) as error:
            return Verdict(accepted=False, reason=str(error))
        current = self.current()
        verdict = judge(release, None if current is None else current.prior, evidence, scale=scale)
        if verdict.accepted and (current is None or self._path.read_bytes() != raw):
            private_folder(self.folder)
            write_privately(self._path, raw)
        elif not verdict.accepted and current is not None and current.version == release.version:
            self._path.unlink(missing_ok=True)  # it was accepted when there were too few answers to try it on
        return verdict

    def current(self) -> Release | None:
        """The release in use, None where there is none, or where what lies there is damaged; fetch it again then.

        Raises:
            StorageError: it cannot be read.
            ReleaseError: no key was given to check it with.
        """
        if not self._path.exists():
            return None
        if self._key is None:
            raise ReleaseError("a release is read with the key it must be signed with; give the shelf a release_key")
        with disk_errors(self._path):
            raw = self._path.read_bytes()
        try:
            return Release.from_bytes(raw, self._key)
        except (SignatureError, ReleaseError):
            return None

    @property
    def _path(self) -> Path:
        return self.folder / _CURRENT


def _told(evidence: Evidence) -> Evidence:
    """Only what the person said on purpose, in float64."""
    rows = (evidence.kind[0] != Kind.GLANCE) & (evidence.weight[0] > 0)
    some = _rows(evidence, rows)
    return replace(some, features=some.features.double(), weight=some.weight.double())


def _rows(evidence: Evidence, rows: Tensor) -> Evidence:
    return Evidence(*(tensor[:, rows] for tensor in evidence.tensors()))


def _foretell(evidence: Evidence, priors: list[PopulationPrior]) -> _Foretold:
    """Every answer foretold from the other half; priors are weighed by evidence as in a session."""
    odd = torch.arange(evidence.kind.shape[1]) % 2 == 1
    draws = torch.randn(_DRAWS, priors[0].parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    means, covariances = (torch.stack([getattr(p, name) for p in priors]) for name in ("mean", "covariance"))
    share = torch.full((len(priors),), 1 / len(priors), dtype=torch.float64)
    logs, areas = [], []
    for part in (odd, ~odd):
        posterior: Posterior = weigh(_rows(evidence, ~part), means, covariances, share, priors[0].thresholds)
        asked = _rows(evidence, part)
        logs.append(log_predictive(asked, posterior, priors[0].thresholds, draws).flatten())
        taste = (posterior.weight.unsqueeze(-1) * posterior.mean).sum(-2)[0]
        areas.append(auc(asked, asked.features[0] @ taste))
    known = [area for area in areas if not math.isnan(area)]
    return _Foretold(float(torch.cat(logs).mean()), sum(known) / len(known) if known else math.nan)


def _changes(release: Release, current: PopulationPrior | None) -> tuple[str, ...]:
    new = release.prior
    lines = [f"release {release.version} of round {release.round}", f"privacy: {new.privacy}"]
    if current is None:
        return (*lines, "the first prior on this device")
    moved = float((current.whitener() @ (new.mean - current.mean)).square().mean().sqrt())
    ratio = math.exp(float(torch.logdet(new.covariance) - torch.logdet(current.covariance)) / (2 * new.parameters))
    return (
        *lines,
        f"its mean moved by {moved:.2f} standard deviations of people a weight",
        f"people differ {ratio:.2f} times as much as before",
    )
