"""Serving the gate: TLS, and limits on connections that an application cannot set."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.errors import DeploymentError
from server.gate import Gate, GateSettings
from server.rates import network

_START_SECONDS = 15.0
_STOP_SECONDS = 5
_LARGEST_HEAD = 16 * 2**10


class Serving:
    """An ASGI server in a thread of this process, so that signals stay with the main thread."""

    def __init__(self, config: uvicorn.Config) -> None:
        """Nothing is opened yet."""
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._config = config
        self.port = config.port

    def start(self) -> None:
        """Start to listen; ``port`` is then the real one.

        Raises:
            DeploymentError: the port is in use, or may not be used.
        """
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise DeploymentError(
                    f"cannot listen on {self._config.host} port {self._config.port}; is it in use, or below 1024? "
                    "choose another with --port"
                )
            time.sleep(0.02)
        self.port = int(self._server.servers[0].sockets[0].getsockname()[1])

    @property
    def alive(self) -> bool:
        """Whether it still listens."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Finish what is under way, for some seconds at most, and close the port."""
        self._server.should_exit = True
        self._thread.join(_STOP_SECONDS + 5)

    def _run(self) -> None:
        try:
            self._server.run()
        except SystemExit:  # uvicorn's way to say that it cannot listen
            return


def gate_config(gate: Gate, *, host: str, port: int, certificate: Path, key: Path) -> uvicorn.Config:
    """How the gate is served: TLS 1.2 or newer, no proxy headers believed, no WebSockets, no access log.

    Args:
        gate: the application, with its limits.
        host: address to listen on.
        port: 0 for one that is free.
        certificate: PEM file.
        key: PEM file.
    """
    return uvicorn.Config(
        gate.app,
        host=host,
        port=port,
        http=limited(gate.settings),
        ws="none",
        interface="asgi3",
        lifespan="on",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        limit_concurrency=gate.settings.connections,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=_STOP_SECONDS,
        h11_max_incomplete_event_size=_LARGEST_HEAD,
    )


def limited(settings: GateSettings) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 protocol with a limit on connections from one network and on slow heads of requests."""
    open_now: Counter[str] = Counter()

    class Limited(H11Protocol):
        _who: str | None = None
        _head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            who = network(self.client[0] if self.client else "")
            if open_now[who] >= settings.network_connections:
                transport.abort()
                return
            self._who = who
            open_now[who] += 1
            self._watch_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch_head()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._unwatch_head()
            if self._who is not None:
                open_now[self._who] -= 1
                if open_now[self._who] <= 0:
                    del open_now[self._who]
                self._who = None

        def _watch_head(self) -> None:
            """The clock runs from the first moment of a head to its last; not while a request is under way."""
            waiting: Any = self.conn.their_state is h11.IDLE
            if not waiting or (self.timeout_keep_alive_task is not None):
                self._unwatch_head()
            elif self._head is None:
                self._head = self.loop.call_later(settings.head_seconds, self.transport.abort)

        def _unwatch_head(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return Limited
