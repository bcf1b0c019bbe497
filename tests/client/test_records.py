import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.journal import Event
from client.records import UNIT, pack, unpack
from client.store import Store
from client.store_export import _sealed, read_export, write_export
from client.vault import OVERHEAD, Cost, lock
from common.errors import DamagedStore, SettingError, StorageError, StoreError

CHEAP = Cost(passes=1, kib=32, lanes=1)
HEAD = struct.Struct("<dBBI")


@given(st.lists(st.integers(0, 3), max_size=4), st.text(max_size=60), st.floats(allow_nan=False))
def test_a_record_gives_its_event_back(shape: list[int], text: str, at: float) -> None:
    events = [Event("item", {"x": text}, torch.randn(shape), at=at), Event(text, {text: 1}, at=at)]
    first, second = unpack(enumerate(pack(events, now=at), 1))
    assert first.latent is not None
    assert first.latent.equal(torch.as_tensor(events[0].latent))
    assert (first.body, first.at, first.id, first.latent.shape) == ({"x": text}, at, 1, torch.Size(shape))
    assert (second.kind, second.body, second.latent, second.id) == (text, {text: 1}, None, 2)


def test_a_sealed_record_has_a_round_length_and_512_numbers_fit_seven_to_a_page() -> None:
    records = pack([Event("item", {"x": "y" * n}, torch.randn(512)) for n in range(0, 300, 7)])
    assert {(len(record) + OVERHEAD) % UNIT for record in records} == {0}
    assert 7 * (len(records[0]) + OVERHEAD + 10) < 16384 - 8


@settings(max_examples=300)
@given(st.binary(max_size=80) | st.builds(lambda head, rest: HEAD.pack(0.0, *head) + rest, st.tuples(
    st.integers(0, 9), st.integers(0, 255), st.integers(0, 9)), st.binary(max_size=60)))  # fmt: skip
def test_any_bytes_are_a_record_or_an_error_of_ours(record: bytes) -> None:
    try:
        [event] = unpack([(1, record)])
    except DamagedStore:
        return
    assert isinstance(event.body, dict)


@pytest.mark.parametrize("body", [b"[]", b"3", b'{"a":1},{"b":2}', b"{", b"[" * 100_000, b"1" * 5000])
def test_a_body_is_one_object(body: bytes) -> None:
    with pytest.raises(DamagedStore):
        unpack([(1, HEAD.pack(0.0, 0, 255, len(body)) + body)])


def test_a_latent_larger_than_its_record_is_refused() -> None:
    for sizes in ((100,), (2**32 - 1,) * 3, (2**32 - 1,) * 200):
        shape = struct.pack(f"<{len(sizes)}I", *sizes)
        with pytest.raises(DamagedStore):
            unpack([(1, HEAD.pack(0.0, 0, len(sizes), 2) + shape + b"{}" + bytes(64))])


@pytest.mark.parametrize(
    "numbers", [[0], [2, 1], [1, 1], [5], [2**63], [1, 2, 3, 4]], ids=["zero", "order", "twice", "late", "huge", "all"]
)
def test_an_export_of_somebody_who_means_ill_makes_no_store(tmp_path: Path, numbers: list[int]) -> None:
    """The sender knows the passphrase, so everything is authentic, and still not believed."""
    events = [Event("rating", {}, id=number) for number in numbers]
    write_export(tmp_path / "e.plgl", "x", CHEAP, events, 4)
    with pytest.raises(StoreError, match="out of order"):
        Store.import_(tmp_path / "e.plgl", "x", tmp_path / "s.plgl", "y", cost=CHEAP)
    assert not (tmp_path / "s.plgl").exists()


@pytest.mark.parametrize("content", [b"", b"short", bytes(15), (4).to_bytes(8, "little") + (9).to_bytes(8, "little")])
def test_an_export_that_holds_less_than_it_says_is_refused(tmp_path: Path, content: bytes) -> None:
    key = bytes(32)
    header = lock(key, "export", bytes(16), "x", CHEAP, None)
    (tmp_path / "e.plgl").write_bytes(header.encode() + b"".join(_sealed(memoryview(content), key)))
    with pytest.raises(DamagedStore, match="less than it says"):
        read_export(tmp_path / "e.plgl", "x")


def test_an_export_that_is_not_there_or_not_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        read_export(tmp_path / "none", "x")
    (tmp_path / "notes").write_text(json.dumps({"not": "an export"}))
    with pytest.raises(DamagedStore, match="header"):
        read_export(tmp_path / "notes", "x")
    with pytest.raises(SettingError, match="empty"):
        write_export(tmp_path / "e.plgl", "", CHEAP, [], 1)
    assert not (tmp_path / "e.plgl").exists()
