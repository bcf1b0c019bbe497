"""One learner meets a panel: everybody is asked one question at a time, and all pictures of a step are drawn together.

What a person answers depends on the pictures, the person, the number of the question and the seed; the noise is the
same for every learner, so that learners can be compared in pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from common.latents import LatentSpace
from simulations.panel import Panel
from simulations.people import AnswerNoise
from simulations.players.base import Player
from simulations.yardstick import Yardstick, pictures

TOP = 8  # recommendations that are judged


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How good the recommendations of one moment are, one value per person.

    Attributes:
        utility: mean of the items, in standard deviations; best: of the first item.
        best: see above.
        percentile: mean of the items, 0 to 1.
        loved: share of items among the person's best hundredth.
        diversity: mean distance among them, 1 for random items.
        extreme: share of unrealistic pictures.
        norm: mean distance from the typical shell.
    """

    utility: list[float]
    best: list[float]
    percentile: list[float]
    loved: list[float]
    diversity: list[float]
    extreme: list[float]
    norm: list[float]


@dataclass(kw_only=True)
class Outcome:
    """What came out of a contest.

    Attributes:
        verdicts: one for each point.
        shown: percentile of everything shown, ``(people, answers)``.
        answer_seconds: processor time of asking and being told; recommend_seconds: of recommending.
        recommend_seconds: see above.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    shown: list[Tensor] = field(default_factory=list)
    answer_seconds: list[float] = field(default_factory=list)
    recommend_seconds: list[float] = field(default_factory=list)


def contest(
    make: Callable[[int], Player],
    pack: GeneratorPack,
    panel: Panel,
    yardstick: Yardstick,
    noise: AnswerNoise,
    *,
    points: Sequence[int],
    seed: int,
    advance: Callable[[float], None],
) -> Outcome:
    """Ask everybody ``max(points)`` questions and judge the recommendations after each number in ``points``.

    Args:
        make: makes the player of a person from the person's number.
        pack: draws.
        panel: answers.
        yardstick: measures.
        noise: of answers.
        points: numbers of answers, rising.
        seed: of the answers.
        advance: told the share of the work that was done.
    """
    players = [make(person) for person in range(panel.people)]
    levels = noise.levels(panel.people, torch.Generator().manual_seed(seed))
    outcome, total = Outcome(), max(points)
    if 0 in points:
        outcome.verdicts.append(_look(players, pack, panel, yardstick, outcome))
    for answered in range(1, total + 1):
        started = time.process_time()
        asked = torch.stack([player.ask() for player in players])
        spent = time.process_time() - started
        utilities = _true(asked, pack, panel, yardstick)[0]
        outcome.shown.append(yardstick.percentile(utilities).mean(1))
        step = torch.Generator().manual_seed(seed * 1_000_003 + answered)
        answers = noise.answer(players[0].feedback, utilities[:, None], levels, step)[:, 0].tolist()
        started = time.process_time()
        for player, answer in zip(players, answers, strict=True):
            player.tell(answer)
        outcome.answer_seconds.append((spent + time.process_time() - started) / len(players))
        if answered in points:
            outcome.verdicts.append(_look(players, pack, panel, yardstick, outcome))
        advance(1 / total)
    return outcome


def _true(latents: Tensor, pack: GeneratorPack, panel: Panel, yardstick: Yardstick) -> tuple[Tensor, Tensor]:
    """True utilities ``(people, m)`` of each person's own latents ``(people, m, d)``, and the pictures drawn for it."""
    people, m, _ = latents.shape
    media = pictures(pack, latents.flatten(0, 1))
    raw = panel.utilities(media).reshape(people, people, m)
    own = torch.arange(people)
    return yardstick.standard(raw[own, own]), media


def _look(
    players: Sequence[Player], pack: GeneratorPack, panel: Panel, yardstick: Yardstick, outcome: Outcome
) -> Verdict:
    started = time.process_time()
    latents = torch.stack([player.recommend(TOP) for player in players])
    outcome.recommend_seconds.append((time.process_time() - started) / len(players))
    utilities, media = _true(latents, pack, panel, yardstick)
    features = yardstick.features(media).reshape(*latents.shape[:2], -1)
    extreme = yardstick.extreme(features.flatten(0, 1)).reshape(latents.shape[:2])
    return Verdict(
        utility=_plain(utilities.mean(1)),
        best=_plain(utilities[:, 0]),
        percentile=_plain(yardstick.percentile(utilities).mean(1)),
        loved=_plain(yardstick.loved(utilities).float().mean(1)),
        diversity=_plain(yardstick.diversity(features)),
        extreme=_plain(extreme.float().mean(1)),
        norm=_plain(_off_shell(pack.latents, latents).mean(1)),
    )


def _off_shell(space: LatentSpace, latents: Tensor) -> Tensor:
    """Distance of norms from the typical one; norms of the law vary by about 0.7."""
    off: Tensor = (torch.linalg.vector_norm(latents, dim=-1) - space.radius).abs()
    return off


def _plain(values: Tensor) -> list[float]:
    return [round(x, 6) for x in values.double().tolist()]
