"""The list of searches. One that is listed is tested against the laws of all."""

from __future__ import annotations

from collections.abc import Callable

from client.search.base import Search
from client.search.bayesian import BayesianSearch
from client.search.evolution import EvolutionSearch
from client.search.gradient import GradientSearch
from client.search.hill_climb import HillClimb
from client.search.pool import PoolSearch
from client.search.reverse import ClosedFormSearch, CoordinateSearch, RootSearch
from common.errors import SettingError

SEARCHES: dict[str, Callable[[], Search]] = {
    method.name: method
    for method in (
        PoolSearch,
        GradientSearch,
        ClosedFormSearch,
        RootSearch,
        CoordinateSearch,
        EvolutionSearch,
        BayesianSearch,
        HillClimb,
    )
}


def search(name: str) -> Search:
    """A search by its name, with default settings.

    Raises:
        SettingError: there is none of that name, or what it needs is not installed.
    """
    if name not in SEARCHES:
        raise SettingError(f"search {name!r} is unknown; choose one of {', '.join(SEARCHES)}")
    return SEARCHES[name]()
