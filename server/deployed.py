"""The Flower ServerApp of a deployed federation: runs rounds over the Grid with the journal of the operator's folder.

Started by ``plgl federation run``, or by ``flwr run`` with ``--run-config 'federation="/path" rounds=4'``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import CohortError, SettingError
from server.coordinator import coordinate, recover
from server.federation import Federation
from server.grid import limit_patience, stages, wait_for_nodes

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Recover, then run ``rounds`` rounds.

    Raises:
        SettingError: a run setting is missing or of another type.
        BudgetError: the budget is spent.
        CohortError: no round gave a release.
    """
    folder, rounds, seconds = _settings(context.run_config)
    limit_patience()
    federation = Federation.open(folder)
    with federation.desk() as desk:
        for line in recover(desk):
            print(line, flush=True)
        wanted = desk.terms.settings.expected_people
        published = coordinate(
            stages(grid, seconds),
            lambda: wait_for_nodes(grid, wanted, seconds),
            desk,
            rounds,
            on_round=lambda number, record: print(f"round {number}: {record}", flush=True),
        )
    if not published:
        raise CohortError(f"none of {rounds} rounds gave a release; see plgl federation status {folder}")


def _settings(config: Mapping[str, object]) -> tuple[Path, int, float]:
    folder, rounds, seconds = (config.get(key) for key in ("federation", "rounds", "stage-seconds"))
    if not isinstance(folder, str) or not folder:
        raise SettingError(f"federation={folder!r} must be the operator's folder; set it with --run-config")
    if type(rounds) is not int or rounds < 1:
        raise SettingError(f"rounds={rounds!r} must be a whole number from 1")
    if not isinstance(seconds, int | float) or not seconds > 0:
        raise SettingError(f"stage-seconds={seconds!r} must be > 0; try 60.0")
    return Path(folder), rounds, float(seconds)
