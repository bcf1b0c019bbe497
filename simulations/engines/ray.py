"""Flower's own simulation engine: the same apps, the nodes in worker processes of Ray."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from client.app import client_app
from common.errors import SettingError
from server.app import federate, server_app
from simulations.engines import Job, Outcome, ratings_on_disk
from simulations.engines.inline import plan_of

LARGEST_ACTORS = 4
"""Worker processes; each loads torch, about 0.3 GB."""
_STORE_BYTES = 128 * 2**20  # messages are kilobytes; Ray would reserve a third of the memory


def run(job: Job) -> Outcome:
    """Run a job on Ray; errors as for ``server.rounds.run_rounds``.

    Raises:
        SettingError: Ray is not installed.
    """
    require()
    from flwr.simulation import run_simulation

    outcome: list[Outcome] = []
    plan = plan_of(job)
    server = server_app(
        lambda grid: outcome.append(federate(grid, plan, randomness=job.randomness, on_round=job.on_round))
    )
    with ratings_on_disk(job) as folder, quiet(), cluster(job.nodes):
        run_simulation(
            server_app=server,
            client_app=client_app(folder, threads=1),  # one thread per actor, or the actors fight for the cores
            num_supernodes=job.nodes,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
    return outcome[0]


def require() -> None:
    """Refuse where Ray is not installed.

    Raises:
        SettingError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise SettingError("engine='ray' needs Ray; install it with: pip install \"plgl[simulation]\"")


@contextmanager
def cluster(nodes: int) -> Iterator[None]:
    """A Ray of our own, started before Flower starts threads: if it cannot start, none of them is left waiting."""
    import ray

    ray.init(
        num_cpus=min(LARGEST_ACTORS, nodes, os.cpu_count() or 1),
        num_gpus=0,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        object_store_memory=_STORE_BYTES,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def quiet() -> Iterator[None]:
    """No telemetry, and none of Flower's log lines: errors come as exceptions and as counted replies."""
    from flwr.supercore import telemetry

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # read from the environment when Flower was first imported
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
