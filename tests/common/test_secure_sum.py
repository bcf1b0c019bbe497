import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom  # type: ignore[import-untyped]

from common import secure_sum
from common.errors import ProtocolError
from common.secure_sum import KeyPair, modulus_bits, neighbours, pack, packed_bytes, signed, unpack
from common.shamir import PRIME, coefficients, combine, split

ALPHA = 1e-4


@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.integers(0, 8), st.randoms())
def test_any_enough_shares_give_a_secret_back(secret: bytes, threshold: int, more: int, draw: Random) -> None:
    holders = list(range(3, 3 + threshold + more))
    shares = split(secret, threshold, holders)
    draw.shuffle(holders)
    assert combine(shares, coefficients(holders[:threshold])) == secret


def test_one_share_too_few_gives_something_else() -> None:
    shares = split(bytes(31) + b"\1", 5, range(1, 10))
    with pytest.raises(ProtocolError, match="one of them is false"):
        combine(shares, coefficients([1, 2, 3, 4]))


def test_shares_below_the_threshold_do_not_depend_on_the_secret() -> None:
    """First bytes of single shares of two very different secrets: the same uniform law, by chi-square."""
    for secret in (bytes(32), b"\xff" * 32):
        first = [split(secret, 2, [1, 2])[1][-1] for _ in range(12_800)]
        counts = np.bincount(first, minlength=256)
        statistic = float(((counts - 50.0) ** 2 / 50.0).sum())
        assert statistic < 255 + 4.5 * math.sqrt(2 * 255)


@pytest.mark.parametrize("flip", [0, 7, 65])
def test_a_false_share_gives_no_secret_or_a_false_one(flip: int) -> None:
    """Which is why a member commits to its seed: the last bit of a share may go unnoticed otherwise."""
    shares = split(b"s" * 32, 3, [1, 2, 3])
    bad = bytearray(shares[2])
    bad[flip] ^= 1
    try:
        found = combine({**shares, 2: bytes(bad)}, coefficients([1, 2, 3]))
    except ProtocolError:
        return
    assert secure_sum.commit(found, b"d" * 32) != secure_sum.commit(b"s" * 32, b"d" * 32)


def test_the_field_is_a_mersenne_prime() -> None:
    assert PRIME == 2**521 - 1
    assert pow(3, PRIME - 1, PRIME) == 1


@given(st.integers(2, 62), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40))
def test_packing_keeps_the_lowest_bits(bits: int, values: list[int]) -> None:
    words = np.array(values, dtype=np.uint64)
    raw = pack(words, bits)
    assert len(raw) == packed_bytes(len(values), bits) == math.ceil(len(values) * bits / 8)
    assert unpack(raw, len(values), bits).tolist() == [value % 2**bits for value in values]


@given(st.integers(2, 62), st.data())
def test_words_become_integers_around_zero(bits: int, data: st.DataObject) -> None:
    value = data.draw(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    word = np.array([value % 2**64], dtype=np.uint64)
    assert signed(word, bits).tolist() == [value]


@pytest.mark.parametrize("members", [2, 3, 100, 128, 129, 300, 1_001])
def test_the_graph_is_regular_and_symmetric(members: int) -> None:
    roster = list(range(5, 5 + members))
    graph = neighbours(roster, b"seed")
    assert {len(set(found)) for found in graph.values()} == {secure_sum.degree(members)}
    assert all(one in graph[other] and one != other for one in roster for other in graph[one])


def test_the_graph_depends_on_everybodys_keys() -> None:
    roster = list(range(1, 301))
    assert neighbours(roster, b"one")[1] != neighbours(roster, b"two")[1]


@pytest.mark.parametrize("members", [2, 3, 4, 5, 10, 99, 100, 128, 129, 1_000])
def test_the_threshold_lets_nobody_have_both_secrets(members: int) -> None:
    """With fewer than a third of the holders colluding, the shares of both secrets cannot both reach the threshold."""
    holders, threshold = secure_sum.degree(members) + 1, secure_sum.threshold(members)
    colluding = math.ceil(holders / 3) - 1
    assert 3 * threshold > 2 * holders or threshold == holders
    assert 2 * threshold > (holders - colluding) + 2 * colluding


def test_the_sparse_graph_fails_as_rarely_as_it_says() -> None:
    members, k, threshold = 1_000, secure_sum.degree(1_000), secure_sum.threshold(1_000)
    enough_to_read = math.ceil((k + 1) / 3)
    assert hypergeom.sf(enough_to_read - 1, members - 1, 100, k) < 1e-11
    # a member's secrets are lost when fewer than the threshold of its holders answer
    assert hypergeom.cdf(threshold - 1, members, 850, k + 1) < 1e-5
    assert hypergeom.sf(enough_to_read - 1, members - 1, 300, k) > 1e-3  # three tenths colluding is too many


def test_both_sides_agree_on_a_key_of_256_bits() -> None:
    """The 32-bit seeds that can be searched do not exist here: keys of many pairs differ and look uniform."""
    one, keys = KeyPair.generate(), set()
    for number in range(2_000):
        other = KeyPair.generate()
        there = one.agree(other.public)
        assert there == other.agree(one.public)
        keys.add(secure_sum.derive(there, b"d" * 32, "mask", 1, number + 2))
    assert {len(key) for key in keys} == {32}
    assert len(keys) == 2_000
    for byte in range(32):  # no byte is constant, none has a fixed bit
        column = [key[byte] for key in keys]
        bits = [sum(value >> bit & 1 for value in column) for bit in range(8)]
        assert all(abs(count - 1_000) < 5.5 * math.sqrt(500) for count in bits)


def test_a_key_for_one_use_is_no_key_for_another() -> None:
    made = {
        secure_sum.derive(b"s" * 32, digest, use, low, high)
        for digest in (b"a" * 32, b"b" * 32)
        for use in ("mask", "box")
        for low, high in ((1, 2), (1, 3), (2, 1))
    }
    assert len(made) == 12


def test_a_public_key_of_small_order_is_refused() -> None:
    with pytest.raises(ProtocolError, match="small subgroup"):
        KeyPair.generate().agree(bytes(32))


@given(st.integers(2, 20_000), st.floats(1e3, 1e9), st.integers(0, 2**60))
def test_a_sum_within_its_bound_fits_the_modulus(members: int, bound: float, variance: int) -> None:
    try:
        bits = modulus_bits(members, bound, variance)
    except ProtocolError:
        assert math.log2(members * bound + 40 * math.sqrt(members * variance)) > 60
        return
    assert members * bound + 40 * math.sqrt(members * variance) < 2 ** (bits - 1)
    assert bits <= 62
