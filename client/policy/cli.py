"""``plgl stream``: learn from the ratings kept on this machine, then show items without end."""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from client.policy import LEVEL
from client.progress import rounds_bar
from common.errors import SettingError

if TYPE_CHECKING:  # heavy modules are imported inside the command, so that help stays quick
    from torch import Tensor

    from client.generators.pack import GeneratorPack
    from client.items import Item
    from client.policy.guard import Check
    from client.policy.stream import Stream, StreamSettings
    from client.policy.training import Learned
    from client.session import Session
    from client.terminal_keys import Keys
    from common.population_policy import PopulationPolicy

app = typer.Typer(add_completion=False)
_WALL = 12  # items that are shown together
_ACROSS = 4
_LEARN, _KEEP, _SHOW = "How it learns", "Where your answers are kept", "What it shows"
_RATED = 2000  # items that the pace of the policy alone is measured on


@app.command("stream")
def stream(
    generator: Annotated[
        str, typer.Option(help="What makes the items: a name of `plgl generator list`, or a folder.")
    ] = "art",
    level: Annotated[
        float, typer.Option(help="0 safe to 1 surprising; one policy serves all levels.", rich_help_panel=_SHOW)
    ] = LEVEL,
    count: Annotated[int, typer.Option(help="Items to show; 0 goes on until you stop it.", rich_help_panel=_SHOW)] = 0,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder to write pictures to instead of drawing.", rich_help_panel=_SHOW)
    ] = None,
    sounds: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write WAV files to, with a sheet of their spectra; for a generator of sounds.",
            rich_help_panel=_SHOW,
        ),
    ] = None,
    before_after: Annotated[
        Path | None,
        typer.Option(
            help="Folder for two contact sheets of the same noise: the generator alone, and your stream.",
            rich_help_panel=_SHOW,
        ),
    ] = None,
    learner: Annotated[
        str,
        typer.Option(
            help="reparameterised (quick), or ppo, which needs plgl with the extra rl.", rich_help_panel=_LEARN
        ),
    ] = "reparameterised",
    rounds: Annotated[int, typer.Option(help="Most rounds of learning.", rich_help_panel=_LEARN)] = 20,
    batch: Annotated[int, typer.Option(help="Items of a step; fewer need less memory.", rich_help_panel=_LEARN)] = 256,
    held_out: Annotated[
        float, typer.Option(help="Share of your answers that only the guard hears.", rich_help_panel=_LEARN)
    ] = 0.2,
    model: Annotated[
        str, typer.Option(help="Taste model; `plgl compare` knows them.", rich_help_panel=_LEARN)
    ] = "default",
    prior: Annotated[
        Path | None,
        typer.Option(help="Folder with what the crowd likes, or none; as for `plgl rate`.", rich_help_panel=_LEARN),
    ] = None,
    population: Annotated[
        Path | None,
        typer.Option(
            help="What everybody likes: a policy that a federation of yours published, or a folder with one or with a "
            "prior to make it of. It is shown before you rated, and learning begins there.",
            rich_help_panel=_LEARN,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed and answers show the same items.")] = None,
    profile: Annotated[str, typer.Option(help="Whose stream.", rich_help_panel=_KEEP)] = "me",
    context: Annotated[str, typer.Option(help="Mood, time or situation, as rated in.", rich_help_panel=_KEEP)] = "",
    store: Annotated[Path | None, typer.Option(help="Encrypted file with your answers.", rich_help_panel=_KEEP)] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File whose first line is the passphrase.", rich_help_panel=_KEEP)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end and nothing else.")] = False,
) -> None:
    """An endless stream of items you like, as safe or as surprising as you want.

    A small policy learns from the ratings you gave with `plgl rate`, in front of the generator, which stays as it is.
    Part of your answers is held out to catch it cheating. It is kept sealed beside your answers, and learned again
    when you have rated more. Ctrl-C keeps the last good one; the same command goes on. With --population it shows what
    everybody likes as long as you have rated little or nothing.
    """
    from client.policy.flow import check_level
    from client.policy.learner import LEARNERS, LearnSettings
    from client.policy.stream import Stream, StreamSettings
    from client.policy.stream import learn as learn_policy

    check_level(level)
    if learner not in LEARNERS:
        raise SettingError(f"learner={learner!r} must be one of {', '.join(LEARNERS)}")
    if count < 0:
        raise SettingError(f"count={count} must be >= 0; 0 goes on until you stop it")
    if not count and (as_json or not sys.stdin.isatty()):
        raise SettingError("nobody is here to stop it; give --count, such as --count 24")
    folder = _files(generator, pictures, sounds, before_after)
    settings = StreamSettings(
        learner=learner, held_out=held_out, learn=LearnSettings(rounds=rounds, batch=batch), seed=seed or 0
    )
    said = Console(stderr=True, quiet=as_json)
    with _session(
        said, (generator, model, prior), profile, context, (store, passphrase_file), as_json, seed, population
    ) as session:
        crowd = everybody(said, population, session.pack, settings)
        with rounds_bar("learning your taste", settings.most_rounds, _in_words, quiet=as_json) as tell:
            learned = learn_policy(session, settings, tell, crowd)
        _tell(said, learned)
        shown = _Shown()
        drawn = Stream(session, learned.policy, level=level, seed=seed)
        if before_after is not None:
            shown.files += _before_after(session, learned, level, before_after)
        _show(session, drawn, count, folder, as_json, shown)
        _report(said, learned, shown, drawn, as_json)


def _files(generator: str, pictures: Path | None, sounds: Path | None, before_after: Path | None) -> Path | None:
    """Where files go; what makes no sense for a generator's medium is refused before anything is learned."""
    from client.rate_cli import rateable

    pack = rateable(generator)
    heard = pack.manifest.output.kind == "audio"
    if sounds is not None and not heard:
        raise SettingError(f"{pack.name} makes pictures, which have no sound; use --pictures {sounds}")
    if pictures is not None and heard:
        raise SettingError(f"{pack.name} makes sounds; use --sounds {pictures}")
    if before_after is not None and heard:
        raise SettingError(
            f"{pack.name} makes sounds, and a contact sheet shows pictures; leave --before-after out, and compare "
            "levels by ear with --sounds, such as --level 0 and --level 1"
        )
    return sounds if heard else pictures


@dataclass
class _Shown:
    """What was shown so far, and how long drawing took."""

    items: int = 0
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)


@contextlib.contextmanager
def _session(
    said: Console,
    what: tuple[str, str, Path | None],
    profile: str,
    context: str,
    keep: tuple[Path | None, Path | None],
    as_json: bool,
    seed: int | None,
    population: Path | None,
) -> Iterator[Session]:
    """The session with its store, which must be there unless a policy of everybody is."""
    from client.generators.pack import GeneratorPack
    from client.rate_cli import given_passphrase, open_store, starting_point
    from client.session import Session
    from client.store import default_path
    from common.errors import StoreError

    generator, model, prior = what
    store, passphrase_file = keep
    place = (default_path() if store is None else store).expanduser()
    if not place.exists() and population is None:
        raise StoreError(f"there are no ratings at {place}; rate something first, with: plgl rate")
    crowd, starts = starting_point(GeneratorPack.open(generator).hash, prior, model)
    if starts is not None:
        said.print(starts, soft_wrap=True, highlight=False, markup=False)
    if not place.exists():  # nothing is learned from, and nothing is to be kept
        with Session.open(generator, prior=crowd, seed=seed, model=model) as session:
            yield session
        return
    given = given_passphrase(passphrase_file)
    journal = open_store(store, given, interactive=sys.stdin.isatty() and not as_json, say=said.print)
    with Session.open(
        generator, prior=crowd, store=journal, profile=profile, context=context, seed=seed, model=model
    ) as session:
        yield session


def everybody(
    said: Console, place: Path | None, pack: GeneratorPack, settings: StreamSettings | None = None
) -> PopulationPolicy | None:
    """The policy of everybody in a file or folder, or made of the prior that lies there; tells how private it is."""
    from client.policy.population import PopulationSettings
    from client.policy.published import open_population
    from client.policy.stream import StreamSettings

    if place is None:
        return None
    how = PopulationSettings(learn=(settings or StreamSettings()).learn)
    with rounds_bar("making everybody's policy", how.learn.rounds, _in_words, quiet=said.quiet) as tell:
        found, about = open_population(place, pack, how, tell)
    said.print(f"begins with what everybody likes: {about}", soft_wrap=True, highlight=False, markup=False)
    return found


def _in_words(check: Check) -> str:
    held = f", held-out {check.held_out:+.2f}" if check.held_out == check.held_out else ""
    return f"reward {check.reward:+.2f}{held}, {check.divergence:.1f} nats away"


def _tell(said: Console, learned: Learned) -> None:
    if learned.stopped is not None:
        said.print(f"the guard stopped: {learned.stopped}", soft_wrap=True, highlight=False, markup=False)
    if math.isnan(learned.kept.reward):
        said.print("you have rated too little to learn from; this is everybody's policy, as it is")
        return
    if learned.decided is not None:
        said.print(
            f"held-out answers let it go as far as in round {learned.decided.round}: {_in_words(learned.decided)}; "
            "within that it then heard all of them",
            soft_wrap=True, highlight=False, markup=False,
        )  # fmt: skip
    line = f"the policy of round {learned.kept.round} of {len(learned.checks) - 1} is kept: {_in_words(learned.kept)}"
    said.print(line, soft_wrap=True, highlight=False, markup=False)


def _show(session: Session, drawn: Stream, count: int, pictures: Path | None, as_json: bool, shown: _Shown) -> None:
    from client.rate_cli import display_for
    from client.terminal_display import Frame
    from client.terminal_keys import Keyboard, Script

    if session.pack.manifest.output.kind == "audio" and count and pictures is None and not as_json:
        print("a terminal plays no sound; write them to files with: --sounds FOLDER")
    with contextlib.ExitStack() as opened:
        alone = count > 0 or not sys.stdin.isatty()
        keys: Keys = Script(io.StringIO()) if alone else opened.enter_context(Keyboard())
        display = display_for(session, keys, pictures, as_json, opened)
        while not count or shown.items < count:
            wanted = min(_WALL, count - shown.items) if count else _WALL
            started = time.perf_counter()
            items = _items(session, drawn.latents(wanted), shown.items)
            shown.seconds += time.perf_counter() - started
            shown.items += wanted
            frame = Frame(
                kind="stream",
                title=f"Your stream, from safe (0) to surprising (1) at {drawn.level:g}",
                items=items,
                captions=[str(item.id + 1) for item in items],
                across=_ACROSS,
                status=f"{shown.items} items, {shown.items / max(shown.seconds, 1e-9):.0f} a second",
                keys="" if alone else "any key: more   q: stop",
            )
            display.show(frame)
            if not alone and not _goes_on(keys, partial(display.show, frame)):
                break
        shown.files += getattr(display, "written", [])


def _goes_on(keys: Keys, again: Callable[[], None]) -> bool:
    """Whether the person wants more; a window of another size shows the same items ``again``."""
    from client.terminal_keys import REDRAW

    key = keys.read()
    while key in ("", REDRAW):
        if key == REDRAW:
            again()
        key = keys.read()
    return key not in (None, "q", "escape")


def _items(session: Session, latents: Tensor, first: int) -> list[Item]:
    """Items that are drawn now and not remembered as shown: nobody is asked about them."""
    from client.items import Catalogue, Item

    catalogue = Catalogue(session.pack, session.lens)
    catalogue.add(latents)
    size = 256 if session.pack.manifest.resizable else None
    catalogue.draw(range(len(latents)), size)
    points = catalogue.points

    def draw(number: int, side: int | None) -> Tensor:
        return catalogue.draw([number - first], side)[0]

    return [Item(first + i, points.latents[i], points.features[i], draw) for i in range(len(latents))]


def _before_after(session: Session, learned: Learned, level: float, folder: Path) -> list[Path]:
    """Contact sheets of the same noise: what the generator makes of it, and what the stream makes of it."""
    import torch

    from client.terminal_display import save
    from common.files import make_folder

    make_folder(folder, "--before-after")
    noise = session.pack.latents.sample(2 * _WALL, torch.Generator().manual_seed(0))
    with torch.no_grad():
        after = learned.policy(noise, torch.full((len(noise),), level)).places
    written = []
    for name, latents in (("before", noise), ("after", after)):
        path = folder / f"{name}.png"
        save(path, _items(session, latents, 0), 2 * _ACROSS, session.pack.manifest.resizable)
        written.append(path)
    return written


def _report(said: Console, learned: Learned, shown: _Shown, drawn: Stream, as_json: bool) -> None:
    started = time.perf_counter()
    drawn.latents(_RATED)
    alone = _RATED / (time.perf_counter() - started)
    pace = shown.items / max(shown.seconds, 1e-9)
    if as_json:
        about: dict[str, Any] = {
            "success": True,
            "stopped": learned.stopped,
            "kept": _plain(learned.kept),
            "decided": None if learned.decided is None else _plain(learned.decided),
            "checks": [_plain(check) for check in learned.checks],
            "level": drawn.level,
            "items": shown.items,
            "items_per_second": pace,
            "latents_per_second": alone,
            "pictures": [str(path) for path in shown.files if path.suffix != ".wav"],
            "sounds": [str(path) for path in shown.files if path.suffix == ".wav"],
        }
        print(json.dumps(about))
        return
    said.print(
        f"{shown.items} items, {pace:.0f} a second with drawing; the policy alone makes {alone:,.0f} a second",
        soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip


def _plain(check: Check) -> dict[str, float | None]:
    """A check as JSON has it, which knows no NaN."""
    return {name: value if value == value else None for name, value in asdict(check).items()}
