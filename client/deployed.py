"""The app for a stock ``flower-supernode``: the same device, inside Flower's own processes.

Start the SuperNode with ``--node-config 'membership="/path/of/the/membership"'`` and the passphrase of the store in its
environment (``PLGL_PASSPHRASE``). The edge process of ``plgl sharing run`` is the better way: it refuses foreign app
bundles, keeps the model warm and never gives a round's secrets to another process.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from flwr.app import Context

from client.app import device_app
from client.device import Device
from client.membership import Membership
from common.errors import SettingError

PASSPHRASE = "PLGL_PASSPHRASE"


def device_of(context: Context) -> Device:
    """The device that a node's configuration names.

    Raises:
        SettingError: it names none.
        EnrolmentError: there is no membership in that folder.
    """
    folder = context.node_config.get("membership")
    if not isinstance(folder, str) or not folder:
        raise SettingError("no membership; start the node with: --node-config 'membership=\"/path\"'")
    return _opened(Path(folder))


@functools.lru_cache(maxsize=4)
def _opened(folder: Path) -> Device:
    return Membership.open(folder).device(os.environ.get(PASSPHRASE))


app = device_app(device_of)
