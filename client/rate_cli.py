"""``plgl rate``: rate what a generator makes, in the browser or in the terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from common.errors import KeyringError, PlglError, SettingError, WrongKey

if TYPE_CHECKING:  # heavy modules are imported inside the command, so that help stays quick
    from client.bindings import Mode
    from client.generators.pack import GeneratorPack
    from client.session import Session
    from client.store import Store
    from client.terminal_display import Blocks, Sheets
    from client.terminal_keys import Keys
    from client.vault import KeyringLike
    from common.prior import PopulationPrior
    from common.release import Release

app = typer.Typer(add_completion=False)
PASSPHRASE = "PLGL_PASSPHRASE"
NOBODY = "none"  # as --prior: start from nothing
_CROWD = ("default", "bayes")  # models that can use what a crowd likes
_TRIES = 3
_LONGEST = 4096  # bytes of a passphrase file that are looked at
_RATE = "How you rate"
_KEEP = "Where your answers are kept"
_PAGE = "The page in the browser"
_TERMINAL = "In the terminal"

Ask = Callable[[str], str]


@app.command("rate")
def rate(
    generator: Annotated[
        str, typer.Option(help="What makes the pictures: a name of `plgl generator list`, or a folder.")
    ] = "art",
    prior: Annotated[
        Path | None,
        typer.Option(
            help="Folder with what the crowd likes, to start from; or none. Without it: the newest release of a "
            "federation you are in that your device accepted."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Taste model; `plgl compare` knows them.")] = "default",
    search: Annotated[
        str, typer.Option(help="How the wall is found: gradient, evolution, bayesian, pool, hill-climb, root, ...")
    ] = "gradient",
    seed: Annotated[int | None, typer.Option(help="The same seed and answers show the same pictures.")] = None,
    profile: Annotated[str, typer.Option(help="Who is rating.", rich_help_panel=_RATE)] = "me",
    context: Annotated[str, typer.Option(help="Mood, time or situation, such as evening.", rich_help_panel=_RATE)] = "",
    mode: Annotated[
        str, typer.Option(help="choice (A or B), like, stars, or best (of 4).", rich_help_panel=_RATE)
    ] = "choice",
    store: Annotated[Path | None, typer.Option(help="Encrypted file with your answers.", rich_help_panel=_KEEP)] = None,
    in_memory: Annotated[bool, typer.Option("--in-memory", help="Keep nothing.", rich_help_panel=_KEEP)] = False,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            help=f"File whose first line is the passphrase; or set {PASSPHRASE}. Otherwise the system keyring is used, "
            "or you are asked.",
            rich_help_panel=_KEEP,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="On this machine only; 0 takes a free one.", rich_help_panel=_PAGE)
    ] = 0,
    socket: Annotated[
        Path | None, typer.Option(help="A Unix socket in place of a port.", rich_help_panel=_PAGE)
    ] = None,
    population: Annotated[
        Path | None,
        typer.Option(
            help="What everybody likes, as for `plgl stream`: the wall before your first answer, and where the endless "
            "one begins.",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, open nothing.", rich_help_panel=_PAGE)
    ] = False,
    terminal: Annotated[bool, typer.Option("--terminal", help="Rate here.", rich_help_panel=_TERMINAL)] = False,
    surprise: Annotated[
        float | None,
        typer.Option(help="Of what you may love: 0 safe to 1 surprising.", rich_help_panel=_TERMINAL),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder to write pictures to instead of drawing.", rich_help_panel=_TERMINAL)
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="File with answers, such as: a both skip; - reads them here.", rich_help_panel=_TERMINAL),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object at the end and nothing else.", rich_help_panel=_TERMINAL),
    ] = False,
) -> None:
    """Rate pictures and see what you love: two at a time, one key each.

    Nothing leaves this machine unless you join a federation, and your answers themselves never do. Without options it
    opens a page in your browser. Your answers are kept encrypted; the key is in the system keyring
    or comes from a passphrase.
    """
    from client.bindings import MODES

    asked = next((each for each in MODES if each == mode), None)
    if asked is None:
        raise SettingError(f"mode={mode!r} must be one of {', '.join(MODES)}")
    scripted = {"--surprise": surprise, "--pictures": pictures, "--answers": answers}
    _check(
        terminal,
        {**scripted, "--json": as_json or None},
        {"--port": port or None, "--socket": socket, "--population": population},
        no_browser,
    )
    if in_memory and (store is not None or passphrase_file is not None):
        raise SettingError("--in-memory keeps nothing; leave --store and --passphrase-file out, or --in-memory")
    said = Console(stderr=True, quiet=as_json)
    crowd, starts = starting_point(rateable(generator).hash, prior, model)
    if starts is not None:
        _say(said, starts)
    with _session(
        said, generator, crowd, (model, search), seed, profile, context, (in_memory, store, passphrase_file, as_json)
    ) as session:
        if terminal:
            code = _in_terminal(session, asked, surprise, pictures, answers, as_json, starts)
            raise typer.Exit(code)
        from client.policy.cli import everybody
        from client.web.serve import serve

        page_mode = {"choice": "pair", "like": "swipe"}.get(mode, mode)
        serve(
            session, port=port, socket=socket, open_browser=not no_browser, console=Console(), mode=page_mode,
            population=everybody(said, population, session.pack),
        )  # fmt: skip


def _check(terminal: bool, here: dict[str, Any], page: dict[str, Any], no_browser: bool) -> None:
    """Refuse options that would have no effect."""
    page = {**page, "--no-browser": no_browser or None}
    if idle := [name for name, value in (page if terminal else here).items() if value is not None]:
        if terminal:
            raise SettingError(f"{', '.join(idle)} is for the page in the browser; leave it or --terminal out")
        raise SettingError(f"{', '.join(idle)} is for rating in the terminal; add --terminal")
    if page["--port"] is not None and page["--socket"] is not None:
        raise SettingError("--port and --socket exclude each other; give one")


def rateable(generator: str) -> GeneratorPack:
    """The pack of a name or folder, if people can see or hear what it makes.

    Raises:
        UnknownGenerator, DamagedPack, SignatureError: as `GeneratorPack.open`.
        SettingError: it makes neither pictures nor sounds.
    """
    from client.generators.pack import GeneratorPack

    pack = GeneratorPack.open(generator)
    if (kind := pack.manifest.output.kind) not in ("image", "audio"):
        raise SettingError(f"{pack.name} makes {kind}, and only pictures and sounds can be rated; choose another")
    return pack


def starting_point(pack: str, prior: Path | None, model: str) -> tuple[PopulationPrior | None, str | None]:
    """What the session starts from, and a line about it where the person did not choose it."""
    from common.prior import PopulationPrior

    if prior is not None:
        return (None if str(prior) == NOBODY else PopulationPrior.load(prior)), None
    if model not in _CROWD:
        return None, None
    try:
        release = accepted_release(pack)
    except PlglError as error:  # somebody who only wants to rate is not kept from it
        return None, f"starts from nothing: {error}"
    if release is None:
        return None, None
    people = release.terms.settings.minimum_people
    return release.prior, (
        f"starts from what rounds of {people} people or more taught: release {release.version} of "
        f"{release.terms.name}; --prior {NOBODY} starts from nothing"
    )


def accepted_release(pack: str, root: Path | None = None) -> Release | None:
    """The newest release for a generator that this person's device took up, of all federations they are in.

    Args:
        pack: SHA-256 of the generator pack.
        root: folder of the memberships; None for the usual one.

    Raises:
        EnrolmentError: a membership is damaged.
        StorageError: a release cannot be read.
    """
    from client.membership import memberships

    shelves = [membership.shelf() for membership in memberships(root) if membership.terms.pack == pack]
    found = [release for shelf in shelves if (release := shelf.current()) is not None]
    return max(found, key=lambda release: release.created, default=None)


@contextlib.contextmanager
def _session(
    said: Console,
    generator: str,
    crowd: PopulationPrior | None,
    learner: tuple[str, str],
    seed: int | None,
    profile: str,
    context: str,
    keep: tuple[bool, Path | None, Path | None, bool],
) -> Iterator[Session]:
    """The session; what can go wrong without a passphrase went wrong before one is asked for."""
    from client.generators.ready import usual_cache
    from client.session import Session

    in_memory, store, passphrase_file, as_json = keep
    journal = None
    if not in_memory:
        interactive = sys.stdin.isatty() and not as_json
        given = given_passphrase(passphrase_file)
        journal = open_store(store, given, interactive=interactive, say=lambda line: _say(said, line))
    else:
        _say(said, "nothing is kept: this session is in memory only")
    model, search = learner
    with Session.open(
        generator,
        prior=crowd,
        store=journal,
        profile=profile,
        context=context,
        seed=seed,
        model=model,
        search=search,
        cache=usual_cache(),
    ) as session:
        yield session


def given_passphrase(file: Path | None) -> str | None:
    """The passphrase from a file or from the environment, where it is removed: a browser we start must not see it.

    Raises:
        SettingError: the file is missing or its first line empty.
    """
    kept = os.environ.pop(PASSPHRASE, None)
    if file is None:
        if kept == "":
            raise SettingError(f"{PASSPHRASE} is empty; set it to the passphrase, or unset it")
        return kept
    try:
        with file.open("rb") as opened:
            content = opened.read(_LONGEST)
    except OSError as error:
        raise SettingError(f"cannot read the passphrase from {file}: {error.strerror}; give another file") from error
    try:
        line = content.decode("utf-8-sig").split("\n", 1)[0].rstrip("\r")
    except UnicodeDecodeError as error:
        raise SettingError(f"{file} is not a text file; write the passphrase in its first line") from error
    if not line:
        raise SettingError(f"the first line of {file} is empty; write the passphrase there")
    return line


def open_store(
    path: Path | None,
    passphrase: str | None,
    *,
    interactive: bool,
    say: Callable[[str], None],
    ask: Ask | None = None,
    keyring: KeyringLike | None = None,
) -> Store | None:
    """The store of this person, unlocked by what there is: a given passphrase, the keyring, or a question.

    A newcomer is asked nothing where there is a keyring. Without one, somebody at a terminal may choose a passphrase
    or keep nothing; where nobody can be asked, nothing is kept, and that is said. A store that exists, or was asked
    for by its path, is never left aside in silence.

    Args:
        path: of the store; None for the usual place.
        passphrase: that was given; None for none.
        interactive: whether somebody can be asked.
        say: takes lines for the person.
        ask: takes a prompt, returns what was typed, unseen; ``getpass`` unless told.
        keyring: instead of that of the system.

    Returns:
        The open store, or None to keep nothing.

    Raises:
        WrongKey: the store needs a passphrase, and none that fits was given.
        KeyringError: a store was asked for, there is no keyring, and nobody can be asked.
        StoreError: the store cannot be opened for another reason.
    """
    from client.store import Store, default_path

    place = (default_path() if path is None else path).expanduser()
    ask = _unseen if ask is None else ask
    if passphrase is not None:
        return Store.open(place, passphrase=passphrase, keyring=keyring)
    locked = Store.locked_by(place) if place.exists() else None
    if locked == "passphrase":
        return _unlocked(place, ask if interactive else None, say)
    try:
        opened = Store.open(place, keyring=keyring)
    except KeyringError:
        if locked == "keyring":
            raise
        if not interactive and path is not None:
            raise
    else:
        if locked is None:
            say(f"your answers are kept encrypted in {place}; the key is in your system keyring")
        return opened
    if not interactive:
        say(f"nothing is kept: there is no system keyring and no passphrase; set {PASSPHRASE} to keep your answers")
        return None
    chosen = _chosen(ask, say, place)
    return None if chosen is None else Store.open(place, passphrase=chosen)


def _unseen(prompt: str) -> str:
    from getpass import getpass

    return getpass(prompt)


def _unlocked(place: Path, ask: Ask | None, say: Callable[[str], None]) -> Store:
    """Open a store with a passphrase that is asked for, a few times."""
    from client.store import Store

    if ask is None:
        raise WrongKey(f"{place} is locked by a passphrase; set {PASSPHRASE}, give --passphrase-file, or --in-memory")
    for left in reversed(range(_TRIES)):
        try:
            return Store.open(place, passphrase=ask("passphrase of your answers: "))
        except (WrongKey, SettingError) as error:
            if not left:
                raise WrongKey(f"{place}: {_TRIES} wrong passphrases; try again, or --in-memory to rate") from error
            say(f"that is not it; {left} more {'tries' if left > 1 else 'try'}")
    raise AssertionError("the last try raises")


def _chosen(ask: Ask, say: Callable[[str], None], place: Path) -> str | None:
    """A new passphrase, typed twice; None to keep nothing."""
    say(f"Your answers can be kept in {place}, locked by a passphrase you choose.")
    for _ in range(_TRIES):
        first = ask("new passphrase (Enter alone: keep nothing, this session only): ")
        if not first:
            say("nothing is kept: this session is in memory only")
            return None
        if ask("the same again: ") == first:
            say("kept from now on; without the passphrase nobody can read them, and nobody can help who forgets it")
            return first
        say("those two are different; again")
    raise SettingError(f"{_TRIES} times two different passphrases; try again, or --in-memory to keep nothing")


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)


def _in_terminal(
    session: Session,
    mode: Mode,
    surprise: float | None,
    pictures: Path | None,
    answers: Path | None,
    as_json: bool,
    starts: str | None,
) -> int:
    """Rate here until the person stops; returns the exit code, 3 after Ctrl-C."""
    from client.bindings import MODES
    from client.curator import SURPRISE
    from client.membership import sharing_line
    from client.store import Store
    from client.terminal import Deck

    found = next((each for each in MODES if each == mode), None)
    if found is None:
        raise SettingError(f"mode={mode!r} must be one of {', '.join(MODES)}")
    level = SURPRISE if surprise is None else surprise
    before, interrupted = len(session.history), False
    with contextlib.ExitStack() as opened:
        keys = _keys(answers, as_json, opened)
        display = display_for(session, keys, pictures, as_json, opened)
        deck = Deck(session, keys, display, mode=mode, surprise=level, folder=pictures, sharing=sharing_line())
        try:
            deck.run()
        except KeyboardInterrupt:
            interrupted = True
    kept = session.journal.path if isinstance(session.journal, Store) else None
    if as_json:
        told = _result(session, deck.answered, interrupted, kept, getattr(display, "written", []))
        print(json.dumps({**told, "start": starts}))
    else:
        for line in farewell(session, len(session.history) - before, kept):
            print(line)
    return 3 if interrupted else 0


def _keys(answers: Path | None, as_json: bool, opened: contextlib.ExitStack) -> Keys:
    from client.terminal_keys import Keyboard, Script

    if answers is not None and str(answers) != "-":
        try:
            return Script(opened.enter_context(answers.open(encoding="utf-8")))
        except OSError as error:
            raise SettingError(f"cannot read answers from {answers}: {error.strerror}; give another file") from error
    if answers is not None or as_json or not sys.stdin.isatty():
        return Script(sys.stdin)
    return opened.enter_context(Keyboard())


def display_for(
    session: Session, keys: Keys, pictures: Path | None, as_json: bool, opened: contextlib.ExitStack
) -> Blocks | Sheets:
    """Where pictures are shown: as blocks of colour where a terminal has them, else in files."""
    from client.half_blocks import colour_depth
    from client.terminal_display import Blocks, Sheets

    resizable, sample_rate = session.pack.manifest.resizable, session.pack.manifest.output.sample_rate
    if as_json:
        return Sheets(io.StringIO(), pictures, resizable=resizable, sample_rate=sample_rate)
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    depth = colour_depth(os.environ, sys.stdout.isatty() and unicode)
    if pictures is None and depth is not None and not sample_rate:  # a sound needs a file to be played from
        screen = not keys.scripted
        return opened.enter_context(
            Blocks(sys.stdout, depth, shutil.get_terminal_size, resizable=resizable, screen=screen)
        )
    if pictures is None and not keys.scripted:
        pictures = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="plgl-")))
        why = "a terminal plays no sound" if sample_rate else "this terminal shows no colours"
        print(f"{why}: open the {'sounds' if sample_rate else 'pictures'} in {pictures}; they are removed at the end")
    return Sheets(sys.stdout, pictures, resizable=resizable, sample_rate=sample_rate)


def farewell(session: Session, answered: int, kept: Path | None) -> list[str]:
    """What a person is told at the end: how many answers there are, how well they are guessed, and where they are."""
    from client.terminal import summary

    total = len(session.history)
    said = [f"{answered} answers this time, {total} in all"]
    if total:
        said += summary(session)
    if kept is None:
        return [*said, "nothing is kept: this session was in memory only"]
    return [*said, f"everything you answered is kept, encrypted, in {kept}; go on with the same command"]


def _result(
    session: Session, answered: int, interrupted: bool, kept: Path | None, pictures: list[Path]
) -> dict[str, Any]:
    return {
        "success": True,
        "interrupted": interrupted,
        "answered": answered,
        "explanation": session.explain().to_json(),
        "favourites": [item.id for item in session.favourites],
        "pictures": [str(path) for path in pictures],
        "store": None if kept is None else str(kept),
    }
