"""What shapes are worth to somebody who loves one kind of them, and what streams of shapes are measured by.

The judge of ``client.flows.judge`` says what a cloud is; nobody who is taught sees what it looks at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from client.flows.judge import Limits, Verdicts, judge
from client.flows.model import FlowModel
from client.flows.shapes import S_CURVE
from common.errors import PeopleError
from common.files import write_atomically
from simulations.streams.measures import coverage, frechet

LOVED = S_CURVE  # the rarer kind
_WIDEST = math.hypot(Limits().off, Limits().gap) / math.sqrt(2)  # distance of the worst that is still a shape
_CHUNK = 500


def worth(found: Verdicts) -> Tensor:
    """How much somebody likes clouds ``(n,)``: a half to 1 for shapes of their kind, the closer to the curve the more.

    What is no shape of their kind is worth nothing; so they pick as `client.flows.script.preferred` does.
    """
    close = 1 - (found.distance.double() / _WIDEST).clamp(max=1)
    return torch.where(loved(found), (1 + close) / 2, 0.0)


def loved(found: Verdicts) -> Tensor:
    """Which clouds ``(n,)`` are shapes of the kind."""
    return found.valid & (found.kind == LOVED)


def looks(found: Verdicts) -> Tensor:
    """What the judge sees in clouds, ``(n, 6)``: kind, how far off the curve and with what gaps, turn, size, width."""
    kind = (found.kind == LOVED).double()
    columns = [found.off.clamp(max=1), found.gap.clamp(max=1), found.turn, found.size, found.width.clamp(max=3)]
    return torch.stack([kind, *(column.double() for column in columns)], 1).nan_to_num(0, 0, 0)


@dataclass(frozen=True, eq=False)
class ShapeYardstick:
    """Measures of a flow that draws shapes, made of many of its own.

    Attributes:
        ranked: ``(law,)`` worth of its shapes, rising.
        centre: ``(6,)`` of what the judge sees; scale: ``(6,)`` deviations.
        scale: see above.
        own: ``(own, 6)`` of its own shapes, standardised.
        apart: scalar, mean distance of two of them.
    """

    ranked: Tensor
    centre: Tensor
    scale: Tensor
    own: Tensor
    apart: Tensor

    @classmethod
    def make(cls, flow: FlowModel, *, law: int, own: int, generator: torch.Generator) -> ShapeYardstick:
        """Look at ``law`` shapes of a flow, of which ``own`` are kept to compare with.

        Raises:
            PeopleError: none of them is loved, or all of them are the same.
        """
        parts = [min(_CHUNK, law - at) for at in range(0, law, _CHUNK)]
        found = [judge(flow.draw(flow.noise(part, generator))) for part in parts]
        ranked = torch.cat([worth(each) for each in found]).sort().values
        seen = torch.cat([looks(each) for each in found])
        if float(ranked.std()) < 1e-9:
            raise PeopleError(f"the {law} shapes of this flow are all worth the same; nothing can be learned from them")
        centre, scale = seen.mean(0), seen.std(0).clamp(min=1e-6)
        kept = ((seen - centre) / scale)[:own]
        return cls(ranked, centre, scale, kept, _apart(kept))

    def measured(self, found: Verdicts) -> dict[str, float]:
        """What a stream is to the person and to the flow, as ``simulations.lab.policies.world.measured`` says it.

        Utility is in standard deviations over the flow's own shapes; loved are shapes of the kind, extreme what is no
        shape at all.
        """
        value, seen = worth(found), (looks(found) - self.centre) / self.scale
        share = coverage(seen, self.own[: len(seen)])
        return {
            "utility": float(((value - self.ranked.mean()) / self.ranked.std()).mean()),
            "percentile": float(self.percentile(value).mean()),
            "loved": float(loved(found).double().mean()),
            "diversity": float(_apart(seen) / self.apart),
            "frechet": frechet(seen, self.own),
            "precision": share.precision,
            "recall": share.recall,
            "extreme": found.invalid,
        }

    def percentile(self, value: Tensor) -> Tensor:
        """Share ``(n,)`` of the flow's own shapes that are worth less; ties count half."""
        below, above = (torch.searchsorted(self.ranked, value, right=side) for side in (False, True))
        return (below + above).double() / (2 * len(self.ranked))

    def save(self, path: Path) -> None:
        """Write as safetensors, all or nothing."""
        write_atomically(path, safetensors.torch.save({name: value.contiguous() for name, value in vars(self).items()}))

    @classmethod
    def load(cls, path: Path) -> ShapeYardstick:
        """Read what ``save`` wrote."""
        return cls(**safetensors.torch.load(path.read_bytes()))


def _apart(seen: Tensor) -> Tensor:
    """Mean distance of two of ``(n, 6)``."""
    return torch.cdist(seen, seen).sum() / max(1, len(seen) * (len(seen) - 1))
