import os
from pathlib import Path

import pytest
import torch

from client.generators.item_cache import ItemCache
from client.generators.pack import GeneratorPack
from common.errors import SettingError, StorageError

ITEM = torch.arange(12.0).reshape(3, 2, 2)
SHAPE = (3, 2, 2)
EACH = 32 + 48  # bytes


def names(cache: ItemCache) -> set[str]:
    return {path.stem for path in cache.folder.glob("*/*.item")}


def test_an_item_comes_back_bit_for_bit_also_from_another_process_view(tmp_path: Path) -> None:
    ItemCache(tmp_path / "cache").put("group", "name", ITEM / 7)
    again = ItemCache(tmp_path / "cache")
    found = again.get("group", "name", SHAPE)
    assert found is not None
    assert torch.equal(found, ITEM / 7)
    assert again.total_bytes == EACH
    assert again.get("group", "other", SHAPE) is None
    assert again.get("other", "name", SHAPE) is None


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    cache = ItemCache(tmp_path / "cache")
    cache.put("group", "name", ITEM)
    for path in (cache.folder, *cache.folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["cut", "flipped", "longer"])
def test_a_damaged_item_counts_as_missing_and_is_removed(tmp_path: Path, damage: str) -> None:
    cache = ItemCache(tmp_path)
    cache.put("group", "name", ITEM)
    path = tmp_path / "group" / "name.item"
    raw = bytearray(path.read_bytes())
    if damage == "flipped":
        raw[40] ^= 1
    path.write_bytes({"cut": raw[:-1], "flipped": raw, "longer": raw + b"x"}[damage])
    assert cache.get("group", "name", SHAPE) is None
    assert not path.exists()


def test_the_limit_holds_and_the_oldest_items_of_the_least_used_group_go_first(tmp_path: Path) -> None:
    cache = ItemCache(tmp_path, limit_bytes=4 * EACH)
    for age, (group, name) in enumerate([("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b2")]):
        cache.put(group, name, ITEM)
        os.utime(tmp_path / group / f"{name}.item", (1000 + age, 1000 + age))
        os.utime(tmp_path / group, (1000 + age, 1000 + age))
    assert cache.get("a", "a2", SHAPE) is not None  # now b was used longest ago
    cache.put("c", "c1", ITEM)
    assert names(cache) == {"a1", "a2", "b2", "c1"}
    os.utime(tmp_path / "a", (3000, 3000))
    cache.put("c", "c2", ITEM)
    assert names(cache) == {"a1", "a2", "c1", "c2"}
    assert cache.total_bytes == sum(path.stat().st_size for path in tmp_path.glob("*/*.item")) == 4 * EACH


def test_a_smaller_limit_is_kept_from_the_start_and_none_keeps_nothing(tmp_path: Path) -> None:
    cache = ItemCache(tmp_path)
    for name in "abc":
        cache.put("group", name, ITEM)
    assert ItemCache(tmp_path, limit_bytes=2 * EACH).total_bytes == 2 * EACH
    assert not ItemCache(tmp_path, limit_bytes=0).put("group", "d", ITEM)
    assert not names(cache)
    with pytest.raises(SettingError, match="limit_bytes=-1"):
        ItemCache(tmp_path, limit_bytes=-1)


def test_reading_leaves_no_trace_of_which_item_it_was(tmp_path: Path) -> None:
    cache = ItemCache(tmp_path)
    for name in "ab":
        cache.put("group", name, ITEM)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.item")}
    cache.get("group", "a", SHAPE)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.item")} == before


def test_a_folder_that_is_a_file_is_a_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        ItemCache(tmp_path / "file")


def test_a_generator_takes_from_the_cache_what_is_there_and_draws_the_rest(tmp_path: Path) -> None:
    art = GeneratorPack.open("art")
    latents = art.latents.sample(5, torch.Generator().manual_seed(0))
    plain = art.generate(latents, 16)
    art.cache = ItemCache(tmp_path)
    group, keys = art.keys(latents, 16)
    marked = torch.zeros(3, 16, 16)  # not what would be drawn, so that it shows where it came from
    art.cache.put(group, keys[1], marked)
    drawn: list[int] = []
    mixed = art.generate(latents, 16, drawn.append)
    assert torch.equal(mixed[1], marked)
    assert drawn[-1] == 4
    torch.testing.assert_close(mixed[[0, 2, 3, 4]], plain[[0, 2, 3, 4]])
    assert names(art.cache) == {keys[1]}  # what was asked for is not written
    assert art.keys(latents, 17)[1] != keys
    assert len(set(keys)) == 5
