"""What the pages show, from what the deck knows: plain values for the templates, and nothing they would have to think
about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from client.curator import SURPRISE
from client.items import Item
from client.memory import Rated
from client.ratings import Glance
from client.web.deck import Deck, Wall
from client.web.modes import COMMANDS, MODES, asked_as, help_table, key_table
from client.web.pictures import SAVED, SIZES, tag
from client.web.question import Answered, Question

GOAL = 40  # answers after which most tastes are known well; measured on invented people
PER_PAGE = 24
ON_THE_MAP = 120
PAGES = (
    ("/", "Rate", "cards"),
    ("/wall", "For you", "spark"),
    ("/favourites", "Favourites", "heart"),
    ("/history", "History", "clock"),
    ("/map", "Map", "map"),
    ("/settings", "Settings", "dial"),
)
_HERE = Path(__file__).parent
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals.update(pages=PAGES, modes=MODES, commands=COMMANDS, keys=help_table(), sizes=SIZES)


def render(template: str, **values: Any) -> str:
    """A template with values."""
    return _TEMPLATES.get_template(template).render(**values)


def page(deck: Deck, template: str, path: str, **values: Any) -> str:
    """A whole page, with what every page shows."""
    common = {
        "path": path,
        "profile": deck.session.profile,
        "context": deck.session.context,
        "noticing": deck.noticing,
        "message": deck.message(),
    }
    return render(template, **{**common, **values})


def name(item: Item) -> str:
    """What pages and forms call an item."""
    return f"{item.id}-{tag(item.latent)}"


def stage(deck: Deck) -> dict[str, Any]:
    """The question on the screen and everything around it."""
    question = deck.current()
    with deck.lock:
        favourites = {item.id for item in deck.session.favourites}
        last = deck.last
        return {
            "question": question,
            "pictures": _pictures(deck, question, favourites),
            "sentence": _sentence(question),
            "last": None if last is None else _last(deck, last, favourites),
            "can_undo": last is not None or bool(deck.session.history),
            "can_redo": deck.can_redo,
            "chosen_mode": deck.mode.name,
            "behind": deck.behind,
            "key_table": key_table(question.mode),
            "noticing": deck.noticing,
            **ahead(deck),
        }


def ahead(deck: Deck) -> dict[str, Any]:
    """Pictures to load before they are needed, and how far the session has come."""
    with deck.lock:
        return {
            "ahead": [picture for question in deck.ahead for picture in _pictures(deck, question, set())],
            "progress": progress(deck),
        }


def progress(deck: Deck) -> dict[str, str]:
    """How many answers there are and how well they are guessed, in words."""
    answers = sum(not isinstance(rated.rating, Glance) for rated in deck.session.history)
    told = deck.explanation
    guessed = ""
    if told is not None and told.guessed_of_last[1]:
        right, asked = told.guessed_of_last
        guessed = f"I now guess {right} of your last {asked}" if asked > 1 else ""
    count = f"{answers} of about {GOAL}" if answers < GOAL else f"{answers} answers"
    return {"count": count, "guessed": guessed, "hint": _hint(answers, told.guessed_of_last if told else (0, 0))}


def _hint(answers: int, guessed: tuple[int, int]) -> str:
    return "A good moment to look at what I found for you." if answers >= 20 and guessed[0] >= 8 else ""


def _sentence(question: Question) -> str:
    if question.origin is not None:
        return f"More like item {question.origin}. Which one do you like best?"
    return question.mode.question


def _pictures(deck: Deck, question: Question, favourites: set[int]) -> list[dict[str, Any]]:
    answers = question.mode.answers if len(question.items) > 1 else (None,)
    sound = deck.pictures.sample_rate > 0
    word = "Sound" if sound else "Picture"
    return [
        {
            "name": picture,
            "item": item,
            "answer": answer,
            "alt": f"{word} {answer.name.upper()}, item {item}" if answer else f"{word}, item {item}",
            "favourite": item in favourites,
            "sound": sound,
        }
        for item, picture, answer in zip(question.items, question.pictures, answers, strict=False)
    ]


def _last(deck: Deck, last: Answered, favourites: set[int]) -> dict[str, Any]:
    chosen = last.chosen
    names = dict(zip(last.question.items, last.question.pictures, strict=True))
    guessed = {None: "", True: "I had guessed that.", False: "I had not guessed that."}[last.foretold]
    return {
        "said": _said(last),
        "guessed": guessed,
        "foretold": last.foretold,
        "name": names.get(chosen) if chosen is not None else None,
        "item": chosen,
        "favourite": chosen in favourites,
    }


def _said(last: Answered) -> str:
    if last.answer is None:
        return "Skipped."
    mode, answer = last.question.mode, last.answer
    action = next(action for action in mode.answers if action.name == answer)
    words = {"a": "You chose A.", "b": "You chose B.", "both": "Both are good.", "neither": "Neither.",
             "like": "You like it.", "dislike": "You do not like it."}  # fmt: skip
    if mode.name == "stars":
        return f"You gave {answer} of 5 stars."
    return words.get(answer) or f"{action.label} was the {'worst' if mode.name == 'worst' else 'best'}."


def tiles(deck: Deck, items: Sequence[Item], chances: Sequence[float | None] | None = None) -> list[dict[str, Any]]:
    """Items of a wall."""
    favourites = {item.id for item in deck.session.favourites}
    guesses = chances if chances is not None else [None] * len(items)
    return [
        {
            "name": name(item),
            "item": item.id,
            "favourite": item.id in favourites,
            "sound": deck.pictures.sample_rate > 0,
            "chance": None if guess is None else f"{100 * guess:.0f} %",
        }
        for item, guess in zip(items, guesses, strict=True)
    ]


def wall(deck: Deck, made: Wall | None) -> dict[str, Any]:
    """The wall, where there is one."""
    answers = len(deck.session.history)
    return {
        "wall": made,
        "tiles": [] if made is None else tiles(deck, made.items, made.chances),
        "surprise": SURPRISE if made is None else made.surprise,
        "newer": 0 if made is None else answers - made.answers,
        "learning": deck.endless.progress,
        "crowd": deck.known and answers == 0,
        "goes_on": answers > 0 or deck.endless.population is not None,
    }


def history(deck: Deck, number: int) -> dict[str, Any]:
    """One page of the history, newest first."""
    rated = deck.session.history[::-1]
    last = max(1, -(-len(rated) // PER_PAGE))
    number = min(max(number, 1), last)
    rows = [_row(deck, entry) for entry in rated[(number - 1) * PER_PAGE : number * PER_PAGE]]
    return {"rows": rows, "number": number, "last_page": last, "total": len(rated)}


def _row(deck: Deck, entry: Rated) -> dict[str, Any]:
    items = [deck.session.item(id) for id in entry.rating.row[2]]
    return {
        "event": entry.event,
        "said": said(entry),
        "pictures": [
            {"name": name(item), "item": item.id, "chosen": place == _chosen(entry)} for place, item in enumerate(items)
        ],
        "at": entry.at,
        "when": datetime.fromtimestamp(entry.at).strftime("%d %b %Y, %H:%M"),
        "context": entry.context,
        "foretold": entry.foretold,
    }


def _chosen(entry: Rated) -> int | None:
    asked = asked_as(entry.rating)
    if asked is None or len(entry.rating.row[2]) == 1:
        return None
    names = [action.name for action in asked[0].answers]
    place = names.index(asked[1])
    return place if place < asked[0].items else None


def said(entry: Rated) -> str:
    """A rating in words."""
    rating = entry.rating
    if isinstance(rating, Glance):
        return "skipped (noticed)" if rating.skipped else f"looked for {rating.seconds:.0f} s (noticed)"
    asked = asked_as(rating)
    if asked is None:
        return rating.row[0].name.lower()
    mode, answer = asked
    words = {"a": "A rather than B", "b": "B rather than A", "both": "both good", "neither": "neither",
             "like": "liked", "dislike": "not liked"}  # fmt: skip
    if mode.name == "stars":
        return "★" * int(answer) + "☆" * (5 - int(answer))
    return words.get(answer) or f"the {mode.name} of {mode.items} is number {answer}"


def taste_map(deck: Deck) -> list[dict[str, Any]]:
    """Rated items with their place in a drawing of 1000 by 700; the better the guess, the larger, and drawn last."""
    rows = deck.session.map()[-ON_THE_MAP:]
    order = sorted(range(len(rows)), key=lambda row: rows[row][3])
    found = []
    for rank, row in enumerate(order):
        item, x, y, _ = rows[row]
        side = 44 + 52 * rank / max(1, len(rows) - 1)
        place = {"x": f"{x * (1000 - side):.1f}", "y": f"{y * (700 - side):.1f}", "side": f"{side:.1f}"}
        found.append({"name": name(item), "item": item.id, **place})
    return found


def item(deck: Deck, number: int) -> dict[str, Any]:
    """One picture; the guess about it is told only once it was rated, or made for the person."""
    found = deck.session.item(number)
    mine = [entry for entry in deck.session.history if number in entry.rating.row[2]]
    walled = deck.wall is not None and number in {made.id for made in deck.wall.items}
    chance = deck.session.predict([found])[0].sigmoid().item() if mine or walled else None
    return {
        "name": name(found),
        "item": number,
        "favourite": number in {kept.id for kept in deck.session.favourites},
        "said": [said(entry) for entry in mine],
        "chance": None if chance is None else f"{100 * chance:.0f} %",
        "pack": f"{deck.session.pack.name} {deck.session.pack.version}",
        "large": deck.session.pack.manifest.resizable,
        "sound": deck.pictures.sample_rate > 0,
        "side": SAVED if deck.session.pack.manifest.resizable else deck.session.pack.manifest.height,
    }


def settings(deck: Deck) -> dict[str, Any]:
    """Who is rating and what the session knows."""
    told = deck.session.explain()
    return {
        "profiles": deck.session.profiles(),
        "contexts": [context for context in deck.session.contexts() if context],
        "told": told,
        "accuracy": None if told.held_out_accuracy is None else f"{100 * told.held_out_accuracy:.0f} %",
        "chance": f"{100 * told.chance:.0f} %",
        "certainty": f"{100 * told.certainty:.0f} %",
        "pack": f"{deck.session.pack.name} {deck.session.pack.version}",
        "glances": told.by_kind.get("glance", 0),
    }
