"""Ways to ask and the keys that answer: one table, from which come the buttons, the key handler and the help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from client.ratings import ANSWERS, Best, Choice, Kind, Like, Rating, Stars
from common.errors import SettingError

_SYMBOLS = {
    "arrowleft": "←",
    "arrowright": "→",
    "arrowup": "↑",
    "arrowdown": "↓",
    "backspace": "⌫",
    "enter": "⏎",
    " ": "Space",
}


@dataclass(frozen=True)
class Action:
    """Something one key does.

    Attributes:
        name: as forms and ``data-action`` attributes say it.
        label: on the button.
        keys: values of ``KeyboardEvent.key`` in lower case, ``ctrl+`` before them where that is held; the button shows
            the first.
        sign: a mark beside the label, so that colour is never the only one.
        about: a sentence for the help, where the label does not say it all.
    """

    name: str
    label: str
    keys: tuple[str, ...]
    sign: str = ""
    about: str = ""

    @property
    def shown(self) -> tuple[str, ...]:
        """The keys as people read them."""
        return tuple(_shown(key) for key in self.keys)


@dataclass(frozen=True)
class Mode:
    """A way to ask.

    Attributes:
        name: as forms say it.
        title: in the menu.
        question: what is asked.
        items: how many pictures.
        answers: what can be said, each with its keys.
    """

    name: str
    title: str
    question: str
    items: int
    answers: tuple[Action, ...]


_STARS = ("no", "hardly", "so-so", "good", "love it")
_FOUR = ("first", "second", "third", "fourth")

MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode(
            "pair",
            "A or B",
            "Which one do you like more?",
            2,
            (
                Action("a", "A", ("arrowleft", "a", "1")),
                Action("b", "B", ("arrowright", "d", "2")),
                Action("both", "Both", ("arrowup",), "✓"),
                Action("neither", "Neither", ("arrowdown",), "✕"),
            ),
        ),
        Mode(
            "swipe",
            "Swipe",
            "Do you like it?",
            1,
            (Action("dislike", "No", ("arrowleft", "d"), "✕"), Action("like", "Like", ("arrowright", "l"), "✓")),
        ),
        Mode(
            "stars",
            "Stars",
            "How much do you like it?",
            1,
            tuple(Action(f"{n}", name, (f"{n}",), "★" * n) for n, name in enumerate(_STARS, start=1)),
        ),
        Mode(
            "best",
            "Best of 4",
            "Which one do you like best?",
            4,
            tuple(Action(f"{n}", f"The {name}", (f"{n}",)) for n, name in enumerate(_FOUR, start=1)),
        ),
        Mode(
            "worst",
            "Worst of 4",
            "Which one do you like least?",
            4,
            tuple(Action(f"{n}", f"The {name}", (f"{n}",)) for n, name in enumerate(_FOUR, start=1)),
        ),
    )
}

COMMANDS: dict[str, Action] = {
    action.name: action
    for action in (
        Action("skip", "Skip", ("s", " "), "", "Not an answer: the pictures may come back later."),
        Action("undo", "Undo", ("backspace", "ctrl+z"), "", "Takes the last answer back and shows its pictures again."),
        Action("redo", "Redo", ("ctrl+y", "ctrl+shift+z"), "", "Gives the answer again that was taken back."),
        Action(
            "more",
            "More like this",
            ("enter",),
            "",
            "Four neighbours of the picture you point at, else of the one in front of you or chosen last.",
        ),
        Action("favourite", "Favourite", ("f",), "♥", "Keeps the picture you point at, else the one chosen last."),
        Action("help", "Keys", ("?",), "", "This list."),
    )
}

_OF_KIND = {
    Kind.LIKE: "swipe",
    Kind.CHOICE: "pair",
    Kind.STARS: "stars",
    Kind.BEST: "best",
    Kind.WORST: "worst",
}


def _shown(key: str) -> str:
    *held, last = key.split("+") if key != "+" else ["+"]
    name = _SYMBOLS.get(last, last.upper())
    return "+".join([*(part.capitalize() for part in held), name])


def mode_named(name: str) -> Mode:
    """A way to ask by its name.

    Raises:
        SettingError: there is none.
    """
    if name not in MODES:
        raise SettingError(f"mode={name[:40]!r} must be one of {', '.join(MODES)}")
    return MODES[name]


def asked_as(rating: Rating) -> tuple[Mode, str] | None:
    """How a rating is asked for here and what was answered; None for what nobody is asked."""
    kind, value, items = rating.row
    mode = MODES[_OF_KIND[kind]] if kind in _OF_KIND else None
    if mode is None or len(items) != mode.items:
        return None
    if kind == Kind.CHOICE:
        return mode, ANSWERS[value]
    if kind == Kind.LIKE:
        return mode, "like" if value else "dislike"
    return mode, f"{value if kind == Kind.STARS else value + 1}"


def rating(mode: Mode, items: tuple[int, ...], answer: str) -> Rating:
    """The rating that an answer means.

    Args:
        mode: how it was asked.
        items: what was shown, in order.
        answer: name of one of the mode's answers.

    Raises:
        SettingError: the mode has no such answer.
    """
    names = [action.name for action in mode.answers]
    if answer not in names:
        raise SettingError(f"answer={answer[:40]!r} must be one of {', '.join(names)}")
    if mode.name == "pair":
        return Choice(items[0], items[1], answer)  # type: ignore[arg-type]
    if mode.name == "swipe":
        return Like(items[0], answer == "like")
    if mode.name == "stars":
        return Stars(items[0], int(answer))
    return Best(items, names.index(answer), worst=mode.name == "worst")


def key_table(mode: Mode) -> dict[str, str]:
    """What each key does while a question of this mode is shown, for the page's key handler."""
    return {key: action.name for action in (*COMMANDS.values(), *mode.answers) for key in action.keys}


def help_table() -> list[dict[str, Any]]:
    """Every key, by section, for people."""
    sections = [{"title": mode.title, "actions": mode.answers} for mode in MODES.values()]
    return [*sections, {"title": "Everywhere", "actions": tuple(COMMANDS.values())}]
