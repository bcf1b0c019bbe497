"""How well a taste model guesses answers it has not heard, and which of several does best on one person's own."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.classifiers.base import Answers, Beliefs, TasteModel
from client.classifiers.labels import compact, targets
from client.likelihood import score_terms
from client.ratings import Kind
from common.errors import SettingError
from common.prior import DEFAULT_THRESHOLDS

DRAWS = 64  # of what is believed, for the probability of an answer
TOGETHER = 25  # answers whose probabilities are computed at once: joint draws cost the cube of the items
FOLDS = 5


def foretold(answers: Answers, scores: Tensor, level: float = 0.0) -> Tensor:
    """Whether scores foretell answers.

    A preference is foretold by the order of two scores, "both" and "neither" by the mean of the two being above or
    below the level, likes by one score, stars by it too (above or below three), the best or worst of several by the
    extreme. A tie counts as the share of luck in it, so a model that knows nothing gets what chance gets.

    Args:
        answers: what was said.
        scores: ``(items,)`` of the answers' points.
        level: the score where liking starts.

    Returns:
        ``(t,)`` float64 from 0 (wrong) to 1 (right); NaN for answers nobody needs to guess: three stars and glances.
    """
    there = answers.items >= 0
    shown = torch.where(there, scores.double()[answers.items.clamp(min=0)], torch.nan)
    first, mean = shown[:, 0], shown.nanmean(1)
    result = _sided(mean - level, targets(answers) - 0.5)
    result[answers.kind == Kind.GLANCE] = torch.nan
    preference = (answers.kind == Kind.CHOICE) & (answers.value < 2)
    if bool(preference.any()):
        result[preference] = _sided(first - shown[:, 1], 0.5 - answers.value.double())[preference]
    for kind, sign in ((Kind.BEST, 1.0), (Kind.WORST, -1.0)):
        rows = answers.kind == kind
        result[rows] = _extreme(sign * shown[rows], answers.value[rows])
    return result


def guessable(answers: Answers) -> Tensor:
    """``(t,)`` bool: which answers can be foretold or not; three stars and glances cannot."""
    return ~foretold(answers, torch.zeros(len(answers.points))).isnan()


def _sided(score: Tensor, truth: Tensor) -> Tensor:
    """1 where both have the same sign, 1/2 where the score has none, NaN where the truth has none."""
    right = (1 + score.sign() * truth.sign()) / 2
    return torch.where(truth == 0, torch.nan, right)


def _extreme(scores: Tensor, chosen: Tensor) -> Tensor:
    """1 where the chosen one has the highest score, shared among those that have it. NaN is not there."""
    scores = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    highest = scores == scores.amax(-1, keepdim=True) if len(scores) else scores.bool()
    return highest.gather(1, chosen[:, None]).squeeze(1).double() / highest.sum(-1)


def chance(answers: Answers) -> float:
    """Accuracy of somebody who knows only how often each side was said: a coin for A or B, one in m for the best of m,
    the commoner side for likes and stars. NaN when nothing was to be guessed.
    """
    side = foretold(answers, torch.ones(len(answers.points)))  # what guessing "good" throughout gets
    asked = ~side.isnan()
    sided = asked & ~targets(answers).isnan()
    good = float(side[sided].sum())
    luck = float(side[asked & ~sided].sum())  # ties among equal scores
    total = int(asked.sum())
    return (luck + max(good, int(sided.sum()) - good)) / total if total else math.nan


@dataclass(frozen=True, eq=False)
class HeldOut:
    """How a model did on answers it had not heard.

    Attributes:
        accuracy: share of answers that were foretold; NaN when nothing was to be guessed.
        error: standard error of the accuracy (with one right and one wrong guess added, so that it is never 0).
        log_loss: nats for each answer, weak evidence counting less; what is believed is averaged over.
        answers: number of answers that were to be guessed.
        chance: see `chance`.
        right: ``(t,)`` how far each answer was foretold, see `foretold`.
    """

    accuracy: float
    error: float
    log_loss: float
    answers: int
    chance: float
    right: Tensor


def held_out(model: TasteModel, answers: Answers, folds: int = FOLDS, seed: int = 0) -> HeldOut:
    """Cross-validation over answers: each is guessed by a model fitted to the others.

    Guarantee: no answer is guessed by a model that heard it; the same seed gives the same folds for every model.

    Args:
        model: is fitted once for each fold, and for each context in it.
        answers: at least two.
        folds: parts, at least 2; as many as there are answers at most.
        seed: which answers are held out together.

    Raises:
        SettingError: too few folds or answers.
    """
    t = len(answers)
    if folds < 2 or t < 2:
        raise SettingError(f"folds={folds} and answers={t} must both be >= 2; try 5 folds, and rate more")
    fold = torch.randperm(t, generator=torch.Generator().manual_seed(seed)) % min(folds, t)
    right, log_chance = torch.full((t,), torch.nan, dtype=torch.float64), torch.zeros(t, dtype=torch.float64)
    for part in range(int(fold.max()) + 1):
        told = compact(answers.select(fold != part))
        for context in torch.unique(answers.context[fold == part]).tolist():
            rows = ((fold == part) & (answers.context == context)).nonzero().squeeze(-1)
            taste = model.fit(told, context)
            for some in rows.split(TOGETHER):
                asked = compact(answers.select(some))
                with torch.no_grad():
                    beliefs = taste.over(asked.points)
                right[some] = foretold(asked, beliefs.mean[0])
                log_chance[some] = _log_predictive(asked, beliefs, seed)
    asked_for = right[~right.isnan()]
    count, weight = len(asked_for), answers.weight
    accuracy = float(asked_for.mean()) if count else math.nan
    careful = (float(asked_for.sum()) + 1) / (count + 2)
    return HeldOut(
        accuracy,
        math.sqrt(careful * (1 - careful) / count) if count else math.nan,
        -float((weight * log_chance).sum() / weight.sum()),
        count,
        chance(answers),
        right,
    )


def _log_predictive(answers: Answers, beliefs: Beliefs, seed: int) -> Tensor:
    """Log probability ``(t,)`` of answers, averaged over what is believed, in nats."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        drawn = torch.cat([beliefs.draw(generator) for _ in range(DRAWS)]).double()  # (draws, items)
    scores = drawn[:, answers.items.clamp(min=0)] * (answers.items >= 0)
    everything = answers.weighted(1 / answers.weight).evidence()
    value, _, _ = score_terms(everything, scores.unsqueeze(1), scores.new_tensor(DEFAULT_THRESHOLDS))
    return torch.logsumexp(value[:, 0], dim=0) - math.log(DRAWS)


@dataclass(frozen=True, eq=False)
class Row:
    """One model among others.

    Attributes:
        name: of the model.
        held_out: how it did.
        fit_milliseconds: to learn from all answers.
    """

    name: str
    held_out: HeldOut
    fit_milliseconds: float


def compare(models: Mapping[str, TasteModel], answers: Answers, folds: int = FOLDS, seed: int = 0) -> list[Row]:
    """Every model on the same folds of the same answers, best first: by accuracy, then by log loss.

    Raises:
        SettingError: see `held_out`.
    """
    rows = []
    for name, model in models.items():
        found = held_out(model, answers, folds, seed)
        start = time.perf_counter()
        model.fit(compact(answers))
        rows.append(Row(name, found, 1000 * (time.perf_counter() - start)))
    return sorted(
        rows, key=lambda row: (-row.held_out.accuracy if row.held_out.answers else 0.0, row.held_out.log_loss)
    )


def lead(first: Row, second: Row) -> tuple[float, float]:
    """How much more often one model guessed right than another, and the standard error of that, answer by answer."""
    ahead = first.held_out.right - second.held_out.right
    ahead = ahead[~ahead.isnan()]
    count, mean = len(ahead), float(ahead.mean())
    square = (float(ahead.square().sum()) + 1) / (count + 1)  # one disagreement is added, so that it is never 0
    return mean, math.sqrt(max(0.0, square - mean**2) / count)


def verdict(rows: Sequence[Row]) -> str:
    """One line: which model is best, and whether it could be luck (two standard errors)."""
    if len(rows) < 2:
        raise SettingError(f"models={len(rows)} to compare must be >= 2; name one more")
    best, second = rows[0], rows[1]
    if not best.held_out.answers:
        return "nothing was to be guessed: there are only glances and three stars so far"
    ahead, error = lead(best, second)
    clear = "more than luck" if ahead > 2 * error else "within error"
    known = best.held_out
    line = f"best: {best.name} guesses {known.accuracy:.0%} (chance {known.chance:.0%}), "
    return line + f"{100 * ahead:.0f} ± {100 * error:.0f} points ahead of {second.name}: {clear}"
