"""The app for a stock ``flower-supernode``: the same device, inside Flower's own processes.

A member who joined with ``plgl join INVITATION --no-start`` starts the node in the folder of the membership, which is
``plgl/federations/IDENTIFIER`` in the user's data folder. plgl's environment is active (Flower starts its own programs
by name), and HOST:PORT is the address in the invitation::

    python -c "import json; print(json.load(open('membership.json'))['invite']['tls_authority'])" > ca.crt
    export PLGL_PASSPHRASE=...     # of the store; leave it out where the system keyring has the key
    export FLWR_HOME="$PWD/flower" FLWR_TELEMETRY_ENABLED=0
    flower-supernode --superlink HOST:PORT --root-certificates ca.crt --auth-supernode-private-key node.key \\
        --node-config "membership=\\"$PWD\\""     # a second node on one machine also needs --port, another than 9094

The operator, while ``plgl federation up`` runs, starts rounds as any app of Flower; FOLDER is an absolute path::

    export FLWR_HOME=FOLDER/flower FLWR_TELEMETRY_ENABLED=0
    flwr run FOLDER/bundle --stream --run-config 'federation="FOLDER" rounds=1 stage-seconds=60'

Stock nodes and edge processes may take part in the same round; each membership runs one of the two. The edge process
of ``plgl sharing run`` is the better way. It refuses foreign app bundles, where a stock node runs whatever the
operator's SuperLink sends. It keeps the model warm, where a stock node loads everything anew in each of a round's four
stages, ten to twenty seconds each. It never gives a round's secrets to another process, and it takes up releases.
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
