"""From a trained source to a pack, by the commands a person types, and what is to be said about it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from client.generators.importers.diffusers_pipeline import prompt_embedding
from client.generators.pack import GeneratorPack
from common.cli import GROUP, run
from common.latents import LatentSpace
from tests.gallery.sources import PackOf, Source, Written

LICENCE = "CC0-1.0"
NUMBERS = ("command", "error", "against_training", "promises", "milliseconds", "megabytes")
"""Fields of `Made` that are no pictures."""
_OTHER = "prompt/"
_TIMED = 16
_REPEATS = 3


class CommandFailed(Exception):
    """A command of the program ended with another exit code than 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """A pack that was made by the commands.

    Attributes:
        command: what a person would type.
        error: largest relative difference from what the importer read, as `plgl generator add` prints it.
        against_training: the same from what the trained network itself drew; None where the inputs are others.
        promises: kept, as `plgl generator check` lists them.
        milliseconds: for one picture, in a batch of 16.
        megabytes: of the pack.
        pictures: ``(n, 3, h, w)`` in [-1, 1].
        others: the same for each further prompt, from the same latents.
    """

    command: str
    error: float
    against_training: float | None
    promises: int
    milliseconds: float
    megabytes: float
    pictures: Tensor
    others: Mapping[str, Tensor]


def plgl(*arguments: str) -> str:
    """Run one command of the program and give back what it printed.

    Raises:
        CommandFailed: it ended with another exit code than 0.
    """
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run(arguments, importlib.metadata.entry_points(group=GROUP))
    if code != 0:
        raise CommandFailed(f"plgl {shlex.join(arguments)} ended with {code}: {out.getvalue()[-500:]}")
    return out.getvalue()


def add(source: Source, pack: PackOf, written: Written, home: Path, sheets: Path, count: int, seed: int) -> Made:
    """Import a source, check the pack and draw with it.

    Args:
        source: what it is.
        pack: how it is imported.
        written: where it lies.
        home: folder of added generators; a pack of that name is replaced.
        sheets: folder for the contact sheet of `plgl generator sample`.
        count: pictures to draw.
        seed: of their latents.

    Raises:
        CommandFailed: a command did not do what it should.
    """
    options = ("--as", source.kind, *pack.options, "--name", pack.name, "--licence", LICENCE)
    where = ("--home", str(home))
    if (home / pack.name).exists():
        plgl("generator", "remove", pack.name, "--forget", "--yes", *where)
    added = _json(plgl("generator", "add", str(written.path), *options, *where, "--json"))
    checked = _json(plgl("generator", "check", pack.name, *where, "--json"))
    plgl("generator", "sample", pack.name, "--out", str(sheets / f"{pack.name}.png"), *where, "--seed", str(seed))
    opened = GeneratorPack.open(pack.name, home)
    latents = latents_of(opened.latents, count, seed)
    return Made(
        command=shlex.join(["plgl", "generator", "add", written.path.name, *options[: 2 + len(pack.options)]]),
        error=float(added["error"]),
        against_training=against(opened, written) if pack.same else None,
        promises=sum(each["kept"] is True for each in checked["promises"]),
        milliseconds=_milliseconds(opened),
        megabytes=sum(each["size"] for each in added["files"].values()) / 1e6,
        pictures=opened.generate(latents),
        others={
            prompt: opened.generate(latents, conditions={"prompt": prompt_embedding(written.path, prompt)})
            for prompt in pack.prompts
        },
    )


def add_once(
    source: Source, pack: PackOf, written: Written, home: Path, sheets: Path, *, count: int, seed: int
) -> Made:
    """`add`, unless it was done before with the same settings; then what is kept beside the contact sheet."""
    kept = sheets / f"{pack.name}.safetensors"
    wanted = json.dumps(
        {"options": pack.options, "source": written.about, "count": count, "seed": seed}, sort_keys=True
    )
    if (found := _kept(pack, kept, wanted)) is not None:
        return found
    made = add(source, pack, written, home, sheets, count, seed)
    about = {name: getattr(made, name) for name in NUMBERS}
    notes = {"made": json.dumps(about), "settings": wanted}
    drawn = {"pictures": made.pictures, **{_OTHER + prompt: pictures for prompt, pictures in made.others.items()}}
    save_file({name: pictures.contiguous() for name, pictures in drawn.items()}, kept, notes)
    return made


def _kept(pack: PackOf, file: Path, wanted: str) -> Made | None:
    if not file.is_file():
        return None
    with safe_open(str(file), "pt") as opened:
        notes = opened.metadata() or {}
        drawn = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
    if notes.get("settings") != wanted:
        return None
    others = {prompt: drawn[_OTHER + prompt] for prompt in pack.prompts}
    return Made(**json.loads(notes["made"]), pictures=drawn["pictures"], others=others)


def learn_map(pack: PackOf, home: Path, pictures: int) -> dict[str, Any]:
    """Learn the latent map of a pack, unless it has one; what `plgl generator map --json` says."""
    kept = home.with_name(f"map-{pack.name}-{pictures}.json")
    manifest = GeneratorPack.open(pack.name, home).manifest
    if kept.is_file() and manifest.components:
        return _json(kept.read_text())
    settings = ("--components", "auto", "--pictures", str(pictures), "--home", str(home))
    kept.write_text(plgl("generator", "map", pack.name, *settings, "--json"))
    return _json(kept.read_text())


def latents_of(space: LatentSpace, count: int, seed: int) -> Tensor:
    """Latents as `plgl generator sample` draws them."""
    return space.sample(count, torch.Generator().manual_seed(seed))


def _json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def against(pack: GeneratorPack, written: Written) -> float:
    """Largest difference of a pack from what the trained network drew, relative to its largest value."""
    found = pack.generate(written.latents)
    return float((found - written.pictures).abs().max() / written.pictures.abs().max())


def _milliseconds(pack: GeneratorPack) -> float:
    latents = latents_of(pack.latents, _TIMED, 0)
    taken = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        pack.generate(latents)
        taken.append(time.perf_counter() - started)
    return 1000 * min(taken) / _TIMED
