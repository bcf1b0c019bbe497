"""A generator of sounds in the page and the terminal: a player with a real file behind the same guard as pictures."""

import http.client
import io
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from client.generators.importers.base import Imported, make
from client.generators.interface import Output
from client.generators.latent_map import LatentMapSettings, learn_latent_map
from client.generators.manifest import LATENT_MAP
from client.generators.pack import GeneratorPack
from client.generators.pack_files import fingerprint, write_pack
from client.journal import MemoryJournal
from client.session import Session
from client.terminal_display import Frame, Sheets
from client.web.guard import cookie_name
from client.web.pictures import Pictures
from common.errors import SettingError
from common.latents import LatentSpace
from tests.client.tones import RATE, SAMPLES, Tones
from tests.client.web.conftest import TOKEN, served


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> GeneratorPack:
    output = Output(kind="audio", shape=(SAMPLES,), sample_rate=RATE)
    imported = Imported(network=Tones().eval(), latents=LatentSpace(3), output=output, licence="CC0-1.0")
    made = make(imported, name="tones")
    bare = GeneratorPack(Path("tones"), made.manifest, made.files, proven=True)
    settings = LatentMapSettings(components=4, pictures=1000, width=48, epochs=15)
    learned = learn_latent_map(bare, settings)
    assert learned.r2[0] > 0.3  # of a very small network after a few passes; without learning it is below 0
    folder = tmp_path_factory.mktemp("packs") / "tones"
    files = {**made.files, LATENT_MAP: learned.content}
    manifest = type(made.manifest)(
        **{
            **vars(made.manifest),
            "files": {name: fingerprint(content) for name, content in files.items()},
            "components": 4,
            "r2": learned.r2,
            "scale": learned.scale,
        }
    )
    write_pack(folder, manifest, files)
    return GeneratorPack(folder, manifest, files, proven=True)


@pytest.fixture
def session(tones: GeneratorPack) -> Iterator[Session]:
    with Session(tones, MemoryJournal(), seed=0) as session:
        yield session


def test_the_page_has_a_player_whose_file_is_the_sound_that_is_asked_about(
    session: Session, tones: GeneratorPack
) -> None:
    with served(session) as (app, address):
        host = address.removeprefix("http://")
        cookie = {"Cookie": f"{cookie_name(host)}={TOKEN}"}

        def get(path: str, headers: dict[str, str] = cookie) -> tuple[int, str, bytes]:
            connection = http.client.HTTPConnection(host, timeout=30)
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            return answer.status, answer.headers.get("content-type", ""), content

        page = get("/")[2].decode()
        names = list(app.state.deck.current().pictures)
        assert page.count('<audio class="player"') == len(names) == 2
        for name in names:
            assert f'src="/sounds/{name}.wav"' in page
            status, kind, content = get(f"/sounds/{name}.wav")
            assert (status, kind) == (200, "audio/wav")
            with wave.open(io.BytesIO(content)) as file:
                assert (file.getframerate(), file.getnframes()) == (RATE, SAMPLES)
                heard = torch.frombuffer(bytearray(file.readframes(SAMPLES)), dtype=torch.int16) / 32767
            latent = session.item(int(name.split("-")[0])).latent
            assert torch.allclose(heard, tones.generate(latent[None])[0], atol=1e-4)
            assert get(f"/pictures/{name}-small.jpg")[2].startswith(b"\xff\xd8")  # its spectrum over time
        assert get(f"/sounds/{names[0]}.wav", {})[0] == 401
        assert get("/sounds/0-000000000000.wav")[0] == 404
        assert get(f"/sounds/{names[0]}.mp3")[0] == 404
        item = get(f"/items/{names[0]}")[2].decode()
        assert "A WAV file with nothing else inside" in item
        assert get(f"/save/{names[0]}")[1] == "audio/wav"


def test_a_sound_is_made_once_for_all_its_pictures_and_its_file(
    session: Session, tones: GeneratorPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    generate = tones.generate

    def counted(latents: Tensor, *others: Any) -> Tensor:
        made.append(len(latents))
        return generate(latents, *others)

    monkeypatch.setattr(tones, "generate", counted)
    pictures = Pictures(tones)
    items = session.propose(3)
    pictures.prepare(items)
    for item in items:
        assert pictures.get(item, "small") != pictures.get(item, "big")
        pictures.sound(item)
    assert made == [3]
    pictures.forget()
    pictures.sound(items[0])
    assert made == [3, 1]


def test_a_generator_of_pictures_has_no_player_and_no_sounds(pack: GeneratorPack) -> None:
    with Session(pack, MemoryJournal(), seed=0) as session, served(session) as (app, address):
        host = address.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=60)
        headers = {"Cookie": f"{cookie_name(host)}={TOKEN}"}
        connection.request("GET", "/", headers=headers)
        assert b"<audio" not in connection.getresponse().read()
        name = app.state.deck.current().pictures[0]
        connection.request("GET", f"/sounds/{name}.wav", headers=headers)
        assert connection.getresponse().status == 404
        connection.close()
        with pytest.raises(SettingError, match="makes pictures"):
            app.state.deck.pictures.sound(session.item(0))


def test_a_terminal_writes_each_sound_beside_its_picture(session: Session, tmp_path: Path) -> None:
    out = io.StringIO()
    display = Sheets(out, tmp_path, resizable=False, sample_rate=RATE)
    items = session.propose(2)
    display.show(Frame(kind="question", title="Which?", items=items, captions=["A", "B"], across=2))
    sounds = sorted(tmp_path.glob("*.wav"))
    assert len(sounds) == 2
    assert all(f"play {sound}" in out.getvalue() for sound in sounds)
    with wave.open(str(sounds[1])) as file:
        assert file.getnframes() == SAMPLES
    assert items[0].media.shape == (SAMPLES,)
    assert items[0].picture(40).shape == (3, 40, 40)
