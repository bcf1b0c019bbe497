"""Trainings that are stopped, resumed, refused, and that learn something."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console
from torch import Tensor

from client.generators.training import checkpoint
from client.generators.training.cli import _run, _stopping
from client.generators.training.course import TrainingSettings
from client.generators.training.pictures import Pictures
from client.generators.training.trainer import Seen, Trainer, TrainingError
from common.errors import FolderError, Interrupted

CPU = torch.device("cpu")
TINY = {"side": 16, "width": 8, "dimension": 4, "batch": 8, "steps": 6, "seed": 1, "sampler": 2}


def pictures(seed: int = 0) -> Pictures:
    """Blocks of colour between red and blue; each picture nearer to one of them."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(40, 1, 1, 1, generator=generator) * 0.9 + 0.1 * torch.rand(40, 1, 4, 4, generator=generator)
    share = share.repeat_interleave(4, 2).repeat_interleave(4, 3)
    ends = torch.tensor([[230.0, 30, 40], [20, 60, 220]])[:, None, :, None, None]
    return Pictures(values=(share * ends[0] + (1 - share) * ends[1]).byte(), skipped={})


def trainer(folder: Path, **said: object) -> Trainer:
    return Trainer(TrainingSettings(**{**TINY, **said}), pictures(), folder, CPU)  # type: ignore[arg-type]


def run(training: Trainer, every: int = 100) -> list[Seen]:
    seen: list[Seen] = []
    training.run(every, seen.append)
    return seen


def weights(training: Trainer) -> dict[str, Tensor]:
    both = {"course": training.course, "average": training.average}
    return {f"{of}/{name}": value for of, each in both.items() for name, value in each.state_dict().items()}


@pytest.mark.parametrize("kind", ["vae", "flow"])
def test_a_stopped_training_ends_with_the_weights_of_one_that_was_not(tmp_path: Path, kind: str) -> None:
    whole = trainer(tmp_path / "whole", kind=kind)
    run(whole)
    first = trainer(tmp_path / "parts", kind=kind)
    with pytest.raises(Interrupted, match="stopped after 3 of 6 steps"):
        first.run(100, lambda seen: None, None, lambda: first.step == 3)
    second = trainer(tmp_path / "parts", kind=kind)
    assert second.step == 3
    run(second)
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(whole).items())
    assert not all(torch.equal(value, weights(first)[name]) for name, value in weights(whole).items())


def test_a_finished_training_stays_as_it_is_and_is_scored_again(tmp_path: Path) -> None:
    last = run(trainer(tmp_path / "out"))[-1]
    before = (tmp_path / "out" / checkpoint.FILE).read_bytes()
    assert _run(trainer(tmp_path / "out"), 100, tmp_path / "out", Console(stderr=True)) == {6: last.score}
    assert (tmp_path / "out" / checkpoint.FILE).read_bytes() == before


def test_checkpoints_show_score_and_samples_of_the_same_latents(tmp_path: Path) -> None:
    seen = run(trainer(tmp_path / "out"), every=2)
    assert [each.step for each in seen] == [2, 4, 6]
    assert all(each.samples.shape == (24, 3, 16, 16) and each.score > 0 for each in seen)


def test_it_learns_the_two_colours(tmp_path: Path) -> None:
    training = trainer(tmp_path / "out", kind="flow", space="vae", steps=120, rate=5e-3, batch=16)
    before = training.show()
    after = run(training)[-1]
    assert after.score < before.score / 3
    colours = after.samples.mean((2, 3))
    assert float(colours[:, 1].max()) < -0.3  # no green
    assert float(colours[:, 0].max() - colours[:, 0].min()) > 0.5  # not always the same one
    assert float(torch.corrcoef(colours[:, ::2].T)[0, 1]) < -0.8  # the more red, the less blue


@pytest.mark.parametrize(
    ("said", "why"), [({"width": 16}, "width=8, not 16"), ({"seed": 2}, "seed=1, not 2"), ({"steps": 7}, "steps=6")]
)
def test_other_settings_are_no_way_to_go_on(tmp_path: Path, said: dict[str, int], why: str) -> None:
    run(trainer(tmp_path / "out"))
    with pytest.raises(FolderError, match=why):
        trainer(tmp_path / "out", **said)


def test_other_pictures_are_no_way_to_go_on(tmp_path: Path) -> None:
    run(trainer(tmp_path / "out"))
    with pytest.raises(FolderError, match="pictures="):
        Trainer(TrainingSettings(**TINY), pictures(1), tmp_path / "out", CPU)  # type: ignore[arg-type]


def test_foreign_and_damaged_folders_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderError, match="something else than a training"):
        trainer(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    training = trainer(tmp_path / "out")
    run(training)
    file = tmp_path / "out" / checkpoint.FILE
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FolderError, match="cannot be read"):
        trainer(tmp_path / "out")
    tensors = safetensors.torch.load(whole)
    tensors["weights/decoder.first.bias"][0] = torch.nan
    checkpoint.save(tmp_path / "out", training.about, checkpoint.Checkpoint(step=6, tensors=tensors))
    with pytest.raises(FolderError, match="NaN"):
        trainer(tmp_path / "out")


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    training = trainer(tmp_path / "out")
    with pytest.raises(Interrupted):
        training.run(100, lambda seen: None, None, lambda: training.step == 2)
    before = (tmp_path / "out" / checkpoint.FILE).read_bytes()
    broken = trainer(tmp_path / "out")
    with torch.no_grad():
        next(broken.course.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match="smaller --rate"):
        run(broken)
    assert (tmp_path / "out" / checkpoint.FILE).read_bytes() == before


def test_the_first_ctrl_c_is_noted_the_second_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _stopping() as pressed:
        assert not pressed
        signal.raise_signal(signal.SIGINT)
        assert pressed
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
