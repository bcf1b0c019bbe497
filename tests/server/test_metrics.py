"""The metrics as Prometheus reads them."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.errors import LedgerError
from server.metrics import metrics
from server.status import status

NAMES = {
    "plgl_rounds": "counter",
    "plgl_clients_sampled": "gauge",
    "plgl_clients_reported": "gauge",
    "plgl_updates_rejected": "counter",
    "plgl_epsilon_spent": "gauge",
    "plgl_epsilon_budget": "gauge",
    "plgl_delta": "gauge",
    "plgl_clip_fraction": "gauge",
    "plgl_update_norm": "histogram",
    "plgl_round_seconds": "histogram",
    "plgl_prior_version": "gauge",
}


def samples(federation: Any, now: float) -> dict[str, float]:
    text = metrics(lambda: status(federation, now)).decode()
    families = list(text_string_to_metric_families(text))
    assert {family.name: family.type for family in families} == NAMES
    return {
        sample.name + "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_names_and_values_are_those_of_the_journal(make_federation: Any, now: float) -> None:
    def play(rounds: Any) -> None:
        rounds.release(answered=22, dropped={"missing": 1, "out of bound": 1})
        rounds.fail(answered=13, dropped={"malformed": 11})
        rounds.release(members=23, dropped={"out of bound": 1}, update_norm=5.0)

    found = samples(make_federation(play=play), now)
    assert found["plgl_rounds_total{result=done}"] == 2
    assert found["plgl_rounds_total{result=failed}"] == 1
    assert (found["plgl_clients_sampled"], found["plgl_clients_reported"]) == (24, 23)
    assert {key: value for key, value in found.items() if "rejected" in key} == {
        "plgl_updates_rejected_total{reason=out_of_bound}": 2
    }
    assert found["plgl_update_norm_count"] == 2
    assert found["plgl_update_norm_sum"] == pytest.approx(5.42)
    assert found["plgl_update_norm_bucket{le=1.0}"] == 1
    assert found["plgl_round_seconds_count"] == 3
    assert (found["plgl_prior_version"], found["plgl_clip_fraction"]) == (2, 0.3125)
    assert 0 < found["plgl_epsilon_spent"] < found["plgl_epsilon_budget"] == 2


def test_a_count_below_the_minimum_has_no_sample(make_federation: Any, now: float) -> None:
    found = samples(make_federation(members=0, play=lambda rounds: rounds.fail(answered=7)), now)
    assert "plgl_clients_reported" not in found
    assert "plgl_clip_fraction" not in found
    assert found["plgl_prior_version"] == 0
    assert not {7.0, 17.0} & set(found.values())


def test_what_cannot_be_read_gives_no_old_numbers() -> None:
    def damaged() -> dict[str, Any]:
        raise LedgerError("the journal is damaged")

    with pytest.raises(LedgerError):
        metrics(damaged)
