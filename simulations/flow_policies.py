"""``plgl simulate flows``: the same answers taught to a flow in several ways, and what each then draws."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from common.errors import SettingError, StorageError

if TYPE_CHECKING:
    from client.flows.comparison import Row

METHODS = "base,injection,pairwise,denoising"
_LIKES = {"s-curve": 1, "swiss-roll": 0}


def flows(
    methods: Annotated[str, typer.Option(help="Some of them, separated by commas.")] = METHODS,
    picks: Annotated[int, typer.Option(help="Answers that each method learns from: the best of four.")] = 6,
    samples: Annotated[int, typer.Option(help="Shapes judged of each.")] = 192,
    seeds: Annotated[int, typer.Option(help="Times it is repeated.")] = 3,
    seed: Annotated[int, typer.Option(help="The first.")] = 0,
    like: Annotated[str, typer.Option(help="What the artificial person loves: s-curve or swiss-roll.")] = "s-curve",
    flow: Annotated[Path | None, typer.Option(help="File with a flow; without it the one that is shipped.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write the rows to, as CSV.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Teach a flow what somebody picked: by injection, by a pairwise loss, by a policy on its steps.

    Share of what is loved, shapes that are none, how varied what is loved stays, the fitted reward (a method that
    raises it without raising the share cheats), and processor seconds to learn and for each item.
    """
    import torch

    from client.flows.checkpoint import open_checkpoint
    from client.flows.comparison import ComparisonSettings, compare

    if like not in _LIKES:
        raise SettingError(f"like={like!r} must be one of {', '.join(_LIKES)}")
    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    settings = ComparisonSettings(
        methods=names, picks=picks, samples=samples, seeds=seeds, seed=seed, kind=_LIKES[like]
    )
    torch.set_num_threads(1)  # many small matrices: more threads only wait for each other
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    columns = (TextColumn("teaching"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True, quiet=as_json)) as bar:
        task = bar.add_task("", total=seeds * len(names))
        rows = compare(
            open_checkpoint(flow, device),
            settings,
            device,
            lambda row: bar.update(task, advance=1, description=row.method),
        )
    if out is not None:
        _write(out, rows)
    if as_json:
        sys.stdout.write(json.dumps({"rows": [asdict(row) for row in rows]}) + "\n")
        return
    _print(rows, names)


def _write(path: Path, rows: list[Row]) -> None:
    from client.flows.script import table
    from common.files import write_atomically

    if not path.parent.is_dir():
        raise StorageError(f"there is no folder {path.parent}; make it, or choose another --out")
    write_atomically(path, table(rows))


def _print(rows: list[Row], names: tuple[str, ...]) -> None:
    from client.flows.comparison import mean_of

    shown = Table("method", "loved", "invalid", "distance", "angles", "reward", "learn s", "item ms")
    for name in names:
        each = {row.seed: row.loved for row in rows if row.method == name}
        loved = f"{100 * mean_of(rows, name, 'loved'):.0f} %"
        if len(each) > 1:
            loved += f" ({100 * min(each.values()):.0f} to {100 * max(each.values()):.0f})"
        shown.add_row(
            name, loved, f"{100 * mean_of(rows, name, 'invalid'):.1f} %", f"{mean_of(rows, name, 'distance'):.3f}",
            f"{mean_of(rows, name, 'spread'):.0f}°", f"{mean_of(rows, name, 'reward'):.2f}",
            f"{mean_of(rows, name, 'teaching_seconds'):.0f}", f"{1000 * mean_of(rows, name, 'item_seconds'):.1f}",
        )  # fmt: skip
    Console().print(shown)
