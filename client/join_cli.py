"""``plgl join``: read what joining a federation means, see what would be sent, agree, and take part."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from common.errors import ConsentError, SettingError

if TYPE_CHECKING:  # heavy modules are imported inside the command, so that help stays quick
    from client.consent import Preview
    from common.invite import Invite

app = typer.Typer(add_completion=False)
_PLAIN: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False}


@app.command("join")
def join(
    invitation: Annotated[str, typer.Argument(metavar="INVITE", help="The invitation, or a file that holds it.")],
    store: Annotated[
        Path | None, typer.Option(help="The store with your answers; without it, the one plgl rate uses.")
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="First line opens the store; else PLGL_PASSPHRASE is read, or you are asked.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Whose answers.")] = "me",
    generator: Annotated[
        str | None, typer.Option(help="Name or folder of the generator pack, where it is not found by itself.")
    ] = None,
    participations: Annotated[
        int | None, typer.Option(help="Rounds you allow at most; without it, as many as the terms.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Agree without being asked.")] = False,
    no_start: Annotated[bool, typer.Option("--no-start", help="Only join; do not take part yet.")] = False,
    home: Annotated[Path | None, typer.Option(help="Folder of your memberships; without it, the usual one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; needs --yes.")] = False,
) -> None:
    """Share what you like, without sharing your answers: join a federation.

    Shows the terms and a vector as it would be sent, and asks. Nothing leaves this machine before you agree. Then it
    stays in the federation until Ctrl+C; plgl sharing run goes on later.
    """
    from client.joining import check_invite
    from client.joining import join as become_member
    from client.membership import federations_folder, pack_of
    from client.rate_cli import given_passphrase
    from client.sharing_cli import edge_process, passphrase_of, preview_of
    from common.invite import Invite

    if as_json and not yes:
        raise SettingError("--json asks nobody; add --yes, or leave --json out to be asked")
    invite = Invite.read(invitation)
    limit = check_invite(invite, limit=participations, root=home)
    pack = pack_of(invite.terms, generator)
    said = Console(quiet=as_json)
    interactive = sys.stdin.isatty() and not as_json
    passphrase = passphrase_of(store, given_passphrase(passphrase_file), interactive=interactive)
    folder = (home or federations_folder()) / invite.terms.federation
    preview, why = preview_of(invite.terms, pack, store, passphrase, profile, limit=limit, folder=folder)
    _explain(said, invite, preview, why, limit)
    if not yes and not typer.confirm(f"Join {invite.terms.name}?"):
        raise ConsentError("not joined; nothing was sent")
    member = become_member(invite, root=home, generator=generator, store=store, profile=profile, limit=participations)
    said.print(f"joined: this device is member {member.member} of {invite.terms.name}", **_PLAIN)
    if as_json:
        about = {"federation": member.terms.federation, "member": member.member, "folder": str(member.folder)}
        print(json.dumps({"success": True, **about, "preview": preview.to_json()}), flush=True)
    if no_start:
        said.print("not started; take part with: plgl sharing run", **_PLAIN)
        return
    edge_process(member, passphrase, said)


def _explain(said: Console, invite: Invite, preview: Preview, why: str | None, limit: int) -> None:
    """Print the terms and the numbers."""
    from client.consent import in_plain_words

    said.print(f"{invite.terms.name}: what joining means\n", style="bold", **_PLAIN)
    for question, answer in in_plain_words(invite.terms, limit):
        said.print(question, style="bold", **_PLAIN)
        said.print(f"  {answer}", highlight=False, markup=False)
    said.print()
    show_preview(said, invite, preview, why)


def show_preview(said: Console, invite: Invite, preview: Preview, why: str | None) -> None:
    """Print what would be sent now, or why that cannot be shown."""
    from client.consent import in_numbers, written

    said.print("If a round asked now", style="bold", **_PLAIN)
    for name, value in in_numbers(preview, invite.terms):
        said.print(f"  {name:<40}{value}", **_PLAIN)
    if preview.example is None:
        said.print(f"  no example: {why or 'there are no answers yet; give some with: plgl rate'}", **_PLAIN)
        return
    said.print(f"  the vector begins    {written(preview.example.plain)}", **_PLAIN)
    if preview.own_noise:
        said.print(f"  with its noise       {written(preview.example.noised)}", **_PLAIN)
    if not preview.enough:
        said.print("  it would not be sent: there are too few answers", **_PLAIN)
