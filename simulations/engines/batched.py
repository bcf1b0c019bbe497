"""The federation as tensors: everybody at once, in chunks, through the batched form of DP-EM. No messages, no files.

The rounds, the noise, the M-step and the statement are those of ``server.rounds``; only the people's part differs, and
it differs in rounding: in float64 the fit agrees with the client's to about 1e-10, so of millions of rounded entries a
few may fall on the other side of a half step. What it saves is processes, messages and files; the large gain of
``simulations.batched`` comes from float32 and from people who are never held in memory, which a job's are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from client.likelihood import Evidence
from common.messages import RoundReply, RoundRequest
from common.prior import PopulationPrior
from server.intake import Answer
from server.rounds import run_rounds
from simulations import whitened
from simulations.batched import CHUNK
from simulations.clipped_sum import clipped_sum
from simulations.engines import Job, Outcome


def run(job: Job) -> Outcome:
    """Run a job; errors as for ``server.rounds.run_rounds``. The nodes of the job are one here."""

    def transport(requests: Mapping[int, RoundRequest]) -> Iterator[Answer]:
        for node, request in requests.items():
            total = _total(job.evidence, request.prior(), request.norm_bound, request.scale)
            reply = RoundReply(session=request.session, round=request.round, total=total.cpu().numpy())
            yield Answer(node, reply.to_wire())

    people = {0: job.evidence.people}
    return run_rounds(
        transport, people, job.prior, job.settings, job.step, randomness=job.randomness, on_round=job.on_round
    )


def _total(evidence: Evidence, prior: PopulationPrior, norm_bound: float, scale: int) -> Tensor:
    """What ``client.contribution`` gives for the same people."""
    total: Tensor | None = None
    for part in evidence.chunks(CHUNK):
        seen = whitened.table(part.features.double().flatten(0, 2), prior.mean, prior.covariance)
        seen = seen.reshape(*part.features.shape[:-1], -1)
        there = part.with_features(seen)
        found = clipped_sum(whitened.statistics(there, prior.thresholds), norm_bound, scale)
        total = found if total is None else total + found
    assert total is not None, "a job has at least one person"
    return total
