"""Ways to run the same federation: direct function calls, Flower in one process, Flower on Ray, tensors.

All give the same prior up to the rounding of a fit, because everything after the fit is done in integers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from client.likelihood import Evidence
from common.errors import SettingError
from common.prior import PopulationPrior
from common.privacy.noise import Randomness, system_randomness
from common.privacy.settings import PrivacySettings
from server.rounds import RoundRecord

ENGINES = ("direct", "inline", "ray", "batched")

Outcome = tuple[PopulationPrior, list[RoundRecord]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A federation to run: who takes part, from which prior, under which promise.

    Attributes:
        evidence: what everybody said.
        prior: public starting point.
        settings: the promise.
        step: learning rate of the M-step.
        nodes: simulated devices; each holds an even share of the people.
        folder: where the nodes keep their ratings while an engine runs.
        randomness: source of the noise.
        on_round: told about each round when it is over.
        timeout_seconds: deadline for the replies of a round.
    """

    evidence: Evidence
    prior: PopulationPrior
    settings: PrivacySettings
    step: float
    nodes: int
    folder: Path
    randomness: Randomness = system_randomness
    on_round: Callable[[RoundRecord], None] | None = None
    timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= self.evidence.people:
            raise SettingError(f"nodes={self.nodes} must be between 1 and the number of people, {self.evidence.people}")

    @property
    def people_per_node(self) -> int:
        """Most people on one node; no node has more than one fewer."""
        return -(-self.evidence.people // self.nodes)

    def shares(self) -> Iterator[Evidence]:
        """The people of each node, in order."""
        for node in range(self.nodes):
            first, last = (self.evidence.people * edge // self.nodes for edge in (node, node + 1))
            yield self.evidence.select(slice(first, last))


class Engine(Protocol):
    """One module per engine."""

    def run(self, job: Job) -> Outcome:
        """Run a job; errors as for ``server.rounds.run_rounds``."""


def run(
    engine: str,
    evidence: Evidence,
    prior: PopulationPrior,
    settings: PrivacySettings,
    *,
    step: float,
    nodes: int,
    folder: Path,
    randomness: Randomness = system_randomness,
    on_round: Callable[[RoundRecord], None] | None = None,
) -> Outcome:
    """Learn a population prior with one of ``ENGINES``; the other arguments are those of ``Job``.

    Guarantee: the ratings written to ``folder`` are gone afterwards, also after an error.

    Returns:
        The prior and one record per round.

    Raises:
        SettingError: unknown engine, a setting outside its range, or an engine that is not installed.
        CohortError: no round had enough answers.
        StorageError: the folder cannot be written.
    """
    if engine not in ENGINES:
        raise SettingError(f"engine={engine!r} must be one of {', '.join(ENGINES)}")
    # Loaded only when asked for: Ray is an extra, and Flower takes a second to import.
    module = cast(Engine, importlib.import_module(f"simulations.engines.{engine}"))
    job = Job(
        evidence=evidence,
        prior=prior,
        settings=settings,
        step=step,
        nodes=nodes,
        folder=folder,
        randomness=randomness,
        on_round=on_round,
    )
    return module.run(job)


@contextmanager
def ratings_on_disk(job: Job) -> Iterator[Path]:
    """The folder with one file of ratings per node; the files are deleted on the way out."""
    from client.app import ratings_file

    job.folder.mkdir(parents=True, exist_ok=True)
    files = [ratings_file(job.folder, node) for node in range(job.nodes)]
    try:
        for file, share in zip(files, job.shares(), strict=True):
            share.save(file)
        yield job.folder.resolve()
    finally:
        for file in files:
            file.unlink(missing_ok=True)
