"""Pages to look around: the wall, favourites, history, the map of a taste, one picture, the keys."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Response
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse

from client.curator import SURPRISE
from client.web import views
from client.web.asking import Table, item_named, sentence
from client.web.deck import Deck
from client.web.pictures import SIZES
from client.web.sharing import Root, contributed

router = APIRouter()
Surprise = Annotated[float, Form(ge=0, le=1, allow_inf_nan=False)]


@router.get("/pictures/{file}")
def picture(deck: Table, file: str) -> Response:
    """A picture, as ``<item>-<size>.jpg``."""
    name, _, size = file.removesuffix(".jpg").rpartition("-")
    if size not in SIZES or not file.endswith(".jpg"):
        raise HTTPException(404)
    number = item_named(deck, name)
    with deck.lock:
        item = deck.session.item(number)
    return Response(deck.pictures.get(item, size), media_type="image/jpeg")


@router.get("/sounds/{file}")
def sound(deck: Table, file: str) -> Response:
    """A sound, as ``<item>.wav``; pictures have none."""
    if not file.endswith(".wav") or not deck.pictures.sample_rate:
        raise HTTPException(404)
    number = item_named(deck, file.removesuffix(".wav"))
    with deck.lock:
        item = deck.session.item(number)
    return Response(deck.pictures.sound(item), media_type="audio/wav")


@router.get("/wall")
def wall(deck: Table) -> HTMLResponse:
    """What was made for this person; made now where there is none and something is known."""
    with deck.lock:
        made = deck.wall or (deck.make_wall(SURPRISE) if deck.known else None)
        return HTMLResponse(views.page(deck, "wall.html", "/wall", **views.wall(deck, made)))


@router.post("/wall")
def make_wall(deck: Table, surprise: Surprise) -> RedirectResponse:
    """Make the wall again."""
    with deck.lock:
        if deck.known:
            deck.make_wall(surprise)
    return RedirectResponse("/wall", 303)


@router.post("/wall/more")
def more_wall(deck: Table) -> RedirectResponse:
    """Add to the wall, once a policy for what this person said is learned; begins to learn it where there is none."""
    return RedirectResponse("/wall#end" if _more(deck) else "/wall", 303)


def _more(deck: Deck) -> bool:
    """Whether there was more; why there cannot be any is told on the next page."""
    with deck.lock:
        if not deck.session.history and deck.endless.population is None:
            return False
        added = deck.more_wall()
        if not added and deck.endless.trouble is not None:
            deck.say(sentence(deck.endless.trouble))
        return added


@router.get("/wall/learning")
def learning(deck: Table) -> Response:
    """How learning goes, for a page that waits for it; loads it again when there is nothing to wait for."""
    progress = deck.endless.progress
    if progress is not None:
        return HTMLResponse(views.render("learning.html", learning=progress))
    _more(deck)
    return Response(headers={"HX-Refresh": "true"})  # a redirect to a place on the same page loads nothing


@router.get("/favourites")
def favourites(deck: Table) -> HTMLResponse:
    """Pictures this person keeps."""
    with deck.lock:
        tiles = views.tiles(deck, deck.session.favourites[::-1])
        return HTMLResponse(views.page(deck, "favourites.html", "/favourites", tiles=tiles))


@router.get("/history")
def history(deck: Table, root: Root, page: Annotated[int, Query(ge=1, le=10**9)] = 1) -> HTMLResponse:
    """What this person said."""
    used = contributed(deck, root)
    with deck.lock:
        return HTMLResponse(views.page(deck, "history.html", "/history", **views.history(deck, page), used=used))


@router.post("/history/remove")
def remove(deck: Table, event: Annotated[int, Form(ge=0, le=2**63 - 1)]) -> RedirectResponse:
    """Delete one rating for good."""
    deck.remove(event)
    deck.say("That rating is deleted for good, from the disk too.")
    return RedirectResponse("/history", 303)


@router.get("/map")
def taste_map(deck: Table) -> HTMLResponse:
    """Rated pictures, alike ones near each other."""
    with deck.lock:
        return HTMLResponse(views.page(deck, "map.html", "/map", places=views.taste_map(deck)))


@router.get("/items/{name}")
def item(deck: Table, name: str) -> HTMLResponse:
    """One picture and what can be done with it."""
    number = item_named(deck, name)
    with deck.lock:
        content = views.page(deck, "item.html", f"/items/{name}", **views.item(deck, number))
    return HTMLResponse(content)


@router.get("/help")
def keys(deck: Table) -> HTMLResponse:
    """Every key."""
    return HTMLResponse(views.page(deck, "help.html", "/help"))
