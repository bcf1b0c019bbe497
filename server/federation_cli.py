"""``plgl federation``: what the operator of a federation types."""

from __future__ import annotations

import importlib.metadata
import json
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from typer.core import TyperGroup

from common.cli import load
from common.errors import CohortError, DeploymentError, SettingError

if TYPE_CHECKING:  # heavy modules are imported inside the commands, so that help stays quick
    from server.federation import Federation
    from server.superlink import Control

GROUP = "plgl.federation.commands"
"""Entry points of sub-commands that stand on a floor above this one."""

_TRUST = ["central", "distributed", "local"]  # as in common.terms, which needs cryptography


class _Commands(TyperGroup):
    """The commands below, and those other floors register."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *sorted(self._entries())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        entry = self._entries().get(cmd_name)
        return load(entry) if own is None and entry is not None else own

    @staticmethod
    def _entries() -> dict[str, importlib.metadata.EntryPoint]:
        return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}


app = typer.Typer(help="Run a federation: invite people, run rounds, publish priors.", cls=_Commands)
Folder = Annotated[Path, typer.Argument(help="The federation's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command(no_args_is_help=True)
def init(
    folder: Annotated[Path, typer.Argument(help="New or empty folder; whoever can read it is the federation.")],
    address: Annotated[str, typer.Option(help="host:port that devices dial.")],
    pack: Annotated[str, typer.Option(help="Generator pack: name, folder or SHA-256.")] = "art",
    components: Annotated[int, typer.Option(help="Features of the latent map that a taste is learned over.")] = 48,
    name: Annotated[str, typer.Option(help="What people see when they are invited.")] = "a federation",
    epsilon: Annotated[float, typer.Option(help="Privacy budget of each person over all rounds.")] = 1.0,
    delta: Annotated[float, typer.Option(help="Failure probability of the bound.")] = 1e-6,
    participations: Annotated[int, typer.Option(help="Rounds one person may take part in.")] = 4,
    norm_bound: Annotated[float, typer.Option(help="L2 bound of one person's update.")] = 6.0,
    expected_people: Annotated[int, typer.Option(help="Fixed denominator of the mean, chosen beforehand.")] = 2_000,
    minimum_people: Annotated[int, typer.Option(help="Fewer answers than this abort a round.")] = 100,
    honest_people: Annotated[
        int | None,
        typer.Option(help="Of the smallest round, who surely adds noise; distributed trust only. Default: half."),
    ] = None,
    trust: Annotated[
        str, typer.Option(click_type=click.Choice(_TRUST), help="Who has to be trusted with an update.")
    ] = "distributed",
    minimum_ratings: Annotated[int, typer.Option(help="Answers a device needs before it takes part.")] = 50,
    rule: Annotated[
        str, typer.Option(help="mean, trimmed-mean, median, krum or multi-krum; all but mean need --trust central.")
    ] = "mean",
    malicious: Annotated[int, typer.Option(help="People that a robust rule withstands.")] = 0,
    step: Annotated[float, typer.Option(help="Learning rate of the population; costs no privacy.")] = 1.5,
    as_json: Json = False,
) -> None:
    """Make a federation: keys, certificates, an empty journal. What is set here cannot be changed later."""
    from common.privacy.settings import PrivacySettings
    from common.terms import Rule, Terms, Trust, one_of
    from server.federation import Federation, new_identifier, pack_hash

    sha, scale = pack_hash(pack)
    if scale is not None and components > len(scale):
        raise SettingError(f"components={components}: pack {pack!r} offers {len(scale)}")
    half = (minimum_people + 1) // 2 if trust == Trust.DISTRIBUTED else minimum_people
    terms = Terms(
        federation=new_identifier(),
        name=name,
        pack=sha,
        components=components,
        settings=PrivacySettings(
            epsilon=epsilon,
            delta=delta,
            participations=participations,
            norm_bound=norm_bound,
            expected_people=expected_people,
            minimum_people=minimum_people,
        ),
        trust=one_of(Trust, "trust", trust),
        honest_people=half if honest_people is None else honest_people,
        minimum_ratings=minimum_ratings,
        rule=one_of(Rule, "rule", rule),
        malicious=malicious,
        step=step,
    )
    if terms.rule is not Rule.MEAN:
        from server.coordinator import combining

        note = combining(terms).note  # a rule that is refused says why before anything is made
        if note and not as_json:
            print(f"note: {note}")
    federation = Federation.create(folder, terms=terms, address=address, scale=scale)
    if as_json:
        values = {"folder": str(federation.folder), "address": address, "terms": terms.to_json()}
        print(json.dumps({**values, "digest": terms.digest(), "bundle": federation.bundle_hash()}))
        return
    print(f"{federation.folder}: {name}, {terms.federation}")
    print(f"  promise   epsilon {epsilon:g}, delta {delta:g}, {participations} rounds for each person; {trust} trust")
    print(f"  cohort    {minimum_people} people at least, {expected_people} expected")
    print(f"  address   https://{address}")
    print("keep a copy of keys/ and journal.db; whoever has keys/ is the federation")
    print(f"next: plgl federation up {folder}, and plgl federation invite {folder}")


@app.command()
def invite(
    folder: Folder,
    count: Annotated[int, typer.Option(help="How many; each enrols one device.", min=1, max=10_000)] = 1,
    days: Annotated[float, typer.Option(help="Days they can be used.")] = 7.0,
    out: Annotated[Path | None, typer.Option(help="Folder for one file each, instead of printing them.")] = None,
    as_json: Json = False,
) -> None:
    """Make invitations; hand each to one person by a way both trust."""
    from common.files import write_privately
    from server.audit import Audit, Event
    from server.federation import Federation

    federation = Federation.open(folder)
    book, expires = federation.book(), int(time.time() + 86_400 * days)
    texts = [federation.invite(book.create_invite(86_400 * days), expires).to_text() for _ in range(count)]
    Audit(federation.audit_log).record(Event.INVITED, count=count, days=days)
    files: list[str] = []
    if out is not None:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = len(list(out.glob("invitation-*.txt")))
        for number, text in enumerate(texts, start=taken + 1):
            path = out / f"invitation-{number:04d}.txt"
            write_privately(path, f"{text}\n".encode())
            files.append(str(path))
    if as_json:
        print(json.dumps({"expires": expires, **({"files": files} if files else {"invitations": texts})}))
        return
    print("\n".join(files or texts))


@app.command()
def up(
    folder: Folder,
    host: Annotated[str | None, typer.Option(help="Address of this machine to listen on. Default: all.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the gate. Default: the one devices dial.")] = None,
    view_port: Annotated[int, typer.Option(help="Port of the operator's view on this machine; 0: any.")] = 0,
    superlink_port: Annotated[int | None, typer.Option(help="Port of the SuperLink on this machine.")] = None,
) -> None:
    """Serve a federation until Ctrl-C: the gate for devices, the SuperLink behind it, the operator's view."""
    from server.federation import Federation
    from server.supervisor import Supervisor, UpSettings

    federation = Federation.open(folder)
    alone = federation.host in ("localhost", "127.0.0.1", "::1")
    settings = UpSettings(
        host=host or ("127.0.0.1" if alone else "0.0.0.0"),
        port=federation.port if port is None else port,
        view_port=view_port,
        superlink_port=superlink_port,
    )
    stop = threading.Event()
    before = {kind: signal.signal(kind, lambda *_: stop.set()) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        Supervisor(federation, settings, say=lambda line: print(line, flush=True)).run(stop)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@app.command()
def run(
    folder: Folder,
    rounds: Annotated[int, typer.Option(help="How many rounds.")] = 4,
    stage_seconds: Annotated[float, typer.Option(help="Deadline of each of the stages of a round.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Run rounds with the devices that are online. Exit code 3 when the budget is spent or after Ctrl-C."""
    from server.federation import Federation
    from server.runner import Runner

    federation = Federation.open(folder)
    with _control(federation) as control:
        runner = Runner(federation, control)
        runner.check()
        report = runner.run(rounds, stage_seconds, lambda values: None if as_json else print(_line(values), flush=True))
        if report.released == 0:
            runner.check()  # says so if it was the budget
            reasons = "; ".join(dict.fromkeys(each["reason"] for each in report.rounds if each["reason"]))
            why = reasons or report.details or "no round began"
            raise CohortError(
                f"run {report.run} {report.outcome} without a release: {why}; see plgl federation status {folder}"
            )
    values = {"run": str(report.run), "outcome": report.outcome, "released": report.released, "rounds": report.rounds}
    if as_json:
        print(json.dumps({"success": True, **values}))
        return
    print(f"{report.released} of {rounds} rounds gave a release")


@app.command()
def status(folder: Folder, as_json: Json = False) -> None:
    """Show rounds, budget and releases, and whether the processes answer."""
    from server.federation import Federation
    from server.status import status as look

    federation = Federation.open(folder)
    values = {**look(federation, time.time()), "processes": _processes(federation)}
    if as_json:
        print(json.dumps(values))
        return
    about, privacy = values["federation"], values["privacy"]
    print(f"{about['name']}  {about['id']}  {about['trust']} trust")
    for name, answers in values["processes"].items():
        print(f"  {name:<10}{'answers' if answers else 'does not answer'}")
    print(f"  members   {values['members']['active']} active, {values['members']['enrolled']} ever enrolled")
    after = privacy["epsilon_after_next_round"]
    print(
        f"  epsilon   {privacy['epsilon_spent']:.3f} of {privacy['epsilon_budget']:g} spent, "
        + ("no round left" if after is None else f"{after:.3f} after the next round")
    )
    for each in values["rounds"]:
        print(f"  {_line(each)}")
    for each in values["releases"]:
        print(f"  release {each['version']}  {each['sha256']}")


@app.command("publish-policy")
def publish_policy(
    folder: Folder,
    policy: Annotated[Path, typer.Argument(help="Folder with everybody's policy, made of a release of yours.")],
    as_json: Json = False,
) -> None:
    """Sign everybody's policy, so that members' devices believe it: plgl stream --population FILE."""
    from server.federation import Federation
    from server.policy_publishing import publish_policy as publish

    path, sha256 = publish(Federation.open(folder), policy)
    print(json.dumps({"policy": str(path), "sha256": sha256}) if as_json else f"wrote {path}\nSHA-256 {sha256}")


@app.command()
def members(folder: Folder, as_json: Json = False) -> None:
    """List who is enrolled: numbers and dates, no names."""
    from common.signing import fingerprint
    from server.federation import Federation

    listed = [
        {
            "member": member.number,
            "key": fingerprint(member.key),
            "enrolled": member.enrolled,
            "expires": member.expires,
            "revoked": member.revoked,
            "reason": member.reason,
        }
        for member in Federation.open(folder).book().members()
    ]
    if as_json:
        print(json.dumps({"members": listed}))
        return
    for each in listed:
        end = f"until {_day(each['expires'])}" if each["revoked"] is None else f"ended {_day(each['revoked'])}"
        since, reason = _day(each["enrolled"]), each["reason"] or ""
        print(f"{each['member']:>6}  {each['key']}  since {since}  {end}  {reason}".rstrip())


@app.command()
def revoke(
    folder: Folder,
    member: Annotated[int, typer.Argument(help="Number of the member.")],
    reason: Annotated[str, typer.Option(help="Why; for the record.")],
) -> None:
    """End a membership; the number and its keys are never used again."""
    from server.audit import Audit, Event
    from server.federation import Federation

    federation = Federation.open(folder)
    ended = federation.book().revoke(member, reason)
    Audit(federation.audit_log).record(Event.REVOKED, member=member, reason=reason)
    try:
        with _control(federation) as control:
            control.unregister(ended.node_key)
    except DeploymentError:
        pass  # `up` removes the key when it starts
    print(f"member {member} is revoked and will not be asked again")


@app.command()
def units(
    folder: Folder,
    rounds: Annotated[int, typer.Option(help="Rounds of each start of the timer.")] = 1,
    every: Annotated[str, typer.Option(help="When rounds start, as systemd's OnCalendar has it.")] = "daily",
    user: Annotated[str, typer.Option(help="Account for the server; it should run nothing else.")] = "plgl",
    device: Annotated[bool, typer.Option("--device", help="Print only the unit for a device.")] = False,
) -> None:
    """Print systemd units: the server, its rounds on a timer, and a device."""
    from server.units import device_unit
    from server.units import units as server_units

    printed = {} if device else server_units(folder.absolute(), rounds=rounds, every=every, user=user)
    for name, content in {**printed, **device_unit()}.items():
        place = "~/.config/systemd/user" if name in device_unit() else "/etc/systemd/system"
        print(f"# {place}/{name}\n{content}")


def _control(federation: Federation) -> Control:
    from server.superlink import HOST, Control

    where = federation.where()
    return Control(f"{HOST}:{where['superlink']}", federation.tls_authority.read_text("ascii"))


def _processes(federation: Federation) -> dict[str, bool]:
    """Whether the parts that devices need answer."""
    import httpx

    from server.superlink import HOST, tls_context

    try:
        where = federation.where()
    except DeploymentError:
        return {"gate": False, "SuperLink": False}
    with _control(federation) as control:
        superlink = control.healthy()
    verify = tls_context(federation.tls_authority.read_text("ascii"))
    try:
        with httpx.Client(verify=verify, trust_env=False, timeout=5.0) as client:
            gate = client.get(f"https://{HOST}:{where['gate']}/healthz").status_code == 200
    except httpx.HTTPError:
        gate = False
    return {"gate": gate, "SuperLink": superlink}


def _line(values: dict[str, Any]) -> str:
    """A round in one line."""
    counts = ", ".join(f"{values[name]} {name}" for name in ("asked", "answered") if values[name] is not None)
    end = values["state"]
    if values.get("version") is not None:
        end = f"release {values['version']}"
    elif values["reason"]:
        end = f"{end}: {values['reason']}"
    seconds = "" if values["seconds"] is None else f"  {values['seconds']:.1f} s"
    return f"round {values['round']}: {counts}{', ' if counts else ''}{end}{seconds}"


def _day(when: Any) -> str:
    return datetime.fromtimestamp(float(when), UTC).strftime("%Y-%m-%d")
