"""Prometheus metrics of a federation, computed from the journal when they are asked for.

They say no more than ``status``: a count it does not show has no sample here, and the rejected answers of a round below
the minimum cohort are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NORMS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)


class FederationCollector(Collector):
    """The metrics of one federation."""

    def __init__(self, look: Callable[[], dict[str, Any]]) -> None:
        """Collect from a status.

        Args:
            look: gives ``server.status.status``; called once for each scrape.
        """
        self._look = look

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read the journal."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Every metric, from one look.

        Raises:
            PlglError: the journal cannot be read; then there are no numbers rather than old ones.
        """
        found = self._look()
        yield from _rounds(found["rounds"])
        privacy, releases = found["privacy"], found["releases"]
        yield _gauge("plgl_epsilon_spent", "Epsilon of the member who took part most often", privacy["epsilon_spent"])
        yield _gauge("plgl_epsilon_budget", "Epsilon nobody is charged beyond", privacy["epsilon_budget"])
        yield _gauge("plgl_delta", "Failure probability of epsilon", privacy["delta"])
        version = max((release["version"] for release in releases), default=0)
        yield _gauge("plgl_prior_version", "Version of the newest release, 0 before the first", version)


def metrics(look: Callable[[], dict[str, Any]]) -> bytes:
    """The metrics as Prometheus text, from a registry of their own.

    Args:
        look: gives a status.

    Raises:
        PlglError: what ``look`` raises.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FederationCollector(look))
    text: bytes = generate_latest(registry)
    return text


def _rounds(rounds: Sequence[dict[str, Any]]) -> Iterable[Metric]:
    total = CounterMetricFamily("plgl_rounds", "Rounds that ended", labels=["result"])
    for result in ("done", "failed"):
        total.add_metric([result], sum(entry["result"] == result for entry in rounds))
    yield total
    ended = [entry for entry in rounds if entry["asked"] is not None]
    last = ended[-1] if ended else {}
    yield _gauge("plgl_clients_sampled", "Members asked in the last round", last.get("asked"))
    yield _gauge("plgl_clients_reported", "Members whose answer entered the last round", last.get("answered"))
    rejected: Counter[str] = Counter()
    for entry in rounds:
        rejected.update(entry["rejected"])
    count = CounterMetricFamily("plgl_updates_rejected", "Answers that broke the rules", labels=["reason"])
    for reason, number in sorted(rejected.items()):
        count.add_metric([reason.replace(" ", "_")], number)
    yield count
    released = [entry for entry in rounds if entry["result"] == "done"]
    clipped = released[-1]["clip_fraction"] if released else None
    yield _gauge("plgl_clip_fraction", "Share of updates clipped in the last release, noisy", clipped)
    yield _histogram("plgl_update_norm", "L2 norm of the noised mean update", NORMS, _values(released, "update_norm"))
    yield _histogram("plgl_round_seconds", "Duration of rounds that ended", SECONDS, _values(rounds, "seconds"))


def _values(rounds: Iterable[dict[str, Any]], name: str) -> list[float]:
    return [float(entry[name]) for entry in rounds if entry[name] is not None]


def _gauge(name: str, text: str, value: float | str | None) -> GaugeMetricFamily:
    """A gauge; without a sample where the value is not shown."""
    made = GaugeMetricFamily(name, text)
    if isinstance(value, int | float):
        made.add_metric([], value)
    return made


def _histogram(name: str, text: str, limits: Sequence[float], values: Sequence[float]) -> HistogramMetricFamily:
    buckets = [(str(limit), float(sum(value <= limit for value in values))) for limit in limits]
    made = HistogramMetricFamily(name, text)
    made.add_metric([], [*buckets, ("+Inf", float(len(values)))], sum(values))
    return made
