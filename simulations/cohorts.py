"""Who is drawn into a round: the same answer for a person however the crowd is cut into chunks.

Each training has a secret key. A person's 64-bit word of a round is theirs in an AES-256-CTR stream, so any range of a
million people costs some milliseconds and nothing is kept; the words of different people and rounds are independent.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

from common.errors import SettingError
from common.privacy.noise import Randomness

_WORDS = 2  # in one block of AES


class Draw:
    """One training's secret draws.

    Args:
        randomness: gives the 32 bytes of the key, once.
    """

    def __init__(self, randomness: Randomness) -> None:
        self._key = randomness(32)
        self._kept: tuple[tuple[int, int, int, int], NDArray[np.int64]] | None = None

    def poisson(self, first: int, last: int, round: int, chance: Fraction) -> Tensor:
        """``(last - first,)`` bool: each person with probability ``chance``, to 2^-63, independently of all others."""
        return torch.from_numpy(self._words(first, last, round) < _threshold(chance))

    def at_most(self, first: int, last: int, round: int, people: int, chance: Fraction, cap: int) -> Tensor:
        """``(last - first,)`` bool: a Poisson draw from ``people``, cut to a uniformly random ``cap`` of them if more.

        With ``chance = 1`` exactly ``cap`` people. The whole round is drawn at its first call and kept until another
        round is asked for.
        """
        if last > people:
            raise SettingError(f"person {last - 1} is beyond the {people} people the sampling is accounted for")
        asked = (round, people, cap, _threshold(chance))
        if self._kept is None or self._kept[0] != asked:
            words = self._words(0, people, round)
            drawn = np.flatnonzero(words < _threshold(chance))
            if drawn.size > cap:  # given that they are below the threshold, the words are in random order
                drawn = np.sort(drawn[np.argsort(words[drawn], kind="stable")[:cap]])
            self._kept = (asked, drawn)
        inside = self._kept[1]
        chosen = torch.zeros(last - first, dtype=torch.bool)
        chosen[torch.from_numpy(inside[(inside >= first) & (inside < last)] - first)] = True
        return chosen

    def _words(self, first: int, last: int, round: int) -> NDArray[np.uint64]:
        """``(last - first,)`` uniform on 0 .. 2^63 - 1."""
        block = first // _WORDS
        counter = round.to_bytes(8, "big") + block.to_bytes(8, "big")
        stream = Cipher(algorithms.AES(self._key), modes.CTR(counter)).encryptor()
        words = np.frombuffer(stream.update(bytes(8 * (last - _WORDS * block))), dtype="<u8")
        return words[first - _WORDS * block :] >> np.uint64(1)


def _threshold(chance: Fraction) -> int:
    return int(chance * 2**63)
