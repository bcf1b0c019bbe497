from pathlib import Path

import pytest
import torch

from client.generators.item_cache import ItemCache
from client.generators.pack import GeneratorPack
from client.generators.ready import MOST, prepare, prepared, public_latents
from client.ratings import Choice
from client.session import Session
from common.errors import SettingError

SIZE = 16
EACH = 32 + 4 * 3 * SIZE * SIZE


@pytest.fixture(scope="module")
def art() -> GeneratorPack:
    return GeneratorPack.open("art")


def test_the_sequence_is_the_same_for_everybody_and_fewer_are_a_prefix(art: GeneratorPack) -> None:
    many = public_latents(art, 100)
    assert torch.equal(public_latents(GeneratorPack.open("art"), 37), many[:37])
    assert len(torch.unique(many, dim=0)) == 100
    assert 0.9 < float(many.std()) < 1.1


def test_only_what_is_missing_is_drawn_and_an_interruption_keeps_the_rest(art: GeneratorPack, tmp_path: Path) -> None:
    cache = ItemCache(tmp_path)
    told: list[int] = []

    def stop(done: int) -> None:
        told.append(done)
        if done >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(art, cache, 40, SIZE, stop)
    assert told == [16, 32]
    assert torch.equal(prepared(art, cache, SIZE), public_latents(art, 32))
    assert prepare(art, cache, 40, SIZE) == 8
    assert prepare(art, cache, 40, SIZE) == 0
    assert cache.total_bytes == 40 * EACH
    assert not len(prepared(art, cache, 2 * SIZE))


def test_what_was_prepared_is_what_the_generator_draws(art: GeneratorPack, tmp_path: Path) -> None:
    cache = ItemCache(tmp_path)
    prepare(art, cache, 4, SIZE)
    latents = public_latents(art, 6)
    mixed = GeneratorPack.open("art")
    mixed.cache = cache
    drawn: list[int] = []
    torch.testing.assert_close(mixed.generate(latents, SIZE, drawn.append), art.generate(latents, SIZE))
    assert drawn[-1] == 2


@pytest.mark.parametrize(("count", "limit"), [(0, 1 << 20), (MOST + 1, 1 << 20), (5, 4 * EACH)])
def test_counts_out_of_range_and_more_than_fits_are_refused(
    art: GeneratorPack, tmp_path: Path, count: int, limit: int
) -> None:
    cache = ItemCache(tmp_path, limit)
    with pytest.raises(SettingError, match=f"count={count}"):
        prepare(art, cache, count, SIZE)
    assert not cache.total_bytes


def test_questions_are_mixed_of_prepared_and_fresh_items(tmp_path: Path) -> None:
    cache = ItemCache(tmp_path)
    pack = GeneratorPack.open("art")
    prepare(pack, cache, 64, SIZE)
    public = {tuple(row) for row in public_latents(pack, 64).tolist()}

    def known(session: Session, n: int) -> int:
        return sum(tuple(item.latent.tolist()) in public for item in session.propose(n))

    with Session.open("art", seed=1, cache=cache, cached_size=SIZE) as session:
        assert known(session, 4) == 4  # nothing is known of the person: the first question is there at once
        items = session.propose(2)
        session.rate(Choice(items[0], items[1], "a"))
        asked = [known(session, 8) for _ in range(4)]
        assert 0 < sum(asked) < 32
    with Session.open("art", seed=1) as session:
        assert known(session, 4) == 0
