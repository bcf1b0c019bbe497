"""``plgl generator train``: a generator from a folder of pictures."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:  # heavy modules are imported inside the command, so that help stays quick
    from client.generators.training.trainer import Seen, Trainer

PACK, SAMPLES = "pack", "samples"
_PLAIN: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False}


def train(
    pictures: Annotated[Path, typer.Option(help="Folder with pictures; folders in it are read too.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, samples and the pack; one of before goes on.")],
    kind: Annotated[str, typer.Option(help="vae (quick, soft pictures) or flow (slower, sharper).")] = "vae",
    space: Annotated[str, typer.Option(help="Of a flow: pixels, or vae for the latents of a VAE.")] = "pixels",
    size: Annotated[int, typer.Option(help="Height and width: 16, 32, 64, 128 or 256 pixels.")] = 32,
    latent: Annotated[int, typer.Option(help="Numbers in a VAE's latent.")] = 64,
    width: Annotated[int, typer.Option(help="Channels of the first layer; time grows with its square.")] = 32,
    steps: Annotated[int, typer.Option(help="Of training.")] = 5000,
    batch: Annotated[int, typer.Option(help="Pictures in each step.")] = 64,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    sampler: Annotated[int, typer.Option(help="Steps from noise to picture of a flow, fixed in the pack.")] = 12,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints, each with samples and a score.")] = 500,
    device: Annotated[str, typer.Option(help="cpu or cuda; cuda where there is one.")] = "",
    name: Annotated[str, typer.Option(help="Of the pack.")] = "trained",
    licence: Annotated[str, typer.Option(help="SPDX identifier of what comes out.")] = "",
    notice: Annotated[str, typer.Option(help="What whoever uses it should read.")] = "",
    runtime: Annotated[
        str, typer.Option(help="Of the pack: onnx (quicker), or torch, which `plgl generator tune` can teach by name.")
    ] = "onnx",
    seed: Annotated[int, typer.Option(help="Where the random numbers start.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Train a generator on pictures: a small VAE, or a rectified flow. Ctrl-C keeps a checkpoint.

    The score is like FID, on features of this program's own (layout, colour, edges and a fixed random network).
    """
    from client.generators.importers.base import write
    from client.generators.training.course import RUNTIMES, TrainingSettings
    from client.generators.training.pictures import read_pictures
    from client.generators.training.trainer import Trainer
    from common.errors import SettingError

    if runtime not in RUNTIMES:
        raise SettingError(f"runtime={runtime[:40]!r} must be one of {', '.join(RUNTIMES)}")

    settings = TrainingSettings(
        kind=kind,
        space=space,
        side=size,
        dimension=latent,
        width=width,
        steps=steps,
        batch=batch,
        rate=rate,
        sampler=sampler,
        seed=seed,
    )
    chosen = _device(device)
    found = read_pictures(pictures, size)
    console = Console(stderr=True)
    for skipped, why in found.skipped.items():
        console.print(f"skipped {skipped}: {why}", **_PLAIN)
    trainer = Trainer(settings, found, out, chosen)
    scores = _run(trainer, every, out, console)
    made = write(trainer.average.cpu().imported(licence, notice, runtime), out / PACK, name=name)
    record = {
        "pack": str(out / PACK),
        "pictures": len(found.values),
        "skipped": dict(found.skipped),
        "scores": scores,
        "score_of_halves": trainer.judge.halves,
        "error": made.error,
    }
    if as_json:
        print(json.dumps(record))
        return
    print(f"wrote {out / PACK}; as trained up to {made.error:.1e} on 64 latents")
    print(f"now learn its latent map: plgl generator map {out / PACK}")
    if kind == "flow":
        print(f"once you rated it, it learns from that: plgl generator tune {out} --as NAME")


def _run(trainer: Trainer, every: int, out: Path, console: Console) -> dict[int, float]:
    """Train to the end; the score at each checkpoint."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from client.generators.cli import contact_sheet
    from common.files import write_atomically

    scores: dict[int, float] = {}

    def seen(at: Seen) -> None:
        scores[at.step] = at.score
        (out / SAMPLES).mkdir(exist_ok=True)
        write_atomically(out / SAMPLES / f"step-{at.step:07d}.png", contact_sheet(at.samples, 8))
        halves = trainer.judge.halves
        said = f"step {at.step}: loss {at.loss:.4f}, score {at.score:.3f} (two halves of the pictures: {halves:.3f})"
        bar.console.print(said, **_PLAIN)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar, _stopping() as stopped:
        row = bar.add_task("training", total=trainer.settings.steps, completed=trainer.step)
        trainer.run(every, seen, lambda step, loss: bar.update(row, completed=step), lambda: bool(stopped))
    if not scores:  # it was done before
        at = trainer.show()
        scores[at.step] = at.score
    return scores


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """A list that Ctrl-C fills, so that the step under way is finished and saved."""
    pressed: list[int] = []

    def press(number: int, _: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = {each: signal.signal(each, press) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield pressed
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _device(name: str) -> Any:
    import torch

    from common.errors import SettingError

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise SettingError(f"device={name[:40]!r} must be cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingError("device='cuda': torch finds no GPU here; leave --device out")
    return torch.device(name)
