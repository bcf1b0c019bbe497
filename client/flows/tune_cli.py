"""``plgl generator tune``: teach a flow of one's own what was rated."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from client.generators.packs_cli import Home, Json
from client.progress import progress_bar, rounds_bar
from common.errors import RewardError, SettingError

if TYPE_CHECKING:  # heavy modules are imported inside the command, so that help stays quick
    from client.flows.model import FlowModel
    from client.flows.packs import PackFlow
    from client.flows.tuning import Tuner, TuneSettings
    from client.flows.tuning_guard import Check
    from client.generators.manifest import Manifest
    from client.session import Session

_TEACH, _KEEP = "How it is taught", "Where your answers are kept"
_PLAIN: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False}
_SHOWN, _ACROSS = 24, 8


def tune(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A flow you rated: the folder `plgl generator train` left, or a pack that runs in torch.",
        ),
    ],
    name: Annotated[str, typer.Option("--as", help="Name of the new generator.")],
    by: Annotated[
        str,
        typer.Option(
            help="injection (of what you liked), pairwise (better against worse) or denoising (policy gradient).",
            rich_help_panel=_TEACH,
        ),
    ] = "injection",
    rounds: Annotated[int, typer.Option(help="Most rounds; each is checked.", rich_help_panel=_TEACH)] = 10,
    steps: Annotated[int, typer.Option(help="Of the optimiser in each round.", rich_help_panel=_TEACH)] = 15,
    anchor: Annotated[
        float, typer.Option(help="How firmly it is held to the original; 0 not at all.", rich_help_panel=_TEACH)
    ] = 0.3,
    rate: Annotated[
        float | None, typer.Option(help="Learning rate; what suits the way without it.", rich_help_panel=_TEACH)
    ] = None,
    batch: Annotated[int, typer.Option(help="Items of a step; fewer need less memory.", rich_help_panel=_TEACH)] = 48,
    held_out: Annotated[
        float, typer.Option(help="Share of your answers that only the guard hears.", rich_help_panel=_TEACH)
    ] = 0.2,
    seed: Annotated[
        int, typer.Option(help="The same seed and answers give the same generator.", rich_help_panel=_TEACH)
    ] = 0,
    map_pictures: Annotated[
        int, typer.Option(help="To learn its latent map from again; 0 leaves it without one.")
    ] = 3000,
    before_after: Annotated[
        Path | None,
        typer.Option(help="Folder for two contact sheets of the same noise: the original, and the new one."),
    ] = None,
    profile: Annotated[str, typer.Option(help="Whose answers.", rich_help_panel=_KEEP)] = "me",
    context: Annotated[str, typer.Option(help="Mood, time or situation, as rated in.", rich_help_panel=_KEEP)] = "",
    store: Annotated[Path | None, typer.Option(help="Encrypted file with your answers.", rich_help_panel=_KEEP)] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File whose first line is the passphrase.", rich_help_panel=_KEEP)
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Teach a copy of a flow what you rated with `plgl rate`. The original stays; Ctrl-C keeps the last whole round.

    The new generator draws more of what you like from any noise, so it tells what you like: it lies unencrypted among
    your generators, and is for your eyes unless you decide otherwise.
    """
    import torch

    from client.flows.packs import open_flow
    from client.flows.tuning import TuneSettings

    settings = TuneSettings(
        by=by, rounds=rounds, steps=steps, anchor=anchor, learning_rate=rate, batch=batch, held_out=held_out, seed=seed
    )
    _check_new(name, home)
    _check_map(map_pictures)
    said = Console(stderr=True, quiet=as_json)
    found = open_flow(source, home, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with _session(said, found, (store, passphrase_file), profile, context, as_json) as session:
        tuner, answers = _taught(session, found, settings, said)
    if not tuner.kept:
        why = f"; the guard stopped: {tuner.stopped}" if tuner.stopped else ""
        raise RewardError(f"no round was better by held-out answers than the original{why}; rate more, or --rate lower")
    manifest = _installed(found, tuner, name, map_pictures, home, said)
    sheets = _before_after(found, tuner.flow, before_after) if before_after is not None else []
    _report(said, tuner, manifest, answers, sheets, as_json)


def _check_new(name: str, home: Path | None) -> None:
    """A name is looked at before an hour is spent."""
    from client.generators.installed import InstalledPacks
    from client.generators.pack import known_generators

    if name in known_generators():
        raise SettingError(f"{name!r} came with the program; choose another --as")
    if name in InstalledPacks(home).names():
        raise SettingError(f"{name!r} is here already; choose another --as, or: plgl generator remove {name}")
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-_")
    if not name or set(name) - allowed or name[0] in "-_" or len(name) > 64:
        raise SettingError(
            f"--as {name[:40]!r} must be small letters, digits, - and _, and begin with one of the first"
        )


def _check_map(pictures: int) -> None:
    from client.generators.latent_map import LatentMapSettings

    if pictures:
        LatentMapSettings(components=None, pictures=pictures)


@contextmanager
def _session(
    said: Console,
    found: PackFlow,
    keep: tuple[Path | None, Path | None],
    profile: str,
    context: str,
    as_json: bool,
) -> Iterator[Session]:
    from client.rate_cli import given_passphrase, open_store
    from client.session import Session
    from client.store import default_path
    from common.errors import StoreError

    store, passphrase_file = keep
    place = (default_path() if store is None else store).expanduser()
    if not place.exists():
        again = f"plgl rate --generator {found.pack.folder}"
        raise StoreError(f"there are no ratings at {place}; rate something first, with: {again}")
    given = given_passphrase(passphrase_file)
    journal = open_store(store, given, interactive=sys.stdin.isatty() and not as_json, say=said.print)
    with Session.open(found.pack.folder, store=journal, profile=profile, context=context, seed=0) as session:
        yield session


def _taught(session: Session, found: PackFlow, settings: TuneSettings, said: Console) -> tuple[Tuner, int]:
    """Teach, or go on; the tuner and how many answers it heard."""
    from client.flows.pack_lesson import lesson_of
    from client.flows.tuning import Tuner
    from client.flows.tuning_kept import mark_of, restore, save

    lesson = lesson_of(session, found, held_out=settings.held_out, seed=settings.seed)
    with said.status("looking at what the original draws"):
        tuner = Tuner(found.flow, lesson, settings)
    mark = mark_of(session, settings)
    if restore(session, tuner, mark):
        said.print(f"goes on after round {len(tuner.checks) - 1} of {settings.rounds}", **_PLAIN)
    if not len(lesson.held_better):
        said.print("no held-out answer compares two items, so only the limits of drift watch", **_PLAIN)
    with rounds_bar("teaching", settings.rounds, _in_words, quiet=said.quiet) as tell:
        tuner.run(tell, lambda: save(session, tuner, mark))
    return tuner, lesson.answers


def _in_words(check: Check) -> str:
    held = f", held-out {check.held_out:+.2f}" if check.held_out == check.held_out else ""
    away = f"{check.distance:.2f} away, {check.variety:.0%} of the variety"
    return f"reward {check.reward:+.2f}{held}, {away}"


def _installed(found: PackFlow, tuner: Tuner, name: str, pictures: int, home: Path | None, said: Console) -> Manifest:
    """The taught flow as an added generator, with a latent map of its own."""
    from client.generators.importers.base import make
    from client.generators.installed import InstalledPacks
    from client.generators.interface import Learning
    from client.generators.latent_map import LatentMapSettings, learn_latent_map
    from client.generators.manifest import LATENT_MAP, MANIFEST
    from client.generators.pack import GeneratorPack
    from client.generators.pack_files import with_map

    notice = f"tuned from {found.pack.name} {found.pack.version} to somebody's answers by {tuner.settings.by}"
    with said.status("making the pack"):
        made = make(found.imported(tuner.flow, notice), name=name)
    installed, manifest, files = InstalledPacks(home), made.manifest, dict(made.files)
    if pictures:
        # the same noise is another picture now, so the original's map would tell of pictures that are not drawn
        settings = LatentMapSettings(
            components=found.pack.components or None, pictures=pictures, seed=tuner.settings.seed
        )
        pack = GeneratorPack(installed.folder(name), manifest, files, proven=True)
        with progress_bar(quiet=said.quiet) as report:
            learned = learn_latent_map(pack, settings, report)
        files[LATENT_MAP] = learned.content
        about = Learning(components=settings.components or 0, pictures=pictures, seed=settings.seed)
        manifest = with_map(manifest, learned.content, learned.r2, learned.scale, about)
    installed.install(manifest, {**files, MANIFEST: manifest.encode()})
    return manifest


def _before_after(found: PackFlow, taught: FlowModel, folder: Path) -> list[Path]:
    """Contact sheets of the same noise."""
    import torch

    from client.generators.cli import contact_sheet
    from common.files import make_folder, write_atomically

    make_folder(folder, "--before-after")
    noise = found.flow.noise(_SHOWN, torch.Generator().manual_seed(0)).to(found.flow.device)
    written = []
    for name, flow in (("before", found.flow), ("after", taught)):
        written.append(folder / f"{name}.png")
        write_atomically(written[-1], contact_sheet(flow.media(flow.draw(noise)).cpu(), _ACROSS))
    return written


def _report(said: Console, tuner: Tuner, manifest: Manifest, answers: int, sheets: list[Path], as_json: bool) -> None:
    import hashlib

    if as_json:
        about = {
            "success": True,
            "name": manifest.name,
            "pack": hashlib.sha256(manifest.encode()).hexdigest(),
            "answers": answers,
            "checks": [_plain(check) for check in tuner.checks],
            "kept": tuner.kept,
            "stopped": tuner.stopped,
            "components": manifest.components,
            "sheets": [str(path) for path in sheets],
        }
        print(json.dumps(about))
        return
    if tuner.stopped:
        said.print(f"the guard stopped: {tuner.stopped}", **_PLAIN)
    print(f"round {tuner.kept} of {len(tuner.checks) - 1} is kept: {_in_words(tuner.checks[tuner.kept])}")
    for path in sheets:
        print(f"wrote {path}")
    print(f"added {manifest.name}; it tells what you like, so it is as private as your answers")
    print(
        f"rate what it makes in a profile of its own: plgl rate --generator {manifest.name} --profile {manifest.name}"
    )


def _plain(check: Check) -> dict[str, float | None]:
    """A check as JSON has it, which knows no NaN."""
    return {name: value if value == value else None for name, value in asdict(check).items()}
