"""``plgl federation demo``: a whole federation on one machine, with the same commands a real one would use.

A SuperLink behind its gate, devices of invented people with stores and edge processes of their own, some rounds over
TLS. One device is killed in the middle of a round and comes back, one is malicious in a different way in each round.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from common.errors import DeploymentError, FolderError, SettingError

app = typer.Typer(add_completion=False)
_MARK = ".plgl-federation-demo"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the demonstration does.

    Attributes:
        folder: everything it makes.
        devices: how many; the last is malicious, the second is killed.
        rounds: how many rounds.
        answers: each person gives so many.
        stage_seconds: deadline of each stage of a round.
        epsilon: budget of each person.
        seed: of the people.
    """

    folder: Path
    devices: int = 5
    rounds: int = 4
    answers: int = 12
    stage_seconds: float = 10.0
    epsilon: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 5 <= self.devices <= 20:
            raise SettingError(f"devices={self.devices} must be between 5 and 20: one is killed, one is malicious")
        if not 1 <= self.rounds <= 20:
            raise SettingError(f"rounds={self.rounds} must be between 1 and 20")
        if not 4 <= self.answers <= 500:
            raise SettingError(f"answers={self.answers} must be between 4 and 500")
        if not 3 <= self.stage_seconds <= 300:
            raise SettingError(f"stage_seconds={self.stage_seconds:g} must be between 3 and 300")


@dataclass
class Process:
    """A command that runs in the background, with its output in a file."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    running: subprocess.Popen[bytes] = field(init=False)
    _output: IO[bytes] = field(init=False)

    def start(self) -> Process:
        """Start it; output is added to the log."""
        self._output = self.log.open("ab")
        self.running = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    def kill(self) -> None:
        """As a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running.pid, signal.SIGKILL)
        self.running.wait()
        self._output.close()

    def stop(self) -> None:
        """Ask it to end, then insist."""
        self.running.terminate()
        try:
            self.running.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
        self._output.close()

    def wait_for(self, text: str, seconds: float) -> None:
        """Wait until its output holds ``text``.

        Raises:
            DeploymentError: it ended before, or took too long.
        """
        deadline = time.monotonic() + seconds
        while text not in self.said():
            if self.running.poll() is not None:
                raise DeploymentError(f"{self.name} ended: {self.said()[-400:].strip()}")
            if time.monotonic() > deadline:
                raise DeploymentError(f"{self.name} did not say {text!r} within {seconds:g} s; see {self.log}")
            time.sleep(0.2)

    def said(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@app.command("demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("plgl-federation-demo"),
    devices: Annotated[int, typer.Option(help="Devices; one is killed, one is malicious.")] = 5,
    rounds: Annotated[int, typer.Option(help="Rounds to run.")] = 4,
    answers: Annotated[int, typer.Option(help="Answers each invented person gives.")] = 12,
    stage_seconds: Annotated[float, typer.Option(help="Deadline of each stage of a round.")] = 10.0,
    epsilon: Annotated[float, typer.Option(help="Privacy budget of each person over all rounds.")] = 8.0,
    seed: Annotated[int, typer.Option(help="Seed of the people and their answers.")] = 0,
    keep_up: Annotated[bool, typer.Option("--keep-up", help="Leave it running until Ctrl-C, to look around.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """A whole federation on this machine: five devices, one killed, one malicious. Takes two to three minutes."""
    settings = Settings(
        folder=out,
        devices=devices,
        rounds=rounds,
        answers=answers,
        stage_seconds=stage_seconds,
        epsilon=epsilon,
        seed=seed,
    )

    def say(line: str) -> None:
        if not as_json:
            print(line, flush=True)

    result = Demo(settings, say).run(keep_up=keep_up)
    if as_json:
        print(json.dumps({"success": True, **result}))


class Demo:
    """One demonstration.

    Args:
        settings: what to do.
        say: takes a line for people.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings, self._say = settings, say
        self._started = time.monotonic()
        self._folder = settings.folder.absolute()
        self._operator = self._folder / "operator"
        self._devices: dict[int, Process] = {}

    def run(self, *, keep_up: bool = False) -> dict[str, Any]:
        """Do it, and write ``demo.json``.

        Raises:
            FolderError: the folder holds something else.
            DeploymentError: a part did not start, or the rounds did not end well.
        """
        self._prepare()
        with contextlib.ExitStack() as ends:
            self._tell("plgl federation init: keys, certificates, an empty journal")
            self._init()
            self._tell("plgl federation up: a SuperLink on the loopback, in front of it the gate")
            up = ends.enter_context(self._running("operator", ["federation", "up", str(self._operator)]))
            self._tell(f"{self._settings.devices} invented people rate pictures on devices of their own")
            self._rate()
            up.wait_for("gate", 60)
            self._tell("plgl federation invite: one invitation for each")
            self._invite()
            ends.callback(self._stop_devices)
            self._join()
            rounds = self._rounds()
            self._tell("looks at what came of it")
            result = self._result(rounds)
            if keep_up:
                self._say("everything is left running; Ctrl-C ends it")
                self._say(up.said().strip())
                with contextlib.suppress(KeyboardInterrupt):
                    while True:
                        time.sleep(1)
        (self._folder / "demo.json").write_text(json.dumps(result, indent=2) + "\n")
        self._report(result)
        if result["released"] == 0:
            raise DeploymentError(f"no round gave a release; see {self._folder / 'logs'}")
        return result

    def _tell(self, line: str) -> None:
        self._say(f"[{time.monotonic() - self._started:5.1f} s] {line}")

    def _prepare(self) -> None:
        if self._folder.exists():
            if any(self._folder.iterdir()) and not (self._folder / _MARK).exists():
                raise FolderError(f"{self._folder} holds something else; choose another with --out")
            shutil.rmtree(self._folder)
        (self._folder / "logs").mkdir(parents=True)
        (self._folder / _MARK).touch()

    def _plgl(self, *arguments: str, environment: dict[str, str] | None = None) -> str:
        """One command to its end; gives its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "common", *arguments],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DeploymentError(f"plgl {arguments[0]} {arguments[1]} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    @contextlib.contextmanager
    def _running(self, name: str, arguments: list[str]) -> Iterator[Process]:
        command = [sys.executable, "-m", "common", *arguments]
        process = Process(name, command, {}, self._folder / "logs" / f"{name}.txt").start()
        try:
            yield process
        finally:
            process.stop()

    def _init(self) -> None:
        honest = self._settings.devices - 3  # of the smallest round: neither killed nor malicious, and one to spare
        self._plgl(
            "federation",
            "init",
            str(self._operator),
            "--address",
            f"127.0.0.1:{_free_port()}",
            "--name",
            "demonstration",
            "--components",
            "8",
            "--epsilon",
            str(self._settings.epsilon),
            "--participations",
            str(self._settings.rounds),
            "--expected-people",
            str(self._settings.devices),
            "--minimum-people",
            str(self._settings.devices - 2),
            "--honest-people",
            str(honest),
            "--minimum-ratings",
            str(min(10, self._settings.answers)),
        )

    def _rate(self) -> None:
        """Each person answers pairs in a store of its own, by the look of the pictures."""
        import torch

        from client.generators.pack import GeneratorPack
        from client.memory import Memory
        from client.ratings import Choice
        from client.store import Store
        from simulations.people import Population

        pack = GeneratorPack.open("art")
        draw = torch.Generator().manual_seed(self._settings.seed)
        reference = (pack.generate(pack.latents.sample(256, draw), size=_PIXELS) + 1) / 2
        people = Population()(count=self._settings.devices, seed=self._settings.seed, reference=reference)
        for number in range(1, self._settings.devices + 1):
            home = self._home(number)
            home.mkdir(mode=0o700)
            (home / "passphrase").touch(mode=0o600)
            (home / "passphrase").write_text(secrets.token_hex(16) + "\n")
            passphrase = (home / "passphrase").read_text().strip()
            latents = pack.latents.sample(2 * self._settings.answers, draw)
            utilities = people.utilities((pack.generate(latents, size=_PIXELS) + 1) / 2)[number - 1].tolist()
            with Store.open(home / "store.plgl", passphrase=passphrase) as store:
                memory = Memory(store)
                memory.show("me", pack.hash, 0, latents)
                for first in range(0, latents.shape[0], 2):
                    better = utilities[first] > utilities[first + 1]
                    memory.rate("me", "", Choice(first, first + 1, "a" if better else "b"), None)

    def _home(self, number: int) -> Path:
        return self._folder / f"device-{number}"

    def _invite(self) -> None:
        count, where = str(self._settings.devices), self._folder / "invitations"
        self._plgl("federation", "invite", str(self._operator), "--count", count, "--out", str(where))

    def _join(self) -> None:
        self._tell("plgl join: every device reads its invitation, gets a certificate and starts its edge process")
        last = self._settings.devices
        for number in range(1, last + 1):
            home = self._home(number)
            invitation = self._folder / "invitations" / f"invitation-{number:04d}.txt"
            arguments = ["join", str(invitation), "--store", str(home / "store.plgl"), "--home", str(home / "member")]
            arguments += ["--passphrase-file", str(home / "passphrase"), "--yes"]
            if number == last:
                self._plgl(*arguments, "--no-start")
                self._device(number, ["-m", "simulations.malicious_device", str(home)])
            else:
                self._device(number, ["-m", "common", *arguments])
        for process in self._devices.values():
            process.wait_for("connected", 90)

    def _device(self, number: int, arguments: list[str]) -> None:
        log = self._folder / "logs" / f"device-{number}.txt"
        environment = {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, *arguments]
        self._devices[number] = Process(f"device {number}", command, environment, log).start()

    def _rounds(self) -> dict[str, Any]:
        """Run the rounds; one device is killed in the first and started again in the second."""
        settings = self._settings
        self._tell(f"plgl federation run: {settings.rounds} rounds; device {settings.devices} lies in each of them")
        arguments = ["federation", "run", str(self._operator), "--rounds", str(settings.rounds)]
        arguments += ["--stage-seconds", str(settings.stage_seconds)]
        victim = self._devices[_KILLED]
        with self._running("rounds", arguments) as run:
            shown, killed, back = 0, False, False
            while run.running.poll() is None:
                lines = run.said().splitlines()
                for line in lines[shown:]:
                    self._tell(line)
                shown = len(lines)
                if not killed and "took part in a round" in victim.said():
                    victim.kill()
                    killed = True
                    self._tell(f"device {_KILLED} is killed (kill -9) while it sends its vector")
                if killed and not back and any(line.startswith("round 1:") for line in lines):
                    home = self._home(_KILLED)
                    rest = ["--home", str(home / "member"), "--passphrase-file", str(home / "passphrase")]
                    self._device(_KILLED, ["-m", "common", "sharing", "run", *rest])
                    back = True
                    self._tell(f"device {_KILLED} is started again")
                time.sleep(0.2)
            for line in run.said().splitlines()[shown:]:
                self._tell(line)
            if run.running.returncode:
                raise DeploymentError(f"the rounds ended badly: {run.said()[-400:].strip()}")
        return {"killed": killed}

    def _stop_devices(self) -> None:
        for process in self._devices.values():
            process.running.terminate()
        for process in self._devices.values():
            process.stop()

    def _result(self, rounds: dict[str, Any]) -> dict[str, Any]:
        status = json.loads(self._plgl("federation", "status", str(self._operator), "--json"))
        devices = [self._look(number, process) for number, process in self._devices.items()]
        return {
            "seconds": round(time.monotonic() - self._started, 1),
            "released": len(status["releases"]),
            "killed_in_a_round": rounds["killed"],
            "federation": status,
            "devices": devices,
        }

    def _look(self, number: int, process: Process) -> dict[str, Any]:
        """What a device knows of itself."""
        from client.membership import memberships
        from client.sharing_cli import describe

        (member,) = memberships(self._home(number) / "member")
        alive = process.running.poll() is None
        return {"device": number, "running": alive, "participations": len(member.ledger().rows()), **describe(member)}

    def _report(self, result: dict[str, Any]) -> None:
        privacy = result["federation"]["privacy"]
        self._say("")
        self._say(f"{result['released']} releases in {result['seconds']:.0f} s; each epsilon is a person's total")
        self._say(f"  epsilon   {privacy['epsilon_spent']:.2f} of {privacy['epsilon_budget']:g} spent, on both sides")
        for each in result["federation"]["rounds"]:
            rejected = ", ".join(f"{count} {reason}" for reason, count in each["rejected"].items()) or "nothing"
            self._say(f"  round {each['round']}   {each['answered']} answered; rejected: {rejected}")
        for each in result["devices"]:
            taken = each["release"] or "saw no release yet"
            self._say(f"  device {each['device']}  took part {each['participations']} times; {taken}")
        self._say("The sum of five people is mostly noise, so devices are right to refuse what comes of it.")
        self._say(f"look at it: plgl federation status {self._operator}")
        self._say(f"logs        {self._folder / 'logs'}")


_KILLED = 2
_PIXELS = 48


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
