"""The federation as plain function calls: no Flower, no files. The reference for the other engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from client.contribution import contribution
from common.messages import RoundReply, RoundRequest
from server.intake import Answer
from server.rounds import run_rounds
from simulations.engines import Job, Outcome


def run(job: Job) -> Outcome:
    """Run a job by calling client and server functions; errors as for ``server.rounds.run_rounds``."""
    shares = dict(enumerate(job.shares()))

    def transport(requests: Mapping[int, RoundRequest]) -> Iterator[Answer]:
        for node, request in requests.items():
            people = shares[node].select(slice(request.first, request.last))
            total = contribution(people, request.prior(), request.norm_bound, request.scale)
            reply = RoundReply(session=request.session, round=request.round, total=total.numpy())
            yield Answer(node, reply.to_wire())

    people = {node: share.people for node, share in shares.items()}
    return run_rounds(
        transport, people, job.prior, job.settings, job.step, randomness=job.randomness, on_round=job.on_round
    )
