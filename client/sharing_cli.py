"""``plgl sharing``: see what you share, pause, resume, leave, take part, look at what came of it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from common.errors import ConsentError, PlglError, ReleaseError, StoreError, WrongKey

if TYPE_CHECKING:  # heavy modules are imported inside the commands, so that help stays quick
    from client.consent import Preview
    from client.generators.pack import GeneratorPack
    from client.membership import Membership
    from common.prior import PopulationPrior
    from common.terms import Terms

app = typer.Typer(help="What you share with a federation: see it, pause, resume, leave.", no_args_is_help=True)
_PLAIN: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False}
Which = Annotated[
    str | None, typer.Option("--federation", help="Name, identifier or its beginning; needed where you have several.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Home = Annotated[Path | None, typer.Option("--home", help="Folder of your memberships; without it, the usual one.")]
File = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help="First line opens the store; else PLGL_PASSPHRASE is read, or you are asked."
    ),
]


@app.command()
def show(federation: Which = None, passphrase_file: File = None, home: Home = None, as_json: Json = False) -> None:
    """Show what is shared with whom, what it has cost, and a vector as it would be sent now."""
    from client.membership import membership_of, memberships

    found = memberships(home) if federation is None else [membership_of(federation, home)]
    told, given = [], _given(passphrase_file)
    console = Console(quiet=as_json)
    if not found:
        console.print("you share nothing; join a federation with: plgl join INVITE", **_PLAIN)
    for member in found:
        told.append(_shown(member, given, console, interactive=sys.stdin.isatty() and not as_json))
    if as_json:
        print(json.dumps({"success": True, "memberships": told}))


def _shown(member: Membership, given: str | None, console: Console, *, interactive: bool) -> dict[str, Any]:
    from client.join_cli import show_preview

    preview, why = _previewed(member, given, interactive=interactive)
    about = describe(member)
    console.print(f"{member.terms.name}, member {member.member}", style="bold", **_PLAIN)
    for line in in_words(about):
        console.print(f"  {line}", **_PLAIN)
    show_preview(console, member.invite, preview, why)
    return {**about, "preview": preview.to_json()}


def _previewed(member: Membership, given: str | None, *, interactive: bool) -> tuple[Preview, str | None]:
    """The preview of a membership; without the passphrase it lacks the answers."""
    why, passphrase = None, None
    try:
        passphrase = passphrase_of(member.store, given, interactive=interactive)
    except WrongKey as error:
        why = str(error)
    preview, reason = preview_of(
        member.terms,
        member.pack(),
        member.store,
        passphrase,
        member.profile,
        limit=member.limit,
        folder=member.folder,
        prior=member.starting_prior(),
        read=why is None,
    )
    return preview, why or reason


def describe(member: Membership) -> dict[str, Any]:
    """A membership and what its edge process last did, as plain values."""
    from client.agent_status import Status, running

    status = Status.read(member.folder) or Status()
    alive = running(member.folder)
    with member.ledger() as ledger:
        rounds = [{"round": row.round, "at": row.time} for row in ledger.rows()]
    return {
        "federation": member.terms.federation,
        "name": member.terms.name,
        "member": member.member,
        "trust": str(member.terms.trust),
        "paused": member.paused,
        "running": alive,
        "pid": status.pid if alive else 0,
        "connected": alive and status.connected,
        "trouble": status.trouble if alive else "",
        "rounds": rounds,
        "last-round": status.last_round,
        "refused": status.refused,
        "last-refusal": status.last_refusal,
        "last-refused": status.last_refused,
        "release": status.release,
        "folder": str(member.folder),
    }


def in_words(about: dict[str, Any]) -> list[str]:
    """What `describe` found, for people."""
    if about["paused"]:
        state = "paused: nothing is sent until you resume"
    elif not about["running"]:
        state = "not running: take part with plgl sharing run"
    elif about["connected"]:
        state = f"taking part: connected, process {about['pid']}"
    else:
        state = f"not connected: {about['trouble'] or 'connecting'}"
    lines = [state]
    lines += [f"took part on {when(each['at'])}, round {each['round']}" for each in about["rounds"]]
    if about["last-refusal"]:
        lines.append(
            f"refused {about['refused']} times, last on {when(about['last-refused'])}: {about['last-refusal']}"
        )
    return [*lines, *([about["release"]] if about["release"] else [])]


def when(seconds: float) -> str:
    """A moment as people read it, on this machine's clock."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@app.command()
def pause(federation: Which = None, home: Home = None, as_json: Json = False) -> None:
    """Take a break: nothing is sent until you resume, and nothing else changes."""
    _pausing(True, federation, home, as_json)


@app.command()
def resume(federation: Which = None, home: Home = None, as_json: Json = False) -> None:
    """Go on after a break."""
    _pausing(False, federation, home, as_json)


def _pausing(paused: bool, federation: str | None, home: Path | None, as_json: bool) -> None:
    from client.membership import membership_of

    member = membership_of(federation, home).pausing(paused)
    if as_json:
        print(json.dumps({"success": True, "federation": member.terms.federation, "paused": member.paused}))
        return
    said = "paused: nothing is sent" if paused else "resumed; the terms are as before"
    Console().print(f"{member.terms.name}: {said}", **_PLAIN)


@app.command()
def leave(
    federation: Which = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Leave for good: the operator ends the membership and the keys here are destroyed. Your answers stay with you."""
    from client.membership import membership_of

    member = membership_of(federation, home)
    console = Console(quiet=as_json)
    if not yes and (as_json or not typer.confirm(f"Leave {member.terms.name}, and destroy this device's keys?")):
        raise ConsentError("still a member; add --yes to leave without being asked")
    problem = member.leave()
    if as_json:
        told = {"success": True, "federation": member.terms.federation, "told": problem is None}
        print(json.dumps({**told, "problem": problem}))
        return
    for line in after_leaving(member, problem):
        console.print(line, **_PLAIN)


def after_leaving(member: Membership, problem: str | None) -> list[str]:
    """What a person should know who left."""
    lines = [f"left {member.terms.name}; this device's keys are destroyed, your answers are untouched"]
    if problem is not None:
        lines.append(
            f"the operator could not be told ({problem}); without the keys nobody can act as you, "
            "but this device is asked until its certificate ends"
        )
    lines.append("priors that were released cannot forget what was added to them; the noise in them protects you still")
    return [*lines, f"what was spent stays written in {member.folder}, so that joining again cannot spend it twice"]


@app.command()
def run(federation: Which = None, passphrase_file: File = None, home: Home = None, as_json: Json = False) -> None:
    """Take part until Ctrl+C: stay connected, answer rounds, fetch releases."""
    from client.membership import membership_of

    member = membership_of(federation, home)
    given, interactive = _given(passphrase_file), sys.stdin.isatty() and not as_json
    passphrase = passphrase_of(member.store, given, interactive=interactive)
    edge_process(member, passphrase, Console(quiet=as_json))
    if as_json:
        print(json.dumps({"success": True, **describe(member)}))


@app.command()
def releases(
    federation: Which = None,
    save: Annotated[
        Path | None, typer.Option(help="Folder to write the prior in use to, for plgl rate --prior.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the priors that were fetched, what changed in them, and which one is in use."""
    from client.membership import membership_of, verdicts

    member = membership_of(federation, home)
    current = member.shelf().current()
    if save is not None:
        if current is None:
            raise ReleaseError("no release is in use; there is nothing to save yet")
        current.prior.save(save)
    found = verdicts(member)
    in_use = None if current is None else {"version": current.version, "expires": current.expires}
    if as_json:
        print(json.dumps({"success": True, "in-use": in_use, "releases": found}))
        return
    console = Console()
    console.print("no release is in use" if current is None else f"release {current.version} is in use", **_PLAIN)
    for each in found:
        console.print(f"{when(each['at'])} {'taken up' if each['accepted'] else 'refused'}: {each['reason']}", **_PLAIN)
        for line in each["changes"]:
            console.print(f"  {line}", **_PLAIN)
    if save is not None:
        console.print(f"saved in {save}; start from it with: plgl rate --prior {save}", **_PLAIN)


@app.command()
def policy(
    save: Annotated[Path, typer.Option(help="File to write it to, for plgl stream and plgl rate --population.")],
    federation: Which = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Fetch everybody's policy, if your federation published one: what a stream shows before you rated anything.

    It is written only if it is signed with the key of your invitation, fresh, and not older than one you had.
    """
    from client.gate import Gate
    from client.membership import membership_of
    from client.policy.published import take_up
    from common.files import write_atomically

    member = membership_of(federation, home)
    with Gate(member.invite) as gate:
        raw = gate.latest_policy()
    if raw is None:
        raise ReleaseError(
            f"{member.terms.name} published no policy yet; a prior will do: plgl sharing releases --save"
        )
    found = take_up(
        raw, release_key=member.invite.release_key, terms=member.terms, ledger=member.ledger(), now=time.time()
    )
    write_atomically(save, raw)
    if as_json:
        print(json.dumps({"success": True, "version": found.version, "expires": found.expires, "policy": str(save)}))
        return
    print(f"policy {found.version} of {found.terms.name}, rightly signed: {found.policy.privacy}")
    print(f"saved in {save}; begin with it: plgl stream --population {save}")


def edge_process(member: Membership, passphrase: str | None, said: Console) -> None:
    """Run the edge process of a membership in the foreground, until SIGINT or SIGTERM."""
    from client.agent import Agent, run_until_stopped

    def say(line: str) -> None:
        said.print(f"{time.strftime('%H:%M:%S')} {line}", **_PLAIN)

    agent = Agent(member, passphrase=passphrase, say=say)
    said.print(f"taking part in {member.terms.name}; stop with Ctrl+C", **_PLAIN)
    run_until_stopped(agent)
    said.print("stopped; nothing is sent any more", **_PLAIN)


def _given(file: Path | None) -> str | None:
    from client.rate_cli import given_passphrase

    return given_passphrase(file)  # which takes it out of the environment


def passphrase_of(store: Path | None, given: str | None, *, interactive: bool) -> str | None:
    """The passphrase of a store: as given, or asked for; None where the keyring has the key.

    Raises:
        WrongKey: one is needed, and nobody can be asked.
    """
    from client.rate_cli import PASSPHRASE
    from client.store import Store, default_path

    place = default_path() if store is None else store.expanduser()
    if given is not None or not place.exists():
        return given
    try:
        if Store.locked_by(place) != "passphrase":
            return None
    except StoreError:  # the rating page has it open: it may still need one later
        if not interactive:
            return None
    if not interactive:
        raise WrongKey(f"{place} is locked by a passphrase; set {PASSPHRASE} or give --passphrase-file")
    from getpass import getpass

    return getpass("passphrase of your answers: ")


def preview_of(
    terms: Terms,
    pack: GeneratorPack,
    store: Path | None,
    passphrase: str | None,
    profile: str,
    *,
    limit: int,
    folder: Path,
    prior: PopulationPrior | None = None,
    read: bool = True,
) -> tuple[Preview, str | None]:
    """What would be sent now, and why there is no example where there is none.

    Args:
        terms: of the federation.
        pack: its generator pack.
        store: path of the store; None for the usual one.
        passphrase: that opens it; None to ask the system keyring.
        profile: whose answers.
        limit: participations the person allows.
        folder: of the membership; its ledger counts where there is one.
        prior: what a round would start from; None for that of somebody who knows nobody.
        read: whether to look at the answers at all.

    Raises:
        WrongKey: the passphrase does not open the store.
    """
    from client.consent import Preview, starting_prior
    from client.ledger import Ledger
    from client.membership import LEDGER
    from client.own_answers import OwnAnswers
    from client.store import default_path

    evidence, why = None, None
    if not (store or default_path()).exists():
        why = "there are no answers yet; give some with: plgl rate"
    elif read:
        try:
            evidence = OwnAnswers(
                store=store, passphrase=passphrase, profile=profile, pack=pack, components=terms.components
            )()
        except WrongKey:
            raise
        except PlglError as error:
            why = str(error)
    spent = 0
    if (folder / LEDGER).exists():
        with Ledger.open(folder / LEDGER) as ledger:
            spent = ledger.spent(terms.federation)
    start = starting_prior(terms, pack) if prior is None else prior
    preview = Preview.of(terms, evidence=evidence, prior=start, spent=spent, limit=limit)
    return preview, why
