"""``plgl toy``: a small flow that learns which shapes somebody likes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from common.errors import SettingError

if TYPE_CHECKING:  # heavy modules are imported inside the command, so that help stays quick
    import torch

    from client.flows.checkpoint import Checkpoint
    from client.flows.course import CourseSettings
    from client.flows.script import Arm, Row, ScriptSettings, Trust
    from client.flows.toy import Chooser, Outcome, ToySettings
    from client.flows.training import Training, TrainSettings
    from client.flows.views import View
    from client.terminal_keys import Keys

app = typer.Typer(help="A flow that learns which shapes you like.")
_LIKES = {"s-curve": 1, "swiss-roll": 0}
_KEPT_EVERY = 100  # steps of training; a multiple of four, see `Training`
_PLAY, _TEACH, _SCRIPT, _TRAIN = "How you pick", "How B learns", "With --script", "With --train"


@app.command("toy")
def toy(
    flow: Annotated[Path | None, typer.Option(help="File with model A; without it the one that is shipped.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for B, or with --train for the flow; gone on from if it is there.")
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder to write PNG files and tables to.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed and answers give the same B.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    injections: Annotated[int, typer.Option(help="Picks that B learns from.", rich_help_panel=_PLAY)] = 3,
    window: Annotated[
        bool, typer.Option("--window", help="In a window: keys, or clicks.", rich_help_panel=_PLAY)
    ] = False,
    answers: Annotated[
        Path | None,
        typer.Option(help="File with answers, such as: 2 none 1 4; - reads them here.", rich_help_panel=_PLAY),
    ] = None,
    no_ask: Annotated[
        bool, typer.Option("--no-ask", help="An artificial person picks, who likes --like.", rich_help_panel=_PLAY)
    ] = False,
    like: Annotated[
        str, typer.Option(help="What the artificial person likes: s-curve or swiss-roll.", rich_help_panel=_PLAY)
    ] = "s-curve",
    steps: Annotated[int, typer.Option(help="Of one injection.", rich_help_panel=_TEACH)] = 40,
    anchor: Annotated[float, typer.Option(help="How firmly B is held to A.", rich_help_panel=_TEACH)] = 1.0,
    learning_rate: Annotated[
        float | None, typer.Option(help="0.001, and with --train 0.003.", rich_help_panel=_TEACH)
    ] = None,
    script: Annotated[
        bool, typer.Option("--script", help="Measure the share after each injection.", rich_help_panel=_SCRIPT)
    ] = False,
    samples: Annotated[int, typer.Option(help="Shapes behind each share that is named.")] = 192,
    seeds: Annotated[int, typer.Option(help="Times it is repeated.", rich_help_panel=_SCRIPT)] = 3,
    control: Annotated[bool, typer.Option(help="Measure random picks as well.", rich_help_panel=_SCRIPT)] = True,
    train: Annotated[bool, typer.Option("--train", help="Train a model A.", rich_help_panel=_TRAIN)] = False,
    train_steps: Annotated[int, typer.Option(help="Steps of training.", rich_help_panel=_TRAIN)] = 6000,
    batch: Annotated[int, typer.Option(help="Shapes in a step.", rich_help_panel=_TRAIN)] = 48,
    points: Annotated[int, typer.Option(help="Of each shape.", rich_help_panel=_TRAIN)] = 64,
    s_curves: Annotated[float, typer.Option(help="Share of S-curves it is trained on.", rich_help_panel=_TRAIN)] = 0.25,
    width: Annotated[int, typer.Option(help="Units of each layer.", rich_help_panel=_TRAIN)] = 64,
) -> None:
    """Teach a small generative model what you like, three picks long.

    Model A is a rectified flow that draws Swiss rolls and, less often, S-curves, each a cloud of 64 points. You pick
    the best of four, its copy B learns from the pick, and you see what the same noises become under both.
    """
    modes = {"--script": script, "--train": train, "--no-ask": no_ask, "--answers": answers is not None}
    if len(given := [name for name, on in modes.items() if on]) > 1:
        raise SettingError(f"{given[0]} and {given[1]} exclude each other; give one")
    if window and (given or plots is not None or as_json):
        raise SettingError(f"--window does not go with {given[0] if given else '--plots or --json'}; leave one out")
    if like not in _LIKES:
        raise SettingError(f"like={like!r} must be one of {', '.join(_LIKES)}")
    if train:
        from client.flows.network import NetworkSettings
        from client.flows.shapes import ShapeSettings
        from client.flows.training import TrainSettings

        wanted = TrainSettings(
            shapes=ShapeSettings(points=points, s_curves=s_curves), network=NetworkSettings(width=width),
            steps=train_steps, batch=batch, learning_rate=0.003 if learning_rate is None else learning_rate, seed=seed,
        )  # fmt: skip
        if flow is not None or plots is not None:
            raise SettingError("--train makes a model of its own; leave --flow and --plots out")
        _train(wanted, out or Path("plgl-flow"), as_json)
        return
    from client.flows.checkpoint import open_checkpoint
    from client.flows.course import CourseSettings
    from client.flows.script import ScriptSettings
    from client.flows.teaching import TeachSettings
    from client.flows.toy import ToySettings

    rate = 0.001 if learning_rate is None else learning_rate
    course = CourseSettings(teach=TeachSettings(steps=steps, anchor=anchor, learning_rate=rate), seed=seed)
    measured = ScriptSettings(
        injections=injections, samples=samples, seeds=seeds, control=control, kind=_LIKES[like], course=course
    )
    device = _device()
    checkpoint = open_checkpoint(flow, device)
    if script:
        if out is not None:
            raise SettingError("--script keeps no B; leave --out out, or write tables and plots with --plots DIR")
        _script(checkpoint, measured, device, plots, as_json)
        return
    how = _How(plots, window, answers, _LIKES[like] if no_ask else None, as_json)
    shown = ToySettings(injections=injections, counted=samples)
    _play(checkpoint, course, shown, device, out or Path("plgl-toy"), how)


def _device() -> torch.device:
    import torch

    torch.set_num_threads(1)  # many small matrices: a second thread made it five times slower on a busy machine
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _train(settings: TrainSettings, out: Path, as_json: bool) -> None:
    """Train, keep every hundred steps, and say what came of it."""
    from client.flows.folder import FLOW, TrainFolder

    device, command = _device(), _command(settings)
    with TrainFolder(out, {**asdict(settings), "device": device.type}) as folder:
        training = folder.load(settings, device)
        with _progress("training", settings.steps, as_json) as tell:
            while not training.done:
                training.advance()
                if training.step % _KEPT_EVERY == 0 or training.done:
                    folder.save(training, command)
                tell(training.step, f"loss {_recent(training):.4f}")
    found = {"steps": training.step, "loss": _recent(training), "flow": str(out / FLOW), "command": command}
    if as_json:
        print(json.dumps(found))
        return
    _print(f"{found['steps']} steps, loss {found['loss']:.4f}; use it: plgl toy --flow {found['flow']}")


def _recent(training: Training) -> float:
    last = training.losses[-100:]
    return sum(last) / max(1, len(last))


def _command(settings: TrainSettings) -> str:
    return (
        f"plgl toy --train --train-steps {settings.steps} --batch {settings.batch} --points {settings.shapes.points} "
        f"--s-curves {settings.shapes.s_curves} --width {settings.network.width} "
        f"--learning-rate {settings.learning_rate} --seed {settings.seed}"
    )


def _script(
    checkpoint: Checkpoint, settings: ScriptSettings, device: torch.device, plots: Path | None, as_json: bool
) -> None:
    from client.flows.script import mean_share, run_script, trust

    believed = trust(checkpoint.settings.shapes, 200)
    total = settings.seeds * (1 + settings.control) * (settings.injections + 1)
    done: list[Row] = []
    with _progress("measuring", total, as_json) as tell:

        def count(row: Row) -> None:
            done.append(row)
            tell(len(done), f"{row.arm}, seed {row.seed}: {100 * row.share:.0f} %")

        rows = run_script(checkpoint, settings, device, count)
    if plots is not None:
        _write_plots(plots, rows, settings)
    before, after = (mean_share(rows, "picked", at) for at in (0, settings.injections))
    if as_json:
        found: dict[str, Any] = {"judge": asdict(believed), "rows": [asdict(row) for row in rows]}
        print(json.dumps({**found, "share_before": before, "share_after": after, "flow": checkpoint.fingerprint}))
        return
    _print_rows(rows, settings, believed)
    if plots is not None:
        _print(f"wrote {plots / 'share.png'} and {plots / 'script.csv'}")


def _write_plots(plots: Path, rows: list[Row], settings: ScriptSettings) -> None:
    from client.flows.plots import as_png, share_figure
    from client.flows.script import table
    from client.flows.shapes import KINDS
    from common.errors import StorageError
    from common.files import write_atomically

    try:
        plots.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {plots}: {error.strerror}; choose another --plots") from error
    write_atomically(plots / "script.csv", table(rows))
    write_atomically(plots / "share.png", as_png(share_figure([asdict(row) for row in rows], KINDS[settings.kind])))


def _print_rows(rows: list[Row], settings: ScriptSettings, believed: Trust) -> None:
    from client.flows.script import mean_share
    from client.flows.shapes import KINDS

    kind = KINDS[settings.kind]
    shown = Table("picks", "seed", "injections", f"{kind}s", "no shape", "distance", "spread of angles")
    for row in rows:
        shown.add_row(
            "preferred" if row.arm == "picked" else "random", str(row.seed), str(row.injections),
            f"{100 * row.share:.1f} %", f"{100 * row.invalid:.1f} %", f"{row.distance:.3f}", f"{row.spread:.0f}°",
            end_section=row.injections == settings.injections,
        )  # fmt: skip
    Console().print(shown)
    arms: tuple[tuple[Arm, str], ...] = (("picked", "preferred"), ("control", "random"))
    for arm, name in arms:
        shares = [mean_share(rows, arm, count) for count in range(settings.injections + 1)] if rows else []
        if shares and shares[0] == shares[0]:
            _print(f"{kind}s with {name} picks: " + " -> ".join(f"{100 * share:.1f} %" for share in shares))
    _print(
        f"the judge errs on {100 * believed.error:.1f} % of {believed.shapes} true shapes and takes "
        f"{100 * believed.noise:.1f} % of noise for one; true shapes have a distance of {believed.distance:.3f}"
    )


@dataclass(frozen=True)
class _How:
    """Where shapes are shown and where answers come from."""

    plots: Path | None
    window: bool
    answers: Path | None
    likes: int | None
    as_json: bool


def _play(
    checkpoint: Checkpoint,
    settings: CourseSettings,
    shown: ToySettings,
    device: torch.device,
    path: Path,
    how: _How,
) -> None:
    from client.flows.course import Course
    from client.flows.folder import ToyFolder
    from client.flows.toy import Toy

    course = Course(checkpoint.flow, checkpoint.settings.shapes.points, settings, device)
    about = {**asdict(settings), "flow": checkpoint.fingerprint, "device": device.type}
    with contextlib.ExitStack() as stack:
        view, keys = _view(stack, how)
        folder = stack.enter_context(ToyFolder(path, about))
        if folder.load(course):
            view.say(f"goes on with the B in {path}, which has learned {course.injections} of {shown.injections} picks")
        tell = stack.enter_context(_teaching(how.as_json))
        outcome = Toy(course, keys, view, shown, folder, tell).play()
    if how.as_json:
        print(json.dumps({**asdict(outcome), "out": str(path), "flow": checkpoint.fingerprint}))
        return
    _print_outcome(outcome, path)


def _view(stack: contextlib.ExitStack, how: _How) -> tuple[View, Keys | Chooser]:
    """What shows shapes, and what answers."""
    from client.flows.toy import Chooser
    from client.flows.views import Files, Terminal, Window
    from client.half_blocks import colour_depth
    from client.terminal_keys import Keyboard, Script

    # with --json standard output is for one object, so everything else goes nowhere
    told = io.StringIO() if how.as_json else sys.stdout
    if how.window:
        opened = Window(told)
        return opened, opened
    view: View = Files(told, how.plots) if how.plots is not None else Terminal(told, _depth(colour_depth))
    if how.likes is not None:
        return view, Chooser(how.likes)
    if how.answers is not None:
        if str(how.answers) == "-":
            return view, Script(sys.stdin)
        try:
            return view, Script(stack.enter_context(how.answers.open(encoding="utf-8")))
        except OSError as error:
            raise SettingError(f"cannot read {how.answers}: {error.strerror}; give a file with answers") from error
    if how.as_json or not sys.stdin.isatty():
        raise SettingError("nobody is here to ask; add --answers FILE or --no-ask")
    return view, stack.enter_context(Keyboard())


def _depth(colour_depth: Callable[..., Any]) -> Any:
    return colour_depth(os.environ, sys.stdout.isatty())


def _print_outcome(outcome: Outcome, path: Path) -> None:
    shown = Table("of what is drawn", "A", "B")
    for name, (a, b) in outcome.shares.items():
        shown.add_row(name, f"{100 * a:.0f} %", f"{100 * b:.0f} %")
    Console().print(shown)
    _print(f"B has learned {outcome.injections} picks; shares of {outcome.samples} shapes each; B is kept in {path}")
    if not outcome.finished:
        _print("the same command goes on from here")


def _print(line: str) -> None:
    Console().print(line, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _progress(what: str, total: int, quiet: bool) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on standard error."""
    columns = (
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True, quiet=quiet)) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, text: bar.update(task, completed=done, description=text)


@contextlib.contextmanager
def _teaching(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error that is there while B learns and gone afterwards."""
    bars: list[Progress] = []

    def tell(done: int, total: int) -> None:
        if not bars:
            bars.append(
                Progress(TextColumn("B learns"), BarColumn(), console=Console(stderr=True, quiet=quiet), transient=True)
            )
            bars[0].add_task("", total=total)
            bars[0].start()
        bars[0].update(bars[0].task_ids[0], completed=done)
        if done == total:
            bars.pop().stop()

    try:
        yield tell
    finally:
        for bar in bars:
            bar.stop()
