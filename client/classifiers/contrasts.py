"""Answers as statements about contrasts of items: what a dual fit has to explain.

Every answer is a statement about one or more *contrasts*: the score of an item, or the difference of two. An answer
"A" is one contrast, so a hundred A-or-B answers cost a 100 x 100 factorisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from client.classifiers.base import Answers
from client.likelihood import Evidence, score_terms
from client.ratings import Kind


@dataclass(frozen=True)
class Contrasts:
    """Answers as statements about contrasts of items: the score of one, or of one minus that of another.

    Attributes:
        first: ``(r,)`` item of each contrast; second: ``(r,)`` item to subtract, -1 for none.
        second: see above.
        answer: ``(r,)`` answer each belongs to.
        context: ``(r,)`` context each was given in.
        place: ``(r,)`` where each contrast stands in the flattened ``(t, m)`` grid of ``evidence``.
        evidence: what was said about the contrasts: ``t`` statements about up to ``m`` contrasts each.
    """

    first: Tensor
    second: Tensor
    answer: Tensor
    context: Tensor
    place: Tensor
    evidence: Evidence

    @classmethod
    def of(cls, answers: Answers) -> Contrasts:
        """Break answers down.

        "A" and "B" are one contrast. "Both" and "neither" are three: two likes or dislikes, and that the two are about
        equal, which is what three of five stars for their difference says.
        """
        kind, value, items = answers.kind, answers.value, answers.items
        if items.shape[1] < 2:
            items = torch.nn.functional.pad(items, (0, 2 - items.shape[1]), value=-1)
        choice = kind == Kind.CHOICE
        several = (kind == Kind.BEST) | (kind == Kind.WORST)
        absolute, preference = choice & (value >= 2), choice & (value < 2)
        single = ~choice & ~several
        width = items.shape[1] if bool(several.any()) else 1
        blank = torch.full((len(answers), width), -1)
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []  # rows, kind, value, first, second

        def add(rows: Tensor, kinds: Tensor, values: Tensor, first: Tensor, second: Tensor) -> None:
            parts.append((rows, kinds, values, first, second))

        def one(rows: Tensor, kinds: Tensor, values: Tensor, first: Tensor, second: Tensor | None = None) -> None:
            left, right = blank[rows].clone(), blank[rows].clone()
            left[:, 0] = first
            if second is not None:
                right[:, 0] = second
            add(rows, kinds, values, left, right)

        rows = preference.nonzero().squeeze(-1)
        like = torch.full_like(rows, int(Kind.LIKE))
        one(rows, like, 1 - value[rows], items[rows, 0], items[rows, 1])
        rows = absolute.nonzero().squeeze(-1)
        like = torch.full_like(rows, int(Kind.LIKE))
        for side in range(2):
            one(rows, like, 3 - value[rows], items[rows, side])
        middle = torch.full_like(rows, 3)
        one(rows, torch.full_like(rows, int(Kind.STARS)), middle, items[rows, 0], items[rows, 1])
        rows = single.nonzero().squeeze(-1)
        one(rows, kind[rows], value[rows], items[rows, 0])
        rows = several.nonzero().squeeze(-1)
        if len(rows):
            add(rows, kind[rows], value[rows], items[rows], blank[rows])
        source, kinds, values, firsts, seconds = (torch.cat(x) for x in zip(*parts, strict=True))
        order = source.argsort(stable=True)  # as they were given: one more answer is one more row at the end
        source, kinds, values, firsts, seconds = (x[order] for x in (source, kinds, values, firsts, seconds))
        there = firsts >= 0
        evidence = Evidence(
            kinds[None], values[None], answers.weight[source][None], torch.empty(0), there.sum(-1)[None]
        )
        place = there.flatten().nonzero().squeeze(-1)
        answer = source[:, None].expand_as(firsts).flatten()[place]
        return cls(firsts.flatten()[place], seconds.flatten()[place], answer, answers.context[answer], place, evidence)

    def __len__(self) -> int:
        return self.first.shape[0]

    def take(self, matrix: Tensor) -> Tensor:
        """Contrasts of the columns of ``(..., items)``."""
        return self._along(matrix, -1)

    def square(self, matrix: Tensor) -> Tensor:
        """Contrasts of rows and columns of ``(..., items, items)``."""
        return self._along(self._along(matrix, -2), -1)

    def _along(self, matrix: Tensor, dimension: int) -> Tensor:
        both = (self.second >= 0).nonzero().squeeze(-1)
        found = matrix.index_select(dimension, self.first)
        return found.index_add_(dimension, both, matrix.index_select(dimension, self.second[both]), alpha=-1)

    def terms(self, scores: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log likelihood ``(h,)``, gradient ``(h, r)`` and a root ``S`` of its curvature ``W = S S'``.

        The root is ``(h, r)`` where it is diagonal, which it is for every kind but best and worst, else ``(h, r, r)``.
        """
        h, t, m = scores.shape[0], self.evidence.kind.shape[1], self.width
        if not t:
            return scores.new_zeros(h), scores, scores
        grid = scores.new_zeros(h, t * m)
        grid[:, self.place] = scores
        value, slope, bend = score_terms(self.evidence, grid.reshape(-1, 1, t, m), thresholds)
        gradient = slope.reshape(-1, t * m)[:, self.place]
        if m == 1:
            return value.sum((-1, -2)), gradient, bend.reshape(-1, t).sqrt()
        root = scores.new_zeros(h, t, m, t, m)
        each = torch.arange(t)
        root[:, each, :, each, :] = _root(bend.squeeze(1)).transpose(0, 1)
        flat = root.reshape(-1, t * m, t * m)[:, self.place][:, :, self.place]
        return value.sum((-1, -2)), gradient, flat

    @property
    def width(self) -> int:
        """``m``, contrasts of the widest statement."""
        t = self.evidence.kind.shape[1]
        return 1 if t == 0 else max(1, int(self.evidence.shown.max()))


def _root(bend: Tensor) -> Tensor:
    """Symmetric root of small positive semi-definite blocks ``(..., m, m)``: zero where the block is."""
    value, axes = torch.linalg.eigh(bend)
    root: Tensor = (axes * value.clamp(min=0).sqrt().unsqueeze(-2)) @ axes.mT
    return root
