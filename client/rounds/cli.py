"""``plgl rounds``: rounds of pairwise choices by an artificial user with a picture in mind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.errors import SettingError

if TYPE_CHECKING:  # heavy modules are imported inside the command, so that help stays quick
    from collections.abc import Callable

    from client.generators.pack import GeneratorPack
    from client.rounds.loop import Rounds
    from client.rounds.reward import Inputs
    from client.rounds.target import Target

app = typer.Typer(help="Rounds with an artificial user.")


@app.command("rounds")
def rounds_command(
    target: Annotated[Path | None, typer.Option(help="Picture the user has in mind, PNG or JPEG.")] = None,
    target_latent: Annotated[
        int | None, typer.Option(min=0, help="Or a random picture of the generator, by seed.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything; resumed if it is there.")] = Path("plgl-rounds"),
    generator: Annotated[str, typer.Option(help="Generator pack: a name or a folder.")] = "art",
    rounds: Annotated[int, typer.Option(help="Most rounds.")] = 30,
    pairs: Annotated[int, typer.Option(help="Pairs shown in a round.")] = 8,
    candidates: Annotated[int, typer.Option(help="Pictures sampled in a round, at least twice the pairs.")] = 64,
    size: Annotated[int, typer.Option(help="Side of the pictures the user judges, pixels.")] = 48,
    sampling: Annotated[str, typer.Option(help="mixed (70 % near), around or prior.")] = "mixed",
    filtering: Annotated[str, typer.Option(help="reward (the highest), realism (first the more real half), none.")] = (
        "reward"
    ),
    discriminator: Annotated[
        Path | None, typer.Option(help="ONNX file, pictures to scores, for --filtering realism.")
    ] = None,
    pairing: Annotated[str, typer.Option(help="favourite (against challengers), neighbours or random.")] = "favourite",
    user: Annotated[str, typer.Option(help="perceptual, pixels, or random (a control).")] = "perceptual",
    reward: Annotated[str, typer.Option(help="Reward model: mlp or linear.")] = "mlp",
    inputs: Annotated[str, typer.Option(help="What it sees: features, latents or both.")] = "features",
    epochs: Annotated[int, typer.Option(help="Passes over all answers in a round.")] = 20,
    stopping: Annotated[str, typer.Option(help="distance, satisfied, plateau or limit.")] = "distance",
    distance: Annotated[float, typer.Option(help="Near enough; 1 is a typical random picture, 0 the target.")] = 0.2,
    patience: Annotated[int, typer.Option(help="Rounds without progress that make a plateau.")] = 8,
    angle: Annotated[float, typer.Option(help="How far the first round searches, radians.")] = 1.2,
    shrink: Annotated[float, typer.Option(help="How the search narrows each round.")] = 0.93,
    noise: Annotated[float, typer.Option(help="How unsure the user is of each distance.")] = 0.0,
    tie: Annotated[float, typer.Option(help="Distances closer than this share are a tie.")] = 0.03,
    good_share: Annotated[float, typer.Option(help="Share of random pictures the user calls good.")] = 0.05,
    log: Annotated[str, typer.Option(help="tensorboard, folder, both as tensorboard,folder, or none.")] = "tensorboard",
    seed: Annotated[int, typer.Option(help="The same seed gives the same rounds.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Find a picture by choices: an artificial user compares pairs, a reward model learns, a destination follows."""
    from dataclasses import asdict

    from client.generators.pack import GeneratorPack
    from client.rounds.folder import RoundsFolder
    from client.rounds.loggers import Loggers
    from client.rounds.loop import Rounds, Stages, judged_size, make_user
    from client.rounds.realism import Discriminator, typicality
    from client.rounds.report import follow, result
    from client.rounds.settings import RoundsSettings

    settings = RoundsSettings(
        rounds=rounds, pairs=pairs, candidates=candidates, size=size, sampling=sampling, filtering=filtering,
        pairing=pairing, user=user, reward=reward, inputs=cast("Inputs", inputs), stopping=stopping, epochs=epochs,
        angle=angle, shrink=shrink, smallest_angle=min(0.15, angle), distance=distance, patience=patience,
        good_share=good_share, tie=tie, noise=noise, seed=seed,
    )  # fmt: skip
    if discriminator is not None and filtering != "realism":
        raise SettingError(f"--discriminator is not asked by --filtering {filtering}; add --filtering realism")
    loggers = _loggers(log)
    pack = GeneratorPack.open(generator)
    realism = Discriminator(discriminator) if discriminator is not None else typicality
    goal, about = _target(pack, target, target_latent)
    side = judged_size(pack, settings)
    shape = (pack.manifest.height, pack.manifest.width) if side is None else (side, side)
    about |= {"pack": pack.hash, "discriminator": _fingerprint(discriminator), "log": ",".join(loggers)}
    with RoundsFolder(out, asdict(settings) | about) as folder, _progress(rounds) as tell:
        state = folder.load()
        run = Rounds(
            pack, make_user(pack, goal.picture(*shape), settings), settings, Stages.of(settings, realism), state
        )
        tell(run)
        start = run.state.round
        logger = Loggers([make(out / name, start) for name, make in loggers.items()])
        reason = follow(run, goal, folder, logger, tell)
        found = {**result(run, reason), "out": str(out)}
    if as_json:
        print(json.dumps(found))
        return
    _say(found, settings.rounds)


def _target(pack: GeneratorPack, path: Path | None, seed: int | None) -> tuple[Target, dict[str, Any]]:
    """The target and what names it in the settings."""
    from client.rounds.target import LatentTarget, PictureTarget

    if path is not None and seed is None:
        picture = PictureTarget.open(path)
        return picture, {"target": picture.fingerprint}
    if seed is not None and path is None:
        return LatentTarget(pack, seed), {"target": f"latent {seed}"}
    raise SettingError("give one target: --target picture.png, or --target-latent 7 for one the generator can reach")


def _loggers(names: str) -> dict[str, Any]:
    from client.rounds.loggers import LOGGERS
    from client.rounds.stages import choose

    wanted = [name.strip() for name in names.split(",") if name.strip() not in ("", "none")]
    return {name: choose(LOGGERS, "log", name) for name in wanted}


def _fingerprint(path: Path | None) -> str | None:
    import hashlib

    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def _say(found: dict[str, Any], limit: int) -> None:
    why = f"the limit of {limit} rounds" if found["reason"] == "limit" else f"the rule {found['reason']!r}"
    lines = (
        f"{found['rounds']} rounds, {found['questions']} questions; ended by {why}",
        f"distance to the target: {found['distance_start']:.2f} at the start, {found['distance_favourite']:.2f} now "
        "(1 is a typical random picture, 0 the target)",
        f"the way there  {found['out']}/progress.png",
        f"best picture   {found['out']}/best.png",
    )
    for line in lines:
        Console().print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _progress(rounds: int) -> Iterator[Callable[[Rounds], None]]:
    """A progress bar on standard error with distance and reward."""
    columns = (
        TextColumn("round"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("looking at the target", total=rounds)

        def tell(run: Rounds) -> None:
            if not run.state.rows:
                return
            row = run.state.rows[-1]
            text = f"distance {row.distance_favourite:.2f}  reward {row.reward_destination:+.2f}"
            bar.update(task, completed=run.state.round, description=text)

        yield tell
