"""The page about sharing: what would be sent, what it has cost, pause, resume, leave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse

from client.consent import Preview, in_numbers, in_plain_words
from client.likelihood import Evidence
from client.membership import Membership, membership_of, memberships, verdicts
from client.own_answers import evidence_in
from client.sharing_cli import after_leaving, describe, in_words, when
from client.store import Store, default_path
from client.web import views
from client.web.asking import Table, sentence
from client.web.deck import Deck
from common.errors import PlglError

router = APIRouter()
Federation = Annotated[str, Form(pattern="^[0-9a-f]{32}$")]


def root_of(request: Request) -> Path | None:
    """Folder of the memberships; None for the usual one."""
    root: Path | None = request.app.state.memberships
    return root


Root = Annotated[Path | None, Depends(root_of)]


@router.get("/sharing")
def sharing(deck: Table, root: Root) -> HTMLResponse:
    """What is shared with whom, and what would be sent now. Nothing is sent by looking."""
    found, trouble = [], None
    try:
        found = memberships(root)
    except PlglError as error:
        trouble = sentence(error)
    shown = [_shown(deck, member) for member in found]
    return HTMLResponse(views.page(deck, "sharing.html", "/sharing", shares=shown, trouble=trouble))


@router.post("/sharing/pause")
def pause(deck: Table, root: Root, federation: Federation, on: Annotated[Literal["yes", "no"], Form()]) -> Any:
    """Take a break, or go on."""
    member = membership_of(federation, root).pausing(on == "yes")
    deck.say(f"{member.terms.name}: {'paused, nothing is sent.' if member.paused else 'you take part again.'}")
    return RedirectResponse("/sharing", 303)


@router.post("/sharing/leave")
def leave(deck: Table, root: Root, federation: Federation, sure: Annotated[str, Form(max_length=8)] = "") -> Any:
    """Leave for good, if the box was ticked."""
    member = membership_of(federation, root)
    if sure != "yes":
        deck.say(f"You are still a member of {member.terms.name}: tick the box to leave.")
    else:
        lines = after_leaving(member, member.leave())
        deck.say(" ".join(f"{line[:1].upper()}{line[1:]}." for line in lines))
    return RedirectResponse("/sharing", 303)


def contributed(deck: Deck, root: Path | None) -> float:
    """When this person last took part, in seconds since 1970; 0 for never.

    Answers from before cannot be recalled: each round uses all there are.
    """
    latest = 0.0
    try:
        for member in memberships(root):
            if member.profile == deck.session.profile and _same_store(deck, member):
                with member.ledger() as ledger:
                    latest = max([latest, *(row.time + 1 for row in ledger.rows())])  # whole seconds, rounded down
    except PlglError:
        return latest  # the page about sharing says what is wrong
    return latest


def _shown(deck: Deck, member: Membership) -> dict[str, Any]:
    """A membership as the template shows it."""
    terms = member.terms
    about = describe(member)
    values: dict[str, Any] = {
        "federation": terms.federation,
        "name": terms.name,
        "member": member.member,
        "paused": member.paused,
        "state": _capital(in_words(about)[0]),
        "live": about["running"] and not member.paused,
        "rounds": [{"round": row["round"], "when": when(row["at"])} for row in about["rounds"]][::-1],
        "refusal": about["last-refusal"] and f"{about['last-refusal']} ({when(about['last-refused'])})",
        "releases": [{**each, "when": when(each["at"])} for each in verdicts(member)[::-1]],
        "terms": in_plain_words(terms, member.limit),
    }
    try:
        evidence, why = _evidence(deck, member)
        preview = _preview(member, evidence, len(about["rounds"]))
    except PlglError as error:
        return {**values, "numbers": [], "example": None, "noised": False, "enough": True, "why": sentence(error)}
    return {
        **values,
        "numbers": in_numbers(preview, terms),
        "example": preview.example,
        "noised": preview.own_noise > 0,
        "enough": preview.enough or preview.example is None,
        "why": why,
    }


def _preview(member: Membership, evidence: Evidence | None, spent: int) -> Preview:
    prior = member.starting_prior()
    return Preview.of(member.terms, evidence=evidence, prior=prior, spent=spent, limit=member.limit)


def _evidence(deck: Deck, member: Membership) -> tuple[Evidence | None, str]:
    """What the person said, out of the store this page has open; why not, where it is another one."""
    if not _same_store(deck, member):
        return None, "This page shows other answers than those you share from; open that store to see an example."
    with deck.lock:
        evidence = evidence_in(deck.session.journal, member.profile, member.pack(), member.terms.components)
    return evidence, "" if evidence.answers else "There are no answers yet."


def _same_store(deck: Deck, member: Membership) -> bool:
    journal = deck.session.journal
    return isinstance(journal, Store) and journal.path == (member.store or default_path()).expanduser().resolve()


def _capital(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}"
