import dataclasses
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from common.errors import FolderError, SettingError
from common.prior import PopulationPrior
from simulations import machine
from simulations.batched import Speed
from simulations.crowd import Answers
from simulations.invented_crowd import InventedCrowd
from simulations.machine import Machine
from simulations.run_folder import RunFolder
from simulations.scale import scale
from simulations.scale_report import report
from simulations.scale_run import Outcome, Scale, run, summary

SETTINGS = Scale(
    people=300,
    ratings=8,
    components=4,
    rounds=3,
    epsilon=4.0,
    generator="abstract",
    pool=200,
    unseen=200,
    new_people=50,
)
CPU = torch.device("cpu")
LIMITS = Machine(name="an abacus", flops=1e11, bandwidth=1e10, load=1.0)


@contextmanager
def opened(path: Path, settings: Scale = SETTINGS) -> Iterator[RunFolder]:
    with RunFolder.open(path, "simulate scale", dataclasses.asdict(settings), seeds=[0]) as folder:
        yield folder


class Stream:
    """Noise from a fixed stream that counts its calls, and can fail at one of them; never do this outside a test."""

    def __init__(self, breaks_in_round: int = 0) -> None:
        self.bytes = np.random.default_rng(1).bytes
        self.breaks, self.calls = breaks_in_round, 0

    def __call__(self, count: int) -> bytes:
        self.calls += 1
        if self.breaks and self.calls >= self.breaks:
            raise KilledError
        return self.bytes(count)


class KilledError(BaseException):
    """Stands for the end of the process; nothing in the code catches it."""


def done(path: Path, stream: Stream | None = None, settings: Scale = SETTINGS) -> Outcome:
    with opened(path, settings) as folder:
        return run(settings, folder, CPU, Speed(chunk=50), randomness=stream or Stream(), limits=LIMITS, quiet=True)


def test_it_learns_and_says_how_fast_and_how_private(tmp_path: Path) -> None:
    outcome = done(tmp_path / "run", settings=dataclasses.replace(SETTINGS, epsilon=math.inf))
    first = outcome.newcomers[0]
    assert first["percentile_prior"] > first["percentile_flat"] + 0.05
    assert first["log_likelihood_prior"] > first["log_likelihood_flat"]
    numbers = summary(SETTINGS, outcome)
    assert numbers["people_per_second"] > 10
    assert 0 < numbers["share_of_flops"] < 1
    assert 0 < numbers["share_of_bandwidth"] < 1
    assert 10**7 < numbers["peak_memory_bytes"] < 10**11
    assert [record.people for record in outcome.trained.rounds] == [300] * 3


def test_the_prior_can_be_used_on_devices(tmp_path: Path) -> None:
    outcome = done(tmp_path / "run")
    prior = PopulationPrior.load(tmp_path / "run" / "prior", pack=outcome.world.pack, parameters=5)
    assert prior.privacy == outcome.trained.statement
    assert prior.privacy.epsilon == 4.0
    assert prior.rounds == 3


def test_killed_while_adding_up_it_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stream = done(tmp_path / "whole"), Stream()
    asked: list[int] = []
    answers = InventedCrowd.answers

    def killed(self: InventedCrowd, first: int, last: int, round: int = 1) -> Answers:
        asked.append(round)
        if len(asked) == 10:
            raise KilledError
        return answers(self, first, last, round)

    with monkeypatch.context() as patch:
        patch.setattr(InventedCrowd, "answers", killed)
        with pytest.raises(KilledError):
            done(tmp_path / "killed", stream)
    assert max(asked) == 2
    resumed = done(tmp_path / "killed", stream)
    assert all(record.released for record in resumed.trained.rounds)
    for name, value in whole.trained.state.items():
        assert torch.equal(value, resumed.trained.state[name])


def test_killed_while_noise_was_drawn_the_round_is_spent_and_not_drawn_again(tmp_path: Path) -> None:
    counting = Stream()
    done(tmp_path / "counting", counting)
    with pytest.raises(KilledError):
        done(tmp_path / "run", Stream(breaks_in_round=counting.calls // 3 + 2))  # in the second round
    assert (tmp_path / "run" / "cells" / "charged-2.json").exists()
    outcome = done(tmp_path / "run")
    assert [record.released for record in outcome.trained.rounds] == [True, False, True]
    assert outcome.trained.statement.participations == 3
    assert PopulationPrior.load(tmp_path / "run" / "prior").rounds == 2
    again = Stream()
    finished = done(tmp_path / "run", again)
    assert again.calls == 0
    assert math.isnan(finished.rate)
    for name, value in outcome.trained.state.items():
        assert torch.equal(value, finished.trained.state[name])


def test_other_settings_do_not_go_on_in_the_same_folder(tmp_path: Path) -> None:
    done(tmp_path / "run")
    with pytest.raises(FolderError, match="people is 300 there, 400 here"):
        done(tmp_path / "run", settings=dataclasses.replace(SETTINGS, people=400))


def test_the_page_holds_the_statement_and_the_numbers(tmp_path: Path) -> None:
    outcome = done(tmp_path / "run")
    with opened(tmp_path / "run") as folder:
        page = report(SETTINGS, outcome).write(folder)
    text = page.read_text()
    assert "A prior from 300 people" in text
    assert "(4, 1e-06)-DP" in text
    assert (tmp_path / "run" / "rounds.csv").read_text().count("\n") == 4


def test_the_command_prints_results_and_nothing_else(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(scale)
    small = "--people 300 --ratings 5 --components 3 --rounds 1 --generator abstract --pool 100 --unseen 100"
    settings = [*small.split(), "--new-people", "20", "--device", "cpu", "--threads", "2", "--chunk", "64", "--json"]
    found = CliRunner().invoke(app, [*settings, "--out", str(tmp_path / "run")])
    assert found.exit_code == 0, found.output
    results = json.loads(found.stdout)
    assert results["settings"]["people"] == 300
    assert (tmp_path / "run" / "prior" / "prior.json").exists()


@pytest.mark.parametrize(
    "bad",
    [
        {"people": 0},
        {"precision": "float16"},
        {"feedback": "smell"},
        {"pool": 10},
        {"epsilon": 0.0},
        {"shared": 2.0},
        {"step": -1.0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        Scale(**bad)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingError, match="auto, cpu or cuda"):
        machine.chosen_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match="try --device auto"):
            machine.chosen_device("cuda")
    assert machine.chosen_device("cpu") == CPU


def test_the_limits_of_the_machine_are_measured_and_threads_left_alone() -> None:
    before = torch.get_num_threads()
    can = machine.measure(CPU, 1)
    assert 1e8 < can.flops < 1e15
    assert 1e8 < can.bandwidth < 1e13
    assert torch.get_num_threads() == before
