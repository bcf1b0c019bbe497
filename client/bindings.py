"""The keys of a rating session, as one table: what acts on them and what is said about them come from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["choice", "like", "stars", "best"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Binding:
    """What some keys do.

    Attributes:
        action: what is done.
        keys: names of keys, and words that only a script uses.
        label: the keys as people read them.
        help: what is done, as people read it.
        short: the same in a word or two, for the line below the pictures; empty to leave it out.
        modes: ways of rating it belongs to.
    """

    action: str
    keys: tuple[str, ...]
    label: str
    help: str
    short: str = ""
    modes: tuple[Mode, ...] = MODES


BINDINGS = (
    Binding("a", ("left", "a", "1"), "← a 1", "the left one", "", ("choice",)),
    Binding("b", ("right", "d", "2", "b"), "→ d 2", "the right one", "← → choose", ("choice",)),
    Binding("both", ("up", "both"), "↑", "both are good", "↑ both", ("choice",)),
    Binding("neither", ("down", "neither"), "↓", "neither is good", "↓ neither", ("choice",)),
    Binding("like", ("right", "up", "l", "like"), "→ ↑ l", "I like it", "→ like", ("like",)),
    Binding("dislike", ("left", "down", "d", "dislike"), "← ↓ d", "I do not like it", "← dislike", ("like",)),
    Binding("stars", ("1", "2", "3", "4", "5"), "1 to 5", "that many stars", "1-5 stars", ("stars",)),
    Binding("best", ("1", "2", "3", "4"), "1 to 4", "that one is the best", "1-4 the best", ("best",)),
    Binding("skip", ("s", "space", "skip"), "s space", "no answer; they may come back", "s skip"),
    Binding("undo", ("backspace", "ctrl+z", "z", "undo"), "Backspace z", "take the last answer back", "⌫ undo"),
    Binding("redo", ("ctrl+y", "y", "redo"), "Ctrl+Y y", "give it again after all"),
    Binding("favourite", ("f", "favourite"), "f", "add to the favourites, or take away", "f ♥"),
    Binding("more", ("enter", "more"), "Enter", "more like this"),
    Binding("wall", ("w", "wall"), "w", "what I think you love", "w wall"),
    Binding("history", ("h", "history"), "h", "your answers, and how well I guess them"),
    Binding("help", ("?", "help"), "?", "these keys", "? more keys"),
    Binding("quit", ("q", "quit", "ctrl+c"), "q Ctrl+C", "stop", "q quit"),
)


def binding(mode: Mode, key: str) -> Binding | None:
    """What a key does in a way of rating."""
    return next((each for each in BINDINGS if mode in each.modes and key in each.keys), None)


def key_help(mode: Mode) -> list[str]:
    """One line for each thing that can be done."""
    return [f"{each.label:<13}{each.help}" for each in BINDINGS if mode in each.modes]


def key_line(mode: Mode) -> str:
    """The keys that matter most, for one line; the spaces inside an entry do not break."""
    return "  ".join(each.short.replace(" ", "\xa0") for each in BINDINGS if mode in each.modes and each.short)


def words(mode: Mode) -> list[str]:
    """All keys and words that mean something, in the order of the table."""
    return [key for each in BINDINGS if mode in each.modes for key in each.keys]
