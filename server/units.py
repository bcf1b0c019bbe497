"""systemd units for a federation: the server, its rounds on a timer, and a device."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

_HARDENING = """\
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LockPersonality=yes
UMask=0077
"""


def units(folder: Path, *, rounds: int, every: str, user: str) -> dict[str, str]:
    """Units by file name.

    Args:
        folder: the operator's folder.
        rounds: rounds of each start of the timer.
        every: when they start, as systemd's ``OnCalendar`` has it.
        user: account that the server runs as; it should run nothing else.
    """
    command = shlex.join([str(Path(sys.executable).parent / "plgl"), "federation"])
    where = shlex.quote(str(folder))
    server = f"User={user}\n{_HARDENING}ReadWritePaths={_path(folder)}\n"
    return {
        "plgl-federation.service": _service(
            "plgl federation: gate and SuperLink",
            f"{command} up {where}",
            # on-failure: a stop is a stop; the SuperLink inside is restarted by `up` itself
            f"Restart=on-failure\nRestartSec=10\nTimeoutStopSec=60\nKillMode=mixed\n{server}",
            after="network-online.target",
        ),
        "plgl-federation-rounds.service": _service(
            "plgl federation: some rounds",
            f"{command} run {where} --rounds {rounds}",
            # 3: the budget is spent, which is an end and no failure
            f"SuccessExitStatus=3\n{server}",
            after="plgl-federation.service",
            kind="oneshot",
        ),
        "plgl-federation-rounds.timer": (
            "[Unit]\nDescription=plgl federation: when rounds start\n\n"
            f"[Timer]\nOnCalendar={every}\nRandomizedDelaySec=15min\n\n[Install]\nWantedBy=timers.target\n"
        ),
    }


def device_unit() -> dict[str, str]:
    """The unit of a device, for its person's own systemd (``systemctl --user``)."""
    command = shlex.join([str(Path(sys.executable).parent / "plgl"), "sharing", "run"])
    # Flower lets a device that was killed come back after about a minute
    content = "Restart=on-failure\nRestartSec=60\nNice=10\nUMask=0077\nNoNewPrivileges=yes\n"
    return {
        "plgl-sharing.service": _service(
            "plgl: take part in rounds", command, content, after="network-online.target", wanted="default.target"
        )
    }


def _service(
    about: str, command: str, content: str, *, after: str, kind: str = "exec", wanted: str = "multi-user.target"
) -> str:
    install = "" if kind == "oneshot" else f"\n[Install]\nWantedBy={wanted}\n"
    return (
        f"[Unit]\nDescription={about}\nAfter={after}\nWants={after}\n\n"
        f"[Service]\nType={kind}\nExecStart={command.replace('%', '%%')}\n{content}{install}"
    )


def _path(folder: Path) -> str:
    return '"' + str(folder).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'
