import io
import math
import wave

import pytest
import torch
from torch import Tensor

from client.generators.sounds import BANDS, sound_blocks, sound_pictures, spectra, wav_file

RATE = 8000


def tone(hertz: float, seconds: float = 0.5, loud: float = 0.5) -> Tensor:
    return loud * torch.sin(2 * math.pi * hertz * torch.arange(int(seconds * RATE)) / RATE)


def test_a_file_holds_the_sound_it_was_made_from() -> None:
    sound = torch.cat([tone(440), torch.tensor([2.0, -2.0])])
    with wave.open(io.BytesIO(wav_file(sound, RATE))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        raw = torch.frombuffer(bytearray(file.readframes(file.getnframes())), dtype=torch.int16)
    assert torch.allclose(raw / 32767, sound.clamp(-1, 1), atol=1 / 32767)
    assert raw[-2:].tolist() == [32767, -32767]


def test_a_higher_tone_lies_in_a_higher_band_and_a_louder_one_is_louder() -> None:
    pitches = [120.0, 400.0, 1000.0, 2000.0, 3500.0]
    bands = spectra(torch.stack([tone(hertz) for hertz in pitches]), RATE).mean(2)
    highest = bands.argmax(1).tolist()
    assert highest == sorted(set(highest))
    quiet, loud = spectra(torch.stack([tone(1000, loud=0.05), tone(1000, loud=0.5)]), RATE).amax((1, 2))
    assert float(loud - quiet) == pytest.approx(20, abs=0.5)  # ten times the amplitude is 20 dB


@pytest.mark.parametrize("samples", [1, 100, 4000])
def test_silence_and_very_short_sounds_give_finite_numbers(samples: int) -> None:
    silence = torch.zeros(2, samples)
    assert float(spectra(silence, RATE).max()) == -80
    for block in sound_blocks(silence, RATE).values():
        assert bool(block.isfinite().all())
    assert sound_pictures(silence, RATE, 16).shape == (2, 3, 16, 16)


def test_a_sound_is_described_alike_alone_and_among_others() -> None:
    sounds = torch.stack([tone(200), tone(900), torch.randn(4000, generator=torch.Generator().manual_seed(0)) / 4])
    together, alone = sound_blocks(sounds, RATE), sound_blocks(sounds[1:2], RATE)
    for kind, block in alone.items():
        assert torch.allclose(together[kind][1:2], block, atol=1e-3), kind
    sizes = {kind: block.shape[1] for kind, block in together.items()}
    assert sizes == {"course": BANDS * 16, "timbre": 64, "voice": 14, "pitch": 33, "rhythm": 19}


def test_a_tone_is_more_periodic_than_noise() -> None:
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(1)) / 4
    pitch = sound_blocks(torch.stack([tone(200), noise]), RATE)["pitch"][:, -1]
    assert float(pitch[0]) > 0.8
    assert float(pitch[1]) < 0.3


def test_a_picture_shows_high_tones_above_and_late_sounds_to_the_right() -> None:
    late = torch.cat([torch.zeros(2000), tone(3000, 0.25)])
    picture = sound_pictures(late[None], RATE, 64)[0].mean(0)
    assert picture.min() >= -1
    assert picture.max() <= 1
    row, column = divmod(int(picture.argmax()), 64)
    assert row < 20
    assert column > 32
