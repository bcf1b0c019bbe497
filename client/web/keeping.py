"""What is the person's own: who they are, what is noticed, what they take with them, what is deleted."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Response
from starlette.responses import HTMLResponse, RedirectResponse

from client.web import exports, views
from client.web.asking import Table, item_named
from common.errors import SettingError

WORD = "delete"  # to type before everything is
LONGEST_NAME = 40

router = APIRouter()
Words = Annotated[str, Form(max_length=200)]


@router.get("/settings")
def settings(deck: Table) -> HTMLResponse:
    """Who is rating, what is known, and what can be done about it."""
    with deck.lock:
        return HTMLResponse(views.page(deck, "settings.html", "/settings", **views.settings(deck), word=WORD))


@router.post("/settings/person")
def person(deck: Table, profile: Words, context: Words = "") -> RedirectResponse:
    """Change who is rating, or the situation."""
    name, situation = _words(profile, "profile"), _words(context, "context")
    if not name:
        raise SettingError("profile='' must not be empty; type a name")
    deck.use(name, situation)
    deck.say(f"Now rating: {name}{f', {situation}' if situation else ''}.")
    return RedirectResponse("/settings", 303)


@router.post("/settings/noticing")
def noticing(deck: Table, on: Annotated[Literal["yes", "no"], Form()]) -> RedirectResponse:
    """Whether how long somebody looks counts a little."""
    deck.noticing = on == "yes"
    return RedirectResponse("/settings", 303)


@router.get("/export.json")
def export_json(deck: Table, noticed: bool = False) -> Response:
    """Everything about this person as JSON."""
    with deck.lock:
        content = exports.as_json(deck.session, noticed=noticed)
    return _file(content, "application/json", "plgl-ratings.json")


@router.get("/export.csv")
def export_csv(deck: Table, noticed: bool = False) -> Response:
    """The ratings of this person as CSV."""
    with deck.lock:
        content = exports.as_csv(deck.session, noticed=noticed)
    return _file(content, "text/csv; charset=utf-8", "plgl-ratings.csv")


@router.get("/save/{name}")
def save(deck: Table, name: str, recipe: bool = False) -> Response:
    """A picture as PNG, with or without what is needed to make it again; a sound as WAV."""
    number = item_named(deck, name)
    with deck.lock:
        item = deck.session.item(number)
    if deck.pictures.sample_rate:
        return _file(deck.pictures.sound(item), "audio/wav", f"{deck.session.pack.name}-{number}.wav")
    content = deck.pictures.save(item, recipe=recipe)
    return _file(content, "image/png", f"{deck.session.pack.name}-{number}{'-recipe' if recipe else ''}.png")


@router.post("/forget")
def forget(deck: Table, word: Words = "") -> Response:
    """Delete everything, if the word was typed."""
    if word.strip().lower() != WORD:
        deck.say(f"Nothing was deleted: type the word {WORD} to delete everything.")
        return RedirectResponse("/settings", 303)
    deck.forget()
    content = views.page(deck, "forgotten.html", "/forget")
    return HTMLResponse(content, headers={"Clear-Site-Data": '"cache", "storage"'})


def _words(text: str, field: str) -> str:
    """A name as people type it, without what cannot be seen."""
    words = " ".join(text.split())
    if len(words) > LONGEST_NAME:
        raise SettingError(f"{field} has {len(words)} letters; {LONGEST_NAME} are the most")
    if not words.isprintable():
        raise SettingError(f"{field} holds signs that cannot be seen; type it again")
    return words


def _file(content: bytes, media_type: str, name: str) -> Response:
    return Response(content, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})
