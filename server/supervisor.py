"""What ``plgl federation up`` does: keeps SuperLink, gate and operator's view running until it is told to stop."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO

import uvicorn

from common.errors import DeploymentError
from common.files import write_privately
from server.audit import SUMMARY_SECONDS, Audit, Event
from server.enrolment_book import Member
from server.federation import Federation
from server.gate import Backstage, Gate, GateSettings
from server.gate_server import Serving, gate_config
from server.superlink import SuperLink

LOOK_SECONDS = 0.5
_RECONCILE_SECONDS = 2.0
_HEALTH_SECONDS = 10.0
_UNHEALTHY_LOOKS = 3
LONGEST_BACK_OFF = 60.0


@dataclass(frozen=True, kw_only=True)
class UpSettings:
    """Where things listen.

    Attributes:
        host: address of the gate on this machine; ``0.0.0.0`` for all.
        port: of the gate; 0 for one that is free.
        view_port: of the operator's view, on the loopback interface; 0 for one that is free.
        superlink_port: on the loopback interface; None for one that is free.
        gate: limits of the gate.
    """

    host: str
    port: int
    view_port: int = 0
    superlink_port: int | None = None
    gate: GateSettings = GateSettings()  # noqa: RUF009


class Supervisor:
    """One running federation."""

    def __init__(self, federation: Federation, settings: UpSettings, *, say: Callable[[str], None]) -> None:
        """Nothing is started yet.

        Args:
            federation: its folder.
            settings: where things listen.
            say: told what happens, for the operator.
        """
        self._federation, self._settings, self._say = federation, settings, say
        self._audit = Audit(federation.audit_log)
        self._book = federation.book()
        self._superlink = SuperLink(federation, settings.superlink_port)
        self._known: tuple[list[Member], list[Member]] | None = None

    def run(self, stop: threading.Event) -> None:
        """Start everything, keep it running, and stop it in order once ``stop`` is set.

        Raises:
            DeploymentError: another process serves this folder, a port is in use, or a part does not start.
        """
        with _only_one(self._federation), contextlib.ExitStack() as ends:
            if self._federation.renew_certificate(time.time()):
                self._say("the server certificate was made anew")
            ends.callback(self._superlink.stop)
            self._superlink.start()
            self._superlink.wait()
            self._reconcile()
            gate = self._start(ends, self._gate_config())
            view_config = self._view_config()
            view = None if view_config is None else self._start(ends, view_config)
            ports = self._write_ports(ends, gate, view)
            self._audit.record(Event.UP, **ports)
            ends.callback(self._write_down)
            self._say(f"gate       https://{self._federation.address}  (port {ports['gate']} of this machine)")
            self._say(f"SuperLink  {self._superlink.address}  (this machine only)")
            if view is not None:
                token = self._federation.view_token()
                self._say(f"view       http://127.0.0.1:{ports['view']}/?token={token}  (this machine only)")
            self._watch(stop, gate)
            self._say("stopping")

    def _watch(self, stop: threading.Event, gate: Serving) -> None:
        failures, unhealthy, next_reconcile, next_flush = 0, 0, 0.0, 0.0
        next_health = time.monotonic() + _HEALTH_SECONDS
        while not stop.wait(LOOK_SECONDS):
            if not gate.alive:
                raise DeploymentError("the gate ended; start again")
            now = time.monotonic()
            if now >= next_health:
                with self._superlink.control() as control:
                    unhealthy = 0 if control.healthy() else unhealthy + 1
                next_health = time.monotonic() + _HEALTH_SECONDS
            if not self._superlink.alive or unhealthy >= _UNHEALTHY_LOOKS:
                failures = self._restart(stop, failures)
                unhealthy, next_health = 0, time.monotonic() + _HEALTH_SECONDS
            elif now >= next_reconcile:
                failures = 0
                with contextlib.suppress(DeploymentError):  # the next look at its health decides
                    self._reconcile()
                next_reconcile = now + _RECONCILE_SECONDS
            if now >= next_flush:
                self._audit.flush()
                next_flush = now + SUMMARY_SECONDS

    def _restart(self, stop: threading.Event, failures: int) -> int:
        """Start the SuperLink again after a pause that doubles; returns how often it has failed in a row."""
        pause = min(LONGEST_BACK_OFF, 2.0**failures) if failures else 0.0
        self._say(f"the SuperLink ended; starting it again in {pause:g} s, see {self._superlink.log}")
        self._superlink.stop()
        if stop.wait(pause):
            return failures
        self._superlink.start()
        try:
            self._superlink.wait()
        except DeploymentError as error:
            self._say(str(error))
            return failures + 1
        self._known = None
        self._say("the SuperLink answers again; a run that was going on has ended, give plgl federation run again")
        return failures

    def _reconcile(self) -> None:
        """Bring the SuperLink's node keys in line with the book, where that has changed."""
        # all who were ever enrolled, too: the gate lets keys in by itself, and who has gone again since is not active
        now = (self._book.members(), self._book.active())
        if now != self._known:
            with self._superlink.control() as control:
                for line in control.reconcile(self._book.active):
                    self._say(line)
            self._known = now

    def _gate_config(self) -> uvicorn.Config:
        federation = self._federation
        backstage = Backstage(
            book=self._book,
            document=federation.document,
            releases=federation.releases,
            superlink=self._superlink.address,
            tls_authority=federation.tls_authority.read_text("ascii"),
            register=self._register,
            unregister=self._unregister,
            audit=self._audit,
        )
        gate = Gate(backstage, self._settings.gate)
        host, port = self._settings.host, self._settings.port
        return gate_config(gate, host=host, port=port, certificate=federation.certificate, key=federation.server_key)

    def _view_config(self) -> uvicorn.Config | None:
        """The operator's view; None in an installation without it."""
        try:
            make_app = importlib.import_module("server.operator_view").make_app
        except ModuleNotFoundError as error:
            if error.name != "server.operator_view":
                raise
            return None
        return uvicorn.Config(
            make_app(self._federation, self._federation.view_token()),
            host="127.0.0.1",
            port=self._settings.view_port,
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )

    def _start(self, ends: contextlib.ExitStack, config: uvicorn.Config) -> Serving:
        serving = Serving(config)
        ends.callback(serving.stop)
        serving.start()
        return serving

    def _write_ports(self, ends: contextlib.ExitStack, gate: Serving, view: Serving | None) -> dict[str, int | None]:
        ports = {
            "pid": os.getpid(),
            "gate": gate.port,
            "superlink": self._superlink.port,
            "view": None if view is None else view.port,
            "started": int(time.time()),
        }
        ends.callback(self._federation.running.unlink, missing_ok=True)
        write_privately(self._federation.running, json.dumps(ports).encode() + b"\n")
        return ports

    def _write_down(self) -> None:
        self._audit.flush()
        self._audit.record(Event.DOWN)

    def _register(self, key: str, number: int) -> None:
        with self._superlink.control() as control:
            control.register(key, f"member-{number}")

    def _unregister(self, key: str) -> None:
        with self._superlink.control() as control:
            control.unregister(key)


@contextlib.contextmanager
def _only_one(federation: Federation) -> Iterator[TextIO]:
    """A lock that the operating system lets go of when the process ends, however it ends."""
    import fcntl

    with (federation.folder / "up.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DeploymentError(f"another process serves {federation.folder} already; stop that one first") from error
        yield file
