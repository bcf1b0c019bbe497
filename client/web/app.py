"""The page as an application: routes behind the guard, and errors that people can read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from client.session import Session
from client.web import asking, browsing, keeping, sharing, views
from client.web.deck import Deck
from client.web.guard import Guard
from client.web.pictures import SIZES
from common.errors import ItemError, NoMembership, PlglError, SettingError
from common.population_policy import PopulationPolicy

STATIC = Path(__file__).parent / "static"


class _Page(FastAPI):
    """An application with the guard around all of it, its own error answers included."""

    guard: dict[str, object]

    def build_middleware_stack(self) -> ASGIApp:
        return Guard(super().build_middleware_stack(), **self.guard)  # type: ignore[arg-type]


class _Static(StaticFiles):
    """Files of the program; unlike anything a person was shown, they may stay in the browser for a while."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "private, max-age=300"
        return response


def create_app(
    session: Session,
    *,
    token: str,
    hosts: Collection[str] = (),
    any_port: bool = False,
    mode: str = "pair",
    size: int = SIZES["big"],
    memberships: Path | None = None,
    population: PopulationPolicy | None = None,
) -> FastAPI:
    """The rating page for a session.

    Guarantee: nobody gets more than a refusal without the token, see `Guard`; the session is used by one thread at a
    time. Its worker ends with the application's lifespan; the session stays open.

    Args:
        session: whose ratings.
        token: that opens the door.
        hosts: every ``Host`` there may be, with its port.
        any_port: also loopback names with any port.
        mode: how to ask first.
        size: pixels of a picture, at most.
        memberships: folder of the memberships in federations; None for the usual one.
        population: everybody's policy: what a newcomer's wall shows, and where learning of the endless wall begins.

    Raises:
        SettingError: there is no such mode.
        PriorError: the population policy is for another generator.
    """
    deck = Deck(session, mode=mode, size=size, population=population)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(deck.close)

    app = _Page(title="plgl", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.guard = {"token": token, "hosts": hosts, "any_port": any_port}
    app.state.deck, app.state.memberships = deck, memberships
    for part in (asking, browsing, keeping, sharing):
        app.include_router(part.router)
    app.mount("/static", _Static(directory=STATIC), name="static")
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _not_there)
    app.add_exception_handler(PlglError, _refused)
    app.add_exception_handler(Exception, _unexpected)
    return app


def _say(request: Request, status: int, title: str, text: str) -> HTMLResponse:
    deck: Deck = request.app.state.deck
    content = views.page(deck, "message.html", request.url.path, title=title, text=text)
    return HTMLResponse(content, status)


def _malformed(request: Request, error: Exception) -> HTMLResponse:
    fields = error.errors() if isinstance(error, RequestValidationError) else []
    names = ", ".join(sorted({str(field["loc"][-1])[:40] for field in fields})) or "the form"
    text = f"This form cannot be read: look at {names}. Go back and send it again; nothing was changed."
    return _say(request, 422, "That did not arrive whole", text)


def _not_there(request: Request, error: Exception) -> HTMLResponse:
    status = error.status_code if isinstance(error, HTTPException) else 404
    title = "There is nothing here" if status == 404 else HTTPStatus(status).phrase
    return _say(request, status, title, "Go back to the pictures with the link above.")


def _refused(request: Request, error: Exception) -> HTMLResponse:
    status = 404 if isinstance(error, (ItemError, NoMembership)) else 422 if isinstance(error, SettingError) else 503
    text = f"{asking.sentence(error)} Nothing you rated before is lost."
    return _say(request, status, "That did not work", text)


def _unexpected(request: Request, error: Exception) -> HTMLResponse:
    text = (
        f"This is a mistake in the program ({type(error).__name__}); its window says more. Nothing you rated is lost."
    )
    return HTMLResponse(views.render("bare.html", title="That did not work", text=text), 500)
