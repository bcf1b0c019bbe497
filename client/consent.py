"""What sharing means, in words and numbers, before anything is sent: the terms, and the vector that would go now.

The example is made from the person's own answers by the code that makes the real one, shown here and thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from client.contribution import summand_of, updates_of
from client.likelihood import Evidence
from common.prior import TYPICAL_SPREAD, PopulationPrior
from common.privacy.accounting import epsilon
from common.privacy.fixed_point import SCALE, dequantise, quantise_at_random
from common.privacy.noise import discrete_gaussian
from common.privacy.promise import Promise, promise
from common.terms import Terms, Trust

if TYPE_CHECKING:
    from client.generators.pack import GeneratorPack

SHOWN = 6
"""First numbers of a vector that are shown."""

TRUSTED = {
    Trust.CENTRAL: "The operator's server: it sees your vector as it is, and is trusted to add the noise to the sum.",
    Trust.DISTRIBUTED: (
        "Not the server: it reads only the sum of everybody's vectors, with noise in it that your device and others "
        "added. Trusted are at least {honest} members of each round, to add their noise."
    ),
    Trust.LOCAL: "Nobody: your device adds all the noise to your vector before it leaves.",
}


@dataclass(frozen=True, kw_only=True)
class Example:
    """A vector that would be sent now.

    Attributes:
        norm: its L2 norm before clipping, update units.
        clipped: its norm after clipping.
        plain: its first numbers, clipped and rounded.
        noised: the same with this device's own noise, as one draw of it; equal where the device adds none.
    """

    norm: float
    clipped: float
    plain: tuple[float, ...]
    noised: tuple[float, ...]

    @classmethod
    def of(cls, evidence: Evidence, prior: PopulationPrior, terms: Terms) -> Example:
        """Make one from what a person said.

        Args:
            evidence: of one person, features ``(1, t, m, p)``.
            prior: what a round would start from.
            terms: of the federation.
        """
        kept, bound = promise(terms), terms.settings.norm_bound
        vector = summand_of(evidence, prior, bound)
        steps = quantise_at_random(vector, kept.norm_bound)[0]
        noised = steps + discrete_gaussian(kept.numbers, kept.share_variance) if kept.share_variance else steps
        return cls(
            norm=float(torch.linalg.vector_norm(updates_of(evidence, prior))),
            clipped=float(torch.linalg.vector_norm(vector[:, :-1])),
            plain=_first(steps),
            noised=_first(noised),
        )


def _first(steps: Tensor) -> tuple[float, ...]:
    return tuple(dequantise(steps[:SHOWN], SCALE).tolist())


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What taking part in the next round would mean.

    Attributes:
        numbers: of the vector.
        norm_bound: its update is clipped to this L2 norm.
        answers: the person gave that count; None where they could not be read.
        minimum_answers: below that nothing is sent.
        example: a vector as it would be sent now; None without answers to make it from.
        own_noise: standard deviation of the noise this device adds, update units.
        total_noise: of the noise in a release, at least.
        spent: participations that are used up.
        limit: participations the person allows.
        epsilon_so_far: what those used up cost.
        epsilon_next: what they and the next round cost; None where there is no next one.
        epsilon_limit: what all that the person allows cost.
        delta: failure probability of these.
    """

    numbers: int
    norm_bound: float
    answers: int | None
    minimum_answers: int
    example: Example | None
    own_noise: float
    total_noise: float
    spent: int
    limit: int
    epsilon_so_far: float
    epsilon_next: float | None
    epsilon_limit: float
    delta: float

    @classmethod
    def of(cls, terms: Terms, *, evidence: Evidence | None, prior: PopulationPrior, spent: int, limit: int) -> Preview:
        """Work it out.

        Args:
            terms: of the federation.
            evidence: what the person said; None where it cannot be read now.
            prior: what a round would start from.
            spent: participations in the ledger.
            limit: participations the person allows.
        """
        kept = promise(terms)
        limit = min(limit, terms.settings.participations)
        said = evidence is not None and evidence.answers > 0
        return cls(
            numbers=kept.numbers,
            norm_bound=terms.settings.norm_bound,
            answers=None if evidence is None else evidence.answers,
            minimum_answers=terms.minimum_ratings,
            example=Example.of(evidence, prior, terms) if evidence is not None and said else None,
            own_noise=math.sqrt(kept.share_variance) / SCALE,
            total_noise=math.sqrt(kept.total_variance) / SCALE,
            spent=spent,
            limit=limit,
            epsilon_so_far=_cost(kept, spent, terms),
            epsilon_next=_cost(kept, spent + 1, terms) if spent < limit else None,
            epsilon_limit=_cost(kept, limit, terms),
            delta=terms.settings.delta,
        )

    @property
    def enough(self) -> bool:
        """Whether there are answers enough to take part."""
        return self.answers is not None and self.answers >= self.minimum_answers

    def to_json(self) -> dict[str, Any]:
        """Plain values; the vector's numbers are the person's own and stay out."""
        example = self.example
        return {
            "numbers": self.numbers,
            "norm-bound": self.norm_bound,
            "answers": self.answers,
            "minimum-answers": self.minimum_answers,
            "norm": None if example is None else example.norm,
            "norm-after-clipping": None if example is None else example.clipped,
            "own-noise": self.own_noise,
            "total-noise": self.total_noise,
            "participations": self.spent,
            "participations-allowed": self.limit,
            "epsilon": self.epsilon_so_far,
            "epsilon-after-next-round": self.epsilon_next,
            "epsilon-limit": self.epsilon_limit,
            "delta": self.delta,
        }


def _cost(kept: Promise, participations: int, terms: Terms) -> float:
    return epsilon(kept.noise_multiplier, participations, terms.settings.delta) if participations else 0.0


def starting_prior(terms: Terms, pack: GeneratorPack) -> PopulationPrior:
    """What a round starts from where nothing was released yet: the prior of somebody who knows nobody."""
    scale = pack.component_scale[: terms.components]
    return PopulationPrior.flat(terms.parameters, terms.pack, TYPICAL_SPREAD, scale)


def in_plain_words(terms: Terms, limit: int) -> list[tuple[str, str]]:
    """What joining means, as questions and answers.

    Args:
        terms: of the federation.
        limit: participations the person allows.
    """
    kept, settings = promise(terms), terms.settings
    total = _cost(kept, limit, terms)
    return [
        (
            "What for",
            f"{terms.name} learns what people like in general, for the generator pack {terms.pack[:12]}. "
            "You get its result, so that suggestions begin better.",
        ),
        (
            "What is sent",
            f"{kept.numbers} numbers in each round you take part in: how your answers differ from the crowd's taste, "
            f"cut to the length {settings.norm_bound:g}, rounded, and with noise."
            + (" Masks hide them from the server; only the sum of a round can be read." if _masked(terms) else ""),
        ),
        (
            "What never leaves",
            "Your answers, the pictures you saw, what you favour, how many answers you gave, and when.",
        ),
        ("Who has to be trusted", TRUSTED[terms.trust].format(honest=terms.honest_people)),
        (
            "How often",
            f"At most {limit} time{'' if limit == 1 else 's'}, never with fewer than {settings.minimum_people} people, "
            f"and only once you have given {terms.minimum_ratings} answers. Your own device counts and refuses more.",
        ),
        (
            "What it can reveal",
            f"Epsilon is at most {total:.3g} in all, with delta {settings.delta:g}: whatever is published, nobody can "
            f"raise their odds that {_adjacency(terms)} by more than a factor of {_factor(total)}, except with a "
            "chance of about delta.",
        ),
        (
            "How to stop",
            "Pause or leave at any time: plgl sharing pause, plgl sharing leave. What was already added to a sum "
            "cannot be taken out again.",
        ),
    ]


def _masked(terms: Terms) -> bool:
    return terms.trust is Trust.DISTRIBUTED


def _adjacency(terms: Terms) -> str:
    return "your answers were these and not others" if terms.trust is Trust.LOCAL else "you took part"


def _factor(cost: float) -> str:
    return f"{math.exp(cost):.3g}" if cost < 20 else "more than 400 million"


def in_numbers(preview: Preview, terms: Terms) -> list[tuple[str, str]]:
    """A preview as names and values, for a terminal and a page."""
    rows = [
        ("Answers you gave", _answers(preview)),
        ("Rounds you took part in", f"{preview.spent} of at most {preview.limit}"),
        ("Epsilon so far", f"{preview.epsilon_so_far:.3g} of at most {preview.epsilon_limit:.3g}"),
        (
            "Epsilon after the next round",
            "there is no next one" if preview.epsilon_next is None else f"{preview.epsilon_next:.3g}",
        ),
        ("Delta", f"{preview.delta:g}"),
        ("Numbers in the vector", str(preview.numbers)),
    ]
    if preview.example is not None:
        rows += [
            ("Its length before clipping", f"{preview.example.norm:.3g}"),
            ("Its length after clipping", f"{preview.example.clipped:.3g}; at most {preview.norm_bound:g}"),
        ]
    own = f"standard deviation {preview.own_noise:.3g}" if preview.own_noise else "none; the server adds it to the sum"
    rows += [("Noise your device adds to each number", own)]
    if terms.trust is not Trust.LOCAL:
        rows += [("Noise in the published sum", f"standard deviation {preview.total_noise:.3g} or more")]
    return rows


def _answers(preview: Preview) -> str:
    if preview.answers is None:
        return "could not be read now"
    short = preview.minimum_answers - preview.answers
    return f"{preview.answers}; {'enough' if short <= 0 else f'{short} more before anything is sent'}"


def written(numbers: Sequence[float]) -> str:
    """The first numbers of a vector, for people."""
    return "  ".join(f"{number:+8.3f}" for number in numbers) + "  ..."
