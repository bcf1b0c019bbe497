"""One table of keys: what the page does, shows and explains cannot differ."""

import re

import pytest

from client.ratings import Best, Choice, Glance, Like, Stars
from client.web import views
from client.web.modes import COMMANDS, MODES, asked_as, help_table, key_table, mode_named, rating
from common.errors import SettingError

PROMISED: dict[str, dict[str, tuple[str, ...]]] = {
    "pair": {
        "a": ("arrowleft", "a", "1"),
        "b": ("arrowright", "d", "2"),
        "both": ("arrowup",),
        "neither": ("arrowdown",),
    },
    "swipe": {"like": ("arrowright", "l"), "dislike": ("arrowleft", "d")},
    "stars": {str(n): (str(n),) for n in range(1, 6)},
    "best": {str(n): (str(n),) for n in range(1, 5)},
    "worst": {str(n): (str(n),) for n in range(1, 5)},
}
EVERYWHERE = {
    "skip": ("s", " "),
    "undo": ("backspace", "ctrl+z"),
    "redo": ("ctrl+y",),
    "more": ("enter",),
    "favourite": ("f",),
    "help": ("?",),
}


def test_the_keys_are_those_that_were_promised() -> None:
    for name, answers in PROMISED.items():
        table = key_table(mode_named(name))
        for action, keys in {**answers, **EVERYWHERE}.items():
            assert [table[key] for key in keys] == [action] * len(keys)


@pytest.mark.parametrize("mode", MODES.values(), ids=list(MODES))
def test_no_key_means_two_things(mode: object) -> None:
    keys = [key for action in (*mode.answers, *COMMANDS.values()) for key in action.keys]  # type: ignore[attr-defined]
    assert len(keys) == len(set(keys))


def test_the_help_shows_every_key_of_the_table() -> None:
    page = views.render("parts.html") + str(views._TEMPLATES.get_template("parts.html").module.key_list())  # type: ignore[attr-defined]
    listed = re.findall(r"<kbd>(.*?)</kbd>", page)
    wanted = [key for section in help_table() for action in section["actions"] for key in action.shown]
    assert listed == wanted
    assert {"←", "↑", "Space", "⌫", "Ctrl+Z", "Ctrl+Y", "⏎", "F", "?"} <= set(listed)


@pytest.mark.parametrize(
    ("name", "items", "answer", "expected"),
    [
        ("pair", (3, 4), "a", Choice(3, 4, "a")),
        ("pair", (3, 4), "neither", Choice(3, 4, "neither")),
        ("swipe", (3,), "like", Like(3, True)),
        ("swipe", (3,), "dislike", Like(3, False)),
        ("stars", (3,), "5", Stars(3, 5)),
        ("best", (3, 4, 5, 6), "2", Best((3, 4, 5, 6), 1)),
        ("worst", (3, 4, 5, 6), "4", Best((3, 4, 5, 6), 3, worst=True)),
    ],
)
def test_an_answer_means_one_rating_and_back(name: str, items: tuple[int, ...], answer: str, expected: object) -> None:
    found = rating(mode_named(name), items, answer)
    assert found == expected
    assert asked_as(found) == (mode_named(name), answer)


def test_what_nobody_asks_has_no_question() -> None:
    assert asked_as(Glance(0, 1.0)) is None
    assert asked_as(Best(range(8), 1)) is None


def test_an_answer_of_another_mode_is_refused() -> None:
    with pytest.raises(SettingError, match="answer='6' must be one of 1, 2, 3, 4, 5"):
        rating(mode_named("stars"), (0,), "6")
