"""What a run of rounds leaves behind: logged numbers and media, the best picture, a strip of the way there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from client.rounds.folder import RoundsFolder
from client.rounds.loggers import Logger
from client.rounds.loop import Rounds, Shown
from client.rounds.strip import captioned, pair_sheet, png
from client.rounds.target import Target
from client.rounds.user import BOTH, A, B

_STEPS = 8  # pictures of the way there
_SIDE = 160  # pixels of each


def follow(rounds: Rounds, target: Target, folder: RoundsFolder, logger: Logger, tell: Callable[[Rounds], None]) -> str:
    """Run rounds to their end, log and keep each; write the pictures even when stopped in between.

    Args:
        rounds: new, or going on.
        target: for the strip.
        folder: where everything goes.
        logger: told each round.
        tell: called after each round.

    Returns:
        Why it ended: the name of the stopping rule, or ``"limit"``.
    """
    try:
        for shown in rounds.run():
            log_round(rounds, shown, logger)
            folder.save(rounds.state)
            tell(rounds)
    finally:
        logger.close()
        folder.write("best.png", _best(rounds))
        folder.write("progress.png", strip(rounds, target))
    return rounds.settings.stopping if rounds.stopped else "limit"


def log_round(rounds: Rounds, shown: Shown, logger: Logger) -> None:
    """Numbers of the round just finished, the destination's picture and what was shown, with its answers."""
    row = rounds.state.rows[-1]
    values = asdict(row)
    number = values.pop("round")
    logger.scalars(number, {_GROUPS.get(name, f"answers/{name}"): float(value) for name, value in values.items()})
    logger.media(number, "destination", "picture", rounds.draw(rounds.state.destination[None])[0])
    chosen_a = (shown.answer == A) | (shown.answer == BOTH)
    chosen_b = (shown.answer == B) | (shown.answer == BOTH)
    logger.media(number, "pairs", "picture", pair_sheet(shown.a, shown.b, chosen_a, chosen_b))


def strip(rounds: Rounds, target: Target) -> bytes:
    """Target, then the destination at the start, at rounds between and at the end, with distances; a PNG file."""
    state = rounds.state
    picked = torch.linspace(0, state.round, min(_STEPS, state.round + 1)).round().long()
    latents = state.path[picked]
    distances = rounds.user.eye.distance(rounds.draw(latents)).tolist()
    pictures = _drawn(rounds, latents, _SIDE)
    first = target.picture(*pictures.shape[2:])
    captions = [
        ("start" if r == 0 else f"round {r}", f"distance {d:.2f}")
        for r, d in zip(picked.tolist(), distances, strict=True)
    ]
    return captioned([first, *pictures], [("target", ""), *captions])


def result(rounds: Rounds, reason: str) -> dict[str, Any]:
    """The outcome in plain values: why it ended, rounds, questions, and distances at the start and the end."""
    state = rounds.state
    start, favourite = rounds.user.eye.distance(rounds.draw(torch.stack([state.path[0], state.favourite]))).tolist()
    return {
        "reason": reason,
        "rounds": state.round,
        "questions": len(state.memory),
        "distance_start": start,
        "distance": state.rows[-1].distance if state.rows else start,
        "distance_favourite": favourite,
    }


def _best(rounds: Rounds) -> bytes:
    return png(_drawn(rounds, rounds.state.favourite[None], None)[0])


def _drawn(rounds: Rounds, latents: torch.Tensor, side: int | None) -> torch.Tensor:
    return rounds.pack.generate(latents, side if rounds.pack.manifest.resizable else None)


_GROUPS = {
    "loss": "loss/preference",
    "reward_mean": "reward/mean",
    "reward_best": "reward/best",
    "reward_destination": "reward/destination",
    "distance": "distance/destination",
    "distance_favourite": "distance/favourite",
    "angle": "search/angle",
}
