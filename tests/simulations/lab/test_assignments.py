from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from common.errors import SettingError
from simulations.cli import app
from simulations.lab.assignments import assigned, assigned_among


@dataclass(frozen=True, kw_only=True)
class Settings:
    people: tuple[int, ...] = (300,)
    epsilon: float = 1.0
    repeats: int = 3
    name: str = "a"
    paired: bool = True
    limit: float | None = None
    mode: Literal["fast", "exact"] = "fast"

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise SettingError(f"repeats={self.repeats} must be >= 1")


@dataclass(frozen=True)
class Other:
    sharpness: float = 3.0
    repeats: int = 9


def test_values_are_typed_by_their_fields() -> None:
    given = ["people=1_000,20", "epsilon=inf", "repeats = 5", "name=x=y", "paired=no", "limit=0.5", "mode=exact"]
    found = assigned(given, Settings())
    assert found == Settings(
        people=(1_000, 20), epsilon=float("inf"), repeats=5, name="x=y", paired=False, limit=0.5, mode="exact"
    )


def test_the_last_of_two_assignments_wins_and_none_is_a_value() -> None:
    assert assigned(["repeats=2", "repeats=4", "limit=none"], Settings(limit=1.0)) == Settings(repeats=4)


def test_a_key_may_be_written_with_dashes_and_belongs_to_the_first_record_that_has_it() -> None:
    settings, other = assigned_among(["repeats=1", "sharpness=2"], Settings(), Other())
    assert (settings.repeats, other.repeats, other.sharpness) == (1, 9, 2.0)


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(SettingError, match="no setting 'repeat'; did you mean repeats"):
        assigned(["repeat=2"], Settings())
    with pytest.raises(SettingError, match="choose from epsilon, limit"):
        assigned(["zzzzzz=2"], Settings())


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("repeats", "must be key=value"),
        ("repeats=two", "must be a whole number"),
        ("repeats=2.5", "must be a whole number"),
        ("people=1,x", "must be a whole number"),
        ("epsilon=one", "must be a number"),
        ("paired=maybe", "must be yes or no"),
        ("mode=slow", "must be one of fast, exact"),
        ("repeats=0", "must be >= 1"),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_refused(assignment: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        assigned([assignment], Settings())


@given(st.tuples(*[st.integers(-(10**9), 10**9)] * 3), st.floats(allow_nan=False))
def test_what_is_written_is_what_is_read(people: tuple[int, ...], epsilon: float) -> None:
    found = assigned([f"people={','.join(map(str, people))}", f"epsilon={epsilon!r}"], Settings())
    assert (found.people, found.epsilon) == (people, epsilon)


@pytest.mark.parametrize("command", ["cold-start", "compare-learners", "privacy", "population"])
def test_every_experiment_takes_any_setting_and_names_the_nearest(command: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, [command, "--out", str(tmp_path / "run"), "--set", "repeatz=2"])
    assert isinstance(found.exception, SettingError)
    assert "did you mean repeats?" in str(found.exception)
    assert not (tmp_path / "run").exists()
