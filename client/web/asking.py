"""Questions and answers: the rating page itself, and what its buttons do.

Every action is a form. With htmx only the deck is exchanged; without JavaScript the browser is sent back to the page.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Header, Request, Response
from starlette.responses import HTMLResponse, RedirectResponse

from client.web import views
from client.web.deck import Deck
from common.errors import ItemError, PlglError

PREPARING = 3.0  # seconds a browser waits for the next pictures before it asks again
_NAME = re.compile(r"(\d{1,9})-([0-9a-f]{12})")

router = APIRouter()


def deck_of(request: Request) -> Deck:
    """The deck of the application."""
    deck: Deck = request.app.state.deck
    return deck


Table = Annotated[Deck, Depends(deck_of)]
Key = Annotated[str, Form(max_length=64)]
Seconds = Annotated[str, Form(max_length=32)]
Htmx = Annotated[str | None, Header(alias="HX-Request")]
Back = Annotated[str, Form(max_length=200)]


def item_named(deck: Deck, name: str) -> int:
    """Number of the item that a form or an address names.

    Raises:
        ItemError: there is no such item, or it belongs to another person.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ItemError(f"item {name[:40]!r} was never shown; load the page again")
    return deck.find(int(match[1]), match[2]).id


def sentence(error: Exception) -> str:
    """A message of this project as a sentence."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def seconds_looked(text: str) -> float | None:
    """A number of seconds as the page's script sends it; None for anything else."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e6 else None


def _stage(deck: Deck, htmx: str | None, act: Callable[[], object]) -> Response:
    """Do something to the deck and show it."""
    if htmx is None:
        act()
        return RedirectResponse("/", 303)
    try:
        act()
    except PlglError as error:
        deck.say(sentence(error))
    try:
        content = views.render("deck.html", **views.stage(deck), message=deck.message(), alone=True)
    except PlglError as error:
        content = views.render("trouble.html", text=sentence(error))
    return HTMLResponse(content)


@router.get("/")
def rate(deck: Table) -> HTMLResponse:
    """The question on the screen."""
    return HTMLResponse(views.page(deck, "rate.html", "/", **views.stage(deck), alone=False))


@router.get("/ahead")
def prepared(deck: Table) -> HTMLResponse:
    """The next pictures as soon as they are ready, for the browser to load."""
    deck.wait_ahead(PREPARING)
    return HTMLResponse(views.render("ahead.html", **views.ahead(deck), waiting=not deck.ready, alone=True))


@router.post("/answer")
def answer(deck: Table, question: Key, answer: Key, seconds: Seconds = "", htmx: Htmx = None) -> Response:
    """Answer the question."""
    return _stage(deck, htmx, lambda: deck.answer(question, answer, seconds_looked(seconds)))


@router.post("/skip")
def skip(deck: Table, question: Key, seconds: Seconds = "", htmx: Htmx = None) -> Response:
    """Leave the question."""
    return _stage(deck, htmx, lambda: deck.skip(question, seconds_looked(seconds)))


@router.post("/undo")
def undo(deck: Table, htmx: Htmx = None) -> Response:
    """Take the last answer back."""
    return _stage(deck, htmx, lambda: deck.undo())


@router.post("/redo")
def redo(deck: Table, htmx: Htmx = None) -> Response:
    """Give the last answer again."""
    return _stage(deck, htmx, lambda: deck.redo())


@router.post("/more")
def more(deck: Table, item: Key, htmx: Htmx = None) -> Response:
    """Ask about the neighbours of a picture."""
    return _stage(deck, htmx, lambda: deck.more_like(item_named(deck, item)))


@router.post("/mode")
def mode(deck: Table, mode: Key, htmx: Htmx = None) -> Response:
    """Ask in another way."""
    return _stage(deck, htmx, lambda: deck.choose_mode(mode))


@router.post("/favourite")
def favourite(deck: Table, item: Key, htmx: Htmx = None, back: Back = "/") -> Response:
    """Keep a picture."""
    return _keep(deck, item, True, htmx, back)


@router.post("/unfavourite")
def unfavourite(deck: Table, item: Key, htmx: Htmx = None, back: Back = "/") -> Response:
    """Do not keep a picture any more."""
    return _keep(deck, item, False, htmx, back)


def _keep(deck: Deck, item: str, on: bool, htmx: str | None, back: str) -> Response:
    def act() -> None:
        deck.favourite(item_named(deck, item), on)

    if htmx is None and back != "/":
        act()
        return RedirectResponse(own_path(back), 303)
    return _stage(deck, htmx, act)


def own_path(back: str) -> str:
    """An address of this page to go back to; the start page instead of anything else."""
    return back if re.fullmatch(r"/(?:[a-z0-9-]+(?:/[a-z0-9-]+)?)?", back) else "/"
