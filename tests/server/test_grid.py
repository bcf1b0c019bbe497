import time
from collections.abc import Callable, Iterator

import pytest
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError, pull_objects
from flwr.superlink.grid import http_grid

from server.grid import limit_patience


def pull() -> Callable[..., dict[str, bytes]]:
    """What a Grid pulls with now."""
    found: Callable[..., dict[str, bytes]] = vars(http_grid)["pull_objects"]
    return found


@pytest.fixture(autouse=True)
def patience_of_flower() -> Iterator[None]:
    before = pull()
    yield
    vars(http_grid)["pull_objects"] = before


def never(object_id: str) -> bytes:
    raise ObjectUnavailableError(object_id)


def test_an_answer_that_is_announced_and_never_sent_is_given_up() -> None:
    """Flower itself would wait for up to two hours; the other answers wait with it."""
    assert pull() is pull_objects
    limit_patience(0.5)
    start = time.monotonic()
    with pytest.raises(ObjectPullError):
        pull()(["a" * 64], never)
    assert time.monotonic() - start < 60


def test_what_comes_late_still_counts() -> None:
    limit_patience(30)
    asked: list[str] = []

    def late(object_id: str) -> bytes:
        asked.append(object_id)
        if len(asked) < 3:
            raise ObjectUnavailableError(object_id)
        return b"content"

    assert pull()(["a" * 64], late) == {"a" * 64: b"content"}
