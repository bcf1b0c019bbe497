import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import SettingError
from server.rates import Buckets, Rate, network


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_the_rate() -> None:
    clock = Clock()
    buckets = Buckets(Rate(per_second=2.0, burst=3), clock)
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a") == pytest.approx(0.5)
    clock.now += 0.5
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0


def test_each_asker_has_a_bucket_of_its_own() -> None:
    buckets = Buckets(Rate(per_second=1.0, burst=1), Clock())
    assert buckets.take("a") == 0
    assert buckets.take("b") == 0
    assert buckets.take("a") > 0


def test_memory_is_bounded_and_the_busy_are_remembered() -> None:
    buckets = Buckets(Rate(per_second=1.0, burst=1), Clock(), most=10)
    buckets.take("busy")
    for number in range(100):
        buckets.take(number)
        assert buckets.take("busy") > 0
    assert len(buckets._buckets) <= 10


@given(waits=st.lists(st.floats(0, 5), max_size=50), burst=st.integers(1, 5), rate=st.floats(0.1, 5))
def test_never_more_than_burst_and_rate_allow(waits: list[float], burst: int, rate: float) -> None:
    clock = Clock()
    buckets = Buckets(Rate(per_second=rate, burst=burst), clock)
    passed = 0
    for wait in waits:
        clock.now += wait
        passed += buckets.take("a") == 0
    assert passed <= burst + rate * (clock.now - 100.0) + 1e-6


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (float("inf"), 1), (float("nan"), 1), (1.0, 0)])
def test_a_rate_that_lets_nobody_through_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(SettingError, match="nobody"):
        Rate(per_second=rate, burst=burst)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        ("nonsense", "unknown"),
    ],
)
def test_one_household_is_one_network(address: str, expected: str) -> None:
    assert network(address) == expected
