import io
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from client.bindings import BINDINGS, MODES, Mode, binding, key_help, key_line, words
from client.journal import MemoryJournal
from client.ratings import Best, Choice, Like, Rating, Stars
from client.session import Session
from client.terminal import SHOWN, Deck, progress, summary
from client.terminal_display import Blocks, Frame, Sheets
from client.terminal_keys import REDRAW, Keyboard, Script, key_name
from client.web.modes import COMMANDS
from client.web.modes import MODES as PAGE_MODES
from common.errors import SettingError
from tests.client.in_terminal import Terminal

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals here", allow_module_level=True)

import pty
import termios

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "terminal-session.txt"
LEFT, RIGHT, UP, DOWN = b"\x1b[D", b"\x1b[C", b"\x1b[A", b"\x1b[B"


class Screen:
    """Keeps what it is asked to show, as a screen that is drawn anew each time would."""

    screen = True

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.pages: list[tuple[str, Sequence[str]]] = []

    def show(self, frame: Frame) -> None:
        self.frames.append(frame)

    def page(self, title: str, lines: Sequence[str]) -> None:
        self.pages.append((title, lines))

    def say(self, line: str) -> None:
        """Lines do not follow each other here."""


class Pressed:
    """Keys somebody pressed, one after another."""

    scripted = False

    def __init__(self, *keys: str) -> None:
        self._keys = iter(keys)

    def read(self) -> str | None:
        return next(self._keys, None)


@pytest.fixture(scope="module")
def shared() -> Iterator[Session]:
    """A session for tests that rate nothing: opening one takes a moment."""
    with Session.open("art", seed=0) as opened:
        yield opened


@pytest.fixture
def session() -> Iterator[Session]:
    with Session.open("art", seed=0) as opened:
        yield opened


def play(session: Session, keys: str, mode: Mode = "choice", folder: Path | None = None) -> tuple[Deck, Screen]:
    screen = Screen()
    deck = Deck(session, Pressed(*keys.split()), screen, mode=mode, folder=folder)
    deck.run()
    return deck, screen


def said(session: Session) -> list[Rating]:
    return [rated.rating for rated in session.history]


# -- keys


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("\x1b[A", "up"),
        ("\x1bOC", "right"),
        ("\x1b[1;5D", "left"),
        ("\x1bOM", "enter"),
        ("\r", "enter"),
        ("\x7f", "backspace"),
        ("\x08", "backspace"),
        ("\x19", "ctrl+y"),
        ("\x1a", "ctrl+z"),
        ("A", "a"),
        ("?", "?"),
        ("ß", "ß"),
        ("\x1b[15~", ""),
        ("\x1bx", ""),
        ("\x01", ""),
    ],
)
def test_what_a_terminal_sends_has_a_name(sent: str, name: str) -> None:
    assert key_name(sent) == name


def test_a_keyboard_gives_each_key_at_once_and_the_terminal_back_as_it_was() -> None:
    ours, theirs = pty.openpty()
    before, handlers = termios.tcgetattr(theirs), [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGWINCH)]

    def use(keyboard: Keyboard) -> None:
        os.write(ours, LEFT + b"a\x7f\x1a" + "é".encode() + b"\x1b[15~\x1bOB")
        assert [keyboard.read() for _ in range(7)] == ["left", "a", "backspace", "ctrl+z", "é", "", "down"]
        assert not termios.tcgetattr(theirs)[3] & (termios.ECHO | termios.ICANON)
        os.write(ours, b"\x1b")
        assert keyboard.read() == "escape"
        os.kill(os.getpid(), signal.SIGWINCH)
        assert keyboard.read() == REDRAW
        os.kill(os.getpid(), signal.SIGTERM)
        keyboard.read()

    with pytest.raises(SystemExit) as end, Keyboard(theirs) as keyboard:
        use(keyboard)
    assert end.value.code == 128 + signal.SIGTERM
    assert termios.tcgetattr(theirs) == before
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGWINCH)] == handlers
    os.close(ours)
    os.close(theirs)


def test_a_keyboard_that_is_gone_gives_no_more_keys() -> None:
    ours, theirs = pty.openpty()
    keyboard = Keyboard(theirs)
    os.close(ours)
    assert keyboard.read() is None
    os.close(theirs)


def test_a_script_is_words_with_comments() -> None:
    script = Script(io.StringIO("A, both # a comment\n\n# more\n skip\tq"))
    assert [script.read() for _ in range(5)] == ["a", "both", "skip", "q", None]


# -- the table of keys


@pytest.mark.parametrize("mode", MODES)
def test_no_key_means_two_things_and_help_names_everything(mode: Mode) -> None:
    known = words(mode)
    assert len(known) == len(set(known))
    mine = [each for each in BINDINGS if mode in each.modes]
    assert [each.help in line for each, line in zip(mine, key_help(mode), strict=True)] == [True] * len(mine)
    assert all(binding(mode, key) == each for each in mine for key in each.keys)
    assert len(key_line(mode)) < 80


def test_the_keys_are_those_of_the_page() -> None:
    names = {f"arrow{side}": side for side in ("left", "right", "up", "down")} | {" ": "space"}
    pages: dict[Mode, str] = {"choice": "pair", "like": "swipe", "stars": "stars", "best": "best"}
    for mode, page in pages.items():
        for action in (*PAGE_MODES[page].answers, *COMMANDS.values()):
            for key in action.keys:
                if key == "ctrl+shift+z":  # a terminal cannot tell it from Ctrl+Z
                    continue
                found = binding(mode, names.get(key, key))
                assert found is not None, (mode, key)
                assert found.action == (mode if action.name.isdigit() else action.name)


# -- a session


def test_every_answer_is_learned_as_it_was_given(session: Session) -> None:
    deck, _ = play(session, "left right up down 1 d s q left")
    assert [rating.answer for rating in said(session) if isinstance(rating, Choice)] == [
        *("a", "b", "both", "neither", "a", "b")
    ]
    assert deck.answered == 6


@pytest.mark.parametrize(
    ("mode", "keys", "expected"),
    [
        ("like", "right left l d", [Like(0, True), Like(1, False), Like(2, True), Like(3, False)]),
        ("stars", "1 5 6 3", [Stars(0, 1), Stars(1, 5), Stars(2, 3)]),
        ("best", "4 5 1", [Best((0, 1, 2, 3), 3), Best((4, 5, 6, 7), 0)]),
    ],
)
def test_other_ways_of_rating_have_their_own_keys(
    session: Session, mode: Mode, keys: str, expected: list[Rating]
) -> None:
    _, screen = play(session, keys, mode)
    assert said(session) == expected
    assert {len(frame.items) for frame in screen.frames} == {SHOWN[mode]}


def test_undo_asks_the_same_again_and_redo_leaves_it_as_it_was(session: Session) -> None:
    _, screen = play(session, "left right up backspace backspace ctrl+y z q")
    shown = [[item.id for item in frame.items] for frame in screen.frames]
    assert shown[:4] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert shown[4:] == [[4, 5], [2, 3], [4, 5], [2, 3]]
    assert said(session) == [Choice(0, 1, "a")]


def test_an_answer_after_undo_replaces_the_one_taken_back(session: Session) -> None:
    deck, screen = play(session, "left left left backspace backspace right down")
    assert said(session) == [Choice(0, 1, "a"), Choice(2, 3, "b"), Choice(4, 5, "neither")]
    assert [item.id for item in screen.frames[-1].items] == [6, 7]
    assert deck.answered == 3


def test_undo_goes_twenty_deep_and_says_when_there_is_no_more(session: Session) -> None:
    _, screen = play(session, "left " * 20 + "backspace " * 21)
    assert said(session) == []
    assert "nothing to take back" in screen.frames[-1].notice
    assert [item.id for item in screen.frames[-1].items] == [0, 1]


def test_undo_reaches_answers_of_an_earlier_time_in_another_way_of_rating() -> None:
    journal = MemoryJournal()
    play(Session.open("art", seed=0, store=journal), "2 5", "stars")
    again = Session.open("art", seed=0, store=journal)
    _, screen = play(again, "backspace 4")
    assert "stars" in screen.frames[1].title
    assert said(again) == [Stars(0, 2), Stars(1, 4)]


def test_a_skip_is_no_rating_and_asks_something_else(session: Session) -> None:
    deck, screen = play(session, "s space")
    assert said(session) == []
    assert deck.answered == 0
    assert len({frame.items[0].id for frame in screen.frames}) == 3


def test_favourites_are_marked_and_taken_away(session: Session) -> None:
    _, screen = play(session, "f right f left f right f x")
    assert [item.id for item in session.favourites] == [0]
    captions = list(dict.fromkeys(tuple(frame.captions) for frame in screen.frames))
    assert captions == [("← A", "B →"), ("← A", "B → ♥"), ("← A ♥", "B → ♥"), ("← A ♥", "B →")]
    assert said(session) == []


def test_more_like_this_asks_about_four_neighbours_then_goes_on(session: Session) -> None:
    _, screen = play(session, "enter left 3")
    neighbours = screen.frames[2]
    assert [item.id for item in neighbours.items] == [2, 3, 4, 5]
    assert said(session) == [Best((2, 3, 4, 5), 2)]
    assert screen.frames[-1].items[0].id == 0


def test_after_three_neither_it_says_that_it_looks_elsewhere(session: Session) -> None:
    _, screen = play(session, "down down down left")
    assert [("somewhere else" in frame.notice) for frame in screen.frames] == [False, False, False, True, False]


def test_progress_counts_guesses_that_were_made_before_the_answer(session: Session) -> None:
    assert progress(session) == "no answers yet"
    _, screen = play(session, "left left right up " * 4)
    right, asked = session.explain().guessed_of_last
    assert screen.frames[-1].status == f"16 answers; I now guess {right} of your last {asked}"
    assert asked == 10
    assert screen.frames[1].status == "1 answer"


def test_after_twenty_answers_it_offers_what_the_person_loves(session: Session) -> None:
    _, screen = play(session, "left " * 20)
    assert [i for i, frame in enumerate(screen.frames) if "press w" in frame.notice] == [20]


def test_the_wall_is_made_again_saved_and_takes_favourites(session: Session, tmp_path: Path) -> None:
    deck, screen = play(session, "left right w + + + 2 p redraw x left", folder=tmp_path)
    walls = [frame for frame in screen.frames if frame.kind == "wall"]
    assert [len(frame.items) for frame in walls] == [8] * 7
    assert "safe" not in walls[0].title
    assert deck.surprise == 1.0
    assert walls[-2].captions[1] == "2 ♥"
    [saved] = tmp_path.glob("plgl-wall-*.png")
    assert saved.read_bytes().startswith(b"\x89PNG")
    assert str(saved) in walls[-2].notice
    assert len(said(session)) == 3  # no key of the wall was taken for an answer; the one after it was


def test_history_and_help_are_pages_any_key_leaves(session: Session) -> None:
    _, screen = play(session, "left up h right ? left q")
    (first, history), (second, help) = screen.pages
    assert "any key" in first
    assert "any key" in second
    assert "the left one" in history[-1]
    assert "both" in history[-2]
    assert list(help) == key_help("choice")
    assert len(said(session)) == 2


def test_the_summary_says_what_was_measured(session: Session) -> None:
    assert "not enough" in summary(session)[0]
    play(session, "left " * 6)
    known = session.explain()
    assert known.held_out_accuracy is not None
    assert f"{known.held_out_accuracy:.0%}" in summary(session)[0]
    assert f"{known.chance:.0%}" in summary(session)[0]


def test_a_key_without_meaning_changes_nothing_and_says_so(session: Session) -> None:
    _, screen = play(session, "x escape")
    assert said(session) == []
    assert "x does nothing" in screen.frames[1].notice
    assert len({frame.items[0].id for frame in screen.frames}) == 1


@pytest.mark.parametrize("text", ["sideways b", "f both", "more skip", "f"])
def test_a_script_with_a_word_that_means_nothing_ends_with_the_words_there_are(shared: Session, text: str) -> None:
    with pytest.raises(SettingError, match=r"known:|write one of"):
        Deck(shared, Script(io.StringIO(text)), Sheets(io.StringIO(), None, resizable=True)).run()


@pytest.mark.parametrize("surprise", [-0.1, 1.1])
def test_surprise_outside_its_range_is_refused(shared: Session, surprise: float) -> None:
    with pytest.raises(SettingError, match="surprise"):
        Deck(shared, Pressed(), Screen(), surprise=surprise)


# -- displays


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (50, 60), (100, 12)])
@pytest.mark.parametrize(("shown", "across"), [(1, 1), (2, 2), (4, 4), (8, 4)])
def test_a_frame_fills_the_window_and_never_leaves_it(
    shared: Session, size: tuple[int, int], shown: int, across: int
) -> None:
    out = io.StringIO()
    display = Blocks(out, "24-bit", lambda: os.terminal_size(size), resizable=True)
    items = shared.propose(shown)
    names = [str(i) for i in range(shown)]
    display.show(
        Frame(
            kind="question", title="title", items=items, captions=names, across=across, notice="notice", keys="keys",
            status="status",
        )
    )  # fmt: skip
    lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", out.getvalue()).splitlines()
    assert len(lines) < size[1]
    widest = max(map(len, lines))
    assert widest <= size[0]
    drawn = sum("▀" in line for line in lines)
    rows = -(-shown // across)
    assert widest > 0.9 * size[0] - 3 * across or drawn > 0.9 * (size[1] - 4 - rows) - 2 * rows
    assert all(word in "\n".join(lines) for word in ("title", "status", "notice", "keys", *names))


def test_a_generator_of_one_size_is_drawn_from_its_own_pictures(shared: Session) -> None:
    out = io.StringIO()
    item = shared.propose(1)
    frame = Frame(kind="question", title="t", items=item, captions=[""], across=1)
    Blocks(out, "256", lambda: os.terminal_size((60, 30)), resizable=False, screen=False).show(frame)
    assert out.getvalue().count("▀") == 26 * 52


def test_files_hold_the_pictures_side_by_side(shared: Session, tmp_path: Path) -> None:
    from PIL import Image

    out, items = io.StringIO(), shared.propose(2)
    sheets = Sheets(out, tmp_path / "new" / "folder", resizable=True)
    sheets.show(Frame(kind="question", title="Which?", items=items, captions=["← A", "B →"], across=2))
    [path] = sheets.written
    assert f"{path}: ← A | B →" in out.getvalue()
    with Image.open(path) as image:
        assert image.size == (2 * 256 + 3 * 4, 256 + 2 * 4)
        left = image.convert("RGB").getpixel((4 + 128, 4 + 128))
    middle = (items[0].picture(256)[:, 128, 128] + 1) * 127.5
    assert left == tuple(middle.round().int().tolist())


def test_a_session_says_word_for_word_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete the file to have it written anew. How many guesses are right is left out: models may get better."""
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    answers = "a b both neither skip f 1 undo both redo neither neither neither more b 3 ? wall quit a"
    with Session.open("art", seed=7) as session:
        Deck(session, Script(io.StringIO(answers)), Sheets(out, Path("pictures"), resizable=True)).run()
        assert len(session.history) == 8
    told = re.sub(r"I now guess \d+ of your last (\d+)", r"I now guess so many of your last \1", out.getvalue())
    if not GOLDEN.exists():
        GOLDEN.write_text(told, "utf-8", newline="\n")
        pytest.fail(f"{GOLDEN} was missing and is written anew")
    assert told == GOLDEN.read_text("utf-8")
    assert {str(path) for path in Path("pictures").iterdir()} == set(re.findall(r"pictures/[a-z0-9-]+\.png", told))


# -- as a person would, in a real terminal

RATE = ("rate", "client.rate_cli:app", "--terminal", "--seed", "1")


def test_somebody_rates_with_one_hand_and_leaves_a_clean_window(tmp_path: Path) -> None:
    with Terminal(*RATE, "--in-memory", home=tmp_path) as terminal:
        terminal.wait_for("no answers yet")
        terminal.press(LEFT)
        terminal.wait_for("1 answer")
        terminal.press(b"d")
        terminal.wait_for("2 answers")
        terminal.press(b"\x7f")
        terminal.wait_for("taken back")
        terminal.press(b"\x19")
        terminal.wait_for("given again")
        terminal.resize(40, 120)
        terminal.wait_for("Which do you like better?")
        terminal.press(b"q")
        assert terminal.end() == 0
        assert terminal.seen.count("\x1b[?1049h") == 1
        assert "▀" not in terminal.after
        assert "2 answers this time" in terminal.after
        assert "nothing is kept" in terminal.after
        assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l")


def test_a_newcomer_chooses_a_passphrase_and_ctrl_c_keeps_every_answer(tmp_path: Path) -> None:
    from client.store import Store

    path = tmp_path / "mine" / "ratings.plgl"
    with Terminal(*RATE, "--store", str(path), home=tmp_path) as terminal:
        terminal.wait_for("Enter alone: keep nothing")
        terminal.press(b"correct horse\n")
        terminal.wait_for("the same again")
        terminal.press(b"correct horse\n")
        terminal.wait_for("no answers yet")
        for count, key in enumerate((LEFT, RIGHT, UP), 1):
            terminal.press(key)
            terminal.wait_for(f"{count} answer")
        terminal.press(b"\x03")
        assert terminal.end() == 3
        assert "3 answers this time" in terminal.after
        assert f"is kept, encrypted, in {path}" in " ".join(terminal.after.split())
        assert "correct horse" not in terminal.seen
        with Session.open("art", store=Store.open(path, passphrase="correct horse")) as session:
            assert [rating.answer for rating in said(session) if isinstance(rating, Choice)] == ["a", "b", "both"]


def test_a_terminal_without_colours_gets_files_that_are_removed_at_the_end(tmp_path: Path) -> None:
    with Terminal(
        *RATE, "--in-memory", home=tmp_path, environment={"NO_COLOR": "1", "TMPDIR": str(tmp_path)}
    ) as terminal:
        terminal.wait_for("no answers yet")
        [folder] = tmp_path.glob("plgl-*")
        assert folder.stat().st_mode & 0o077 == 0
        assert len(list(folder.glob("question-*.png"))) == 1
        terminal.press(LEFT)
        terminal.wait_for("1 answer")
        terminal.press(b"q")
        assert terminal.end() == 0
        assert "\x1b" not in terminal.seen
        assert not folder.exists()
