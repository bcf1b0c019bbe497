import pytest

from client.ratings import Best, Choice, Kind, Like, Stars, encode
from common.errors import SettingError


def test_every_kind_becomes_a_row() -> None:
    kinds, values, items = encode([Like(3, True), Choice(1, 2, "neither"), Stars(0, 4), Best((4, 5, 6), 2, worst=True)])
    assert kinds == [Kind.LIKE, Kind.CHOICE, Kind.STARS, Kind.WORST]
    assert values == [1, 3, 4, 2]
    assert items == [[3, -1, -1], [1, 2, -1], [0, -1, -1], [4, 5, 6]]


def test_nothing_said_is_no_rows() -> None:
    assert encode([]) == ([], [], [])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Stars(0, 6), "stars=6"),
        (lambda: Stars(0, 0), "stars=0"),
        (lambda: Choice(1, 1, "a"), "item 1 twice"),
        (lambda: Choice(1, 2, "maybe"), "maybe"),  # type: ignore[arg-type]
        (lambda: Best((1,), 0), "chosen=0"),
        (lambda: Best((1, 2), 2), "chosen=2"),
    ],
)
def test_an_impossible_rating_is_refused_and_named(make: object, named: str) -> None:
    with pytest.raises(SettingError, match=named):
        make()  # type: ignore[operator]
