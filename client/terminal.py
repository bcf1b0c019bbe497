"""Rating in a terminal: one key for each answer, pictures as half blocks or in files.

The keys are one table, `client.bindings`; what is said about them is made from it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.bindings import MODES, Binding, Mode, binding, key_help, key_line, words
from client.curator import SURPRISE
from client.explanation import ENOUGH, LAST
from client.items import Item
from client.memory import Rated
from client.ratings import ANSWERS, Answer, Best, Choice, Glance, Like, Rating, Stars
from client.session import Session
from client.terminal_display import Display, Frame, save
from client.terminal_keys import REDRAW, Keys
from common.errors import SettingError

SHOWN = {"choice": 2, "like": 1, "stars": 1, "best": 4}
WALL = 8
_TITLES = {
    "choice": "Which do you like better?",
    "like": "Do you like it?",
    "stars": "How many stars, 1 to 5?",
    "best": "Which of these is the best?",
}


@dataclass(frozen=True)
class Question:
    """Something asked: items and how they are rated."""

    mode: Mode
    items: tuple[Item, ...]
    title: str = ""
    worst: bool = False

    def rating(self, action: str, key: str) -> Rating:
        """The rating that an answer stands for; ``key`` says how many stars, or which one.

        Raises:
            SettingError: there are not that many items.
        """
        if action in ANSWERS:
            answer: Answer = next(each for each in ANSWERS if each == action)
            return Choice(self.items[0], self.items[1], answer)
        if action in ("like", "dislike"):
            return Like(self.items[0], action == "like")
        if action == "stars":
            return Stars(self.items[0], int(key))
        return Best(self.items, int(key) - 1, self.worst)


class Deck:
    """Asks one question after another until the person stops.

    Guarantee: every answer is in the session before the next question is shown, so stopping at any time, Ctrl-C
    included, loses none.

    Attributes:
        answered: answers so far, less those taken back.
    """

    def __init__(
        self,
        session: Session,
        keys: Keys,
        display: Display,
        *,
        mode: Mode = "choice",
        surprise: float = SURPRISE,
        folder: Path | None = None,
        sharing: str = "",
    ) -> None:
        """Rate in a session.

        Args:
            session: where the answers go.
            keys: where they come from.
            display: what shows the pictures.
            mode: the way of rating.
            surprise: of the wall, 0 to 1; see ``Session.recommend``.
            folder: where the wall is saved when asked; None for the current one.
            sharing: what is shared with whom, for the page of keys.

        Raises:
            SettingError: no such way of rating, or surprise outside 0 to 1.
        """
        if mode not in MODES:
            raise SettingError(f"mode={mode!r} must be one of {', '.join(MODES)}")
        if not 0 <= surprise <= 1:
            raise SettingError(f"surprise={surprise} must lie between 0 (safe) and 1 (surprising)")
        self.session, self.keys, self.display = session, keys, display
        self.mode, self.surprise, self._folder, self._sharing = mode, surprise, folder, sharing
        self.answered = 0
        self._questions: list[Question] = []  # the last one is on the screen; below it, those put off by an undo
        self._shown: Question | None = None
        self._said = ""

    def run(self) -> None:
        """Ask until the person quits or a script ends.

        Raises:
            SettingError: a script holds a word that means nothing where it stands.
        """
        while True:
            question = self._question()
            self._show(question)
            key = self.keys.read()
            if key is None:
                return
            found = binding(question.mode, key)
            if found is None or (found.action == "best" and int(key) > len(question.items)):
                self._unknown(question, key)
                continue
            if found.action == "quit":
                return
            self.display.say(f"> {key}")
            self._do(found, key, question)

    def _do(self, found: Binding, key: str, question: Question) -> None:
        if found.modes != MODES:  # the ways to answer are those that not every way of rating has
            self._rate(question, question.rating(found.action, key))
            return
        {
            "skip": self._skip,
            "undo": self._undo,
            "redo": self._redo,
            "favourite": self._favourite,
            "more": self._more,
            "wall": self._wall,
            "history": self._history,
            "help": self._help,
        }[found.action](question)

    def _question(self) -> Question:
        if not self._questions:
            self._questions.append(Question(self.mode, tuple(self.session.propose(SHOWN[self.mode]))))
        return self._questions[-1]

    def _show(self, question: Question) -> None:
        said, self._said = self._said, ""
        if question is self._shown and not self.display.screen:  # it is still to be read above
            if said:
                self.display.say(said)
            return
        keys = key_line(question.mode) if self.display.screen or self._shown is None else ""
        self._shown = question
        self.display.show(
            Frame(
                kind="question",
                title=question.title or _TITLES[question.mode],
                items=question.items,
                captions=self._captions(question),
                across=len(question.items),
                status=progress(self.session),
                notice=said or self.session.notice() or "",
                keys=keys,
            )
        )

    def _captions(self, question: Question) -> list[str]:
        loved = {item.id for item in self.session.favourites}
        names = ["← A", "B →"] if question.mode == "choice" else [str(i + 1) for i in range(len(question.items))]
        if len(question.items) == 1:
            names = [""]
        return [_marked(name, item.id in loved) for name, item in zip(names, question.items, strict=True)]

    def _unknown(self, question: Question, key: str) -> None:
        if self.keys.scripted:
            raise SettingError(f"the answer {key[:20]!r} means nothing here; known: {', '.join(words(question.mode))}")
        if key not in ("", REDRAW, "tab", "escape"):
            self._said = f"{key} does nothing here; ? shows the keys"

    # -- answers

    def _rate(self, question: Question, rating: Rating) -> None:
        self.session.rate(rating, replace=True)
        self.answered += 1
        self._questions.pop()
        if len(self.session.history) == ENOUGH:
            self._said = "press w to see what I think you love"

    def _skip(self, question: Question) -> None:
        self.session.skip(question.items)
        self._questions.pop()

    def _undo(self, question: Question) -> None:
        rating = self.session.undo()
        if rating is None:
            self._said = "there is nothing to take back"
            return
        self.answered -= 1
        self._said = "taken back; answer again, or y to leave it as it was"
        again = self._asked(rating)
        if again is not None:
            self._questions.append(again)

    def _redo(self, question: Question) -> None:
        rating = self.session.redo()
        if rating is None:
            self._said = "there is nothing to give again"
            return
        self.answered += 1
        self._said = "given again"
        again = self._asked(rating)
        if again is not None and [i.id for i in again.items] == [i.id for i in question.items]:
            self._questions.pop()

    def _asked(self, rating: Rating) -> Question | None:
        """The question a rating answered; None for a look, which nobody was asked about."""
        if isinstance(rating, Glance):
            return None
        items = tuple(self.session.item(item) for item in rating.row[2])
        modes: dict[type[Rating], Mode] = {Choice: "choice", Like: "like", Stars: "stars", Best: "best"}
        worst = isinstance(rating, Best) and rating.worst
        return Question(modes[type(rating)], items, "Which of these is the worst?" if worst else "", worst)

    # -- around the answers

    def _which(self, question: Question, what: str) -> Item | None:
        """One item of a question; asked for when there are several. None when another key is pressed."""
        if len(question.items) == 1:
            return question.items[0]
        sides = {"left": 0, "a": 0, "right": 1, "d": 1, "b": 1} if question.mode == "choice" else {}
        sides |= {str(i + 1): i for i in range(len(question.items))}
        key: str | None = REDRAW
        while key == REDRAW:
            if not self.keys.scripted:
                self._said = (
                    f"{what}: which one? {'← or →' if question.mode == 'choice' else f'1 to {len(question.items)}'}"
                )
                self._show(question)
            key = self.keys.read()
        if key in sides:
            return question.items[sides[key]]
        if self.keys.scripted:
            raise SettingError(f"{what!r} needs to know which one; write one of {', '.join(sides)} after it")
        return None

    def _favourite(self, question: Question) -> None:
        item = self._which(question, "favourite")
        if item is not None:
            self._said = self._toggle(item)

    def _toggle(self, item: Item) -> str:
        on = item.id not in {each.id for each in self.session.favourites}
        self.session.favourite(item, on)
        return "now a favourite ♥" if on else "no favourite any more"

    def _more(self, question: Question) -> None:
        item = self._which(question, "more like this")
        if item is not None:
            found = tuple(self.session.more_like(item, 4))
            self._questions.append(Question("best", found, "More like that one: which is the best? s to go on"))

    def _wall(self, question: Question) -> None:
        said = ""
        items = self.session.recommend(WALL, surprise=self.surprise)
        while True:
            self.display.show(self._wall_frame(items, said))
            said, key = "", None if self.keys.scripted else self.keys.read()
            if key in ("+", "-"):
                self.surprise = min(1.0, max(0.0, self.surprise + (0.25 if key == "+" else -0.25)))
                items = self.session.recommend(WALL, surprise=self.surprise)
            elif key == "p":
                said = self._save(items)
            elif key is not None and key.isdigit() and 1 <= int(key) <= len(items):
                said = self._toggle(items[int(key) - 1])
            elif key != REDRAW:
                return

    def _wall_frame(self, items: Sequence[Item], said: str) -> Frame:
        loved = {item.id for item in self.session.favourites}
        answers = len(self.session.history)
        few = "" if answers >= ENOUGH else f"a first guess after {answers} answer{'s' * (answers != 1)}"
        return Frame(
            kind="wall",
            title=f"What I think you love ({_surprise(self.surprise)})",
            items=items,
            captions=[_marked(str(i + 1), item.id in loved) for i, item in enumerate(items)],
            across=4,
            status=few,
            notice=said,
            keys=""
            if self.keys.scripted
            else "1-8 favourite  + - more or less surprising  p save as PNG  other keys: back",
        )

    def _save(self, items: Sequence[Item]) -> str:
        path = (self._folder or Path()) / f"plgl-wall-{items[0].id:06d}.png"
        manifest = self.session.pack.manifest
        sounds = save(path, items, 4, manifest.resizable, manifest.output.sample_rate)
        beside = f" and {len(sounds)} sounds beside it" if sounds else ""
        return f"saved {path}{beside}, readable by anybody who has the file"

    def _history(self, question: Question) -> None:
        rated = self.session.history
        self._page("Your answers, the latest first", [*summary(self.session), "", *map(_line, reversed(rated[-200:]))])

    def _help(self, question: Question) -> None:
        self._page("Keys", [*key_help(question.mode), *([self._sharing] if self._sharing else [])])

    def _page(self, title: str, lines: Sequence[str]) -> None:
        key: str | None = REDRAW
        while key == REDRAW:
            self.display.page(title if self.keys.scripted else f"{title} (any key goes back)", lines)
            key = None if self.keys.scripted else self.keys.read()


def progress(session: Session) -> str:
    """How far a person is, in one line: answers, and how many of the last ones were guessed before they were given."""
    rated = session.history
    if not rated:
        return "no answers yet"
    guesses = [each.foretold for each in rated if each.foretold is not None][-LAST:]
    said = f"{len(rated)} answer{'s' * (len(rated) != 1)}"
    if guesses:
        said += f"; I now guess {sum(guesses)} of your last {len(guesses)}"
    return said


def summary(session: Session) -> list[str]:
    """How well a person is understood: measured accuracy beside that of guessing blindly, and what goes wrong."""
    known = session.explain()
    if known.held_out_accuracy is None:
        return ["not enough answers to say how well I guess", *known.troubles]
    return [
        f"I guessed {known.held_out_accuracy:.0%} of your answers before you gave them; blind guessing: "
        f"{known.chance:.0%}",
        f"next I would ask about {known.next_question}",
        *known.troubles,
    ]


def _line(rated: Rated) -> str:
    said, rating = "", rated.rating
    if isinstance(rating, Choice):
        said = {"a": "the left one", "b": "the right one", "both": "both", "neither": "neither"}[rating.answer]
    elif isinstance(rating, Like):
        said = "liked" if rating.liked else "not liked"
    elif isinstance(rating, Stars):
        said = "*" * rating.stars
    elif isinstance(rating, Best):
        said = f"number {rating.chosen + 1} the {'worst' if rating.worst else 'best'}"
    elif isinstance(rating, Glance):
        said = "skipped" if rating.skipped else f"looked at for {rating.seconds:.0f} s"
    guess = {True: "guessed", False: "not guessed", None: ""}[rated.foretold]
    items = " ".join(str(item) for item in rating.row[2])
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(rated.at))
    return f"{at}  {said:<22} items {items:<18} {guess}".rstrip()


def _marked(name: str, loved: bool) -> str:
    return f"{name} ♥".strip() if loved else name


def _surprise(level: float) -> str:
    return "safe" if level < 0.2 else "a little surprising" if level < 0.6 else "surprising"
