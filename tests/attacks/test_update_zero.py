"""A member whose update is all zeros: legal, and no division by its norm."""

from pathlib import Path

import numpy as np
import torch

from client.contribution import summand_of
from client.likelihood import Evidence
from common.privacy.fixed_point import quantise_at_random
from common.privacy.promise import promise
from common.terms import Trust
from server.secure_round import Integers
from simulations.federation import Members, Watched, terms


class Silent(Watched):
    """Member 1 has an answer that says nothing, because its features are all zero."""

    def _evidence(self) -> Evidence:
        if self._own != 1:
            return super()._evidence()
        ones = torch.ones(1, 1, dtype=torch.int64)
        features = torch.zeros(1, 1, 1, self._device.terms.parameters, dtype=torch.float64)
        return Evidence(ones * 0, ones, ones.double(), features, ones.clone())


class Twin(Silent):
    """Divides by the norm without looking, as some clippers do."""

    def _vector(self) -> Integers:
        terms = self._device.terms
        prior = self._prior()
        update = summand_of(self._evidence(), prior, terms.settings.norm_bound)
        scaled = update / torch.linalg.vector_norm(update) * terms.settings.norm_bound
        vector: Integers = quantise_at_random(scaled, promise(terms).norm_bound)[0].numpy()
        return vector


def test_is_counted_and_the_round_ends_well(tmp_path: Path) -> None:
    members = Members(terms(6, minimum_people=4, trust=Trust.CENTRAL), 6, tmp_path, Silent)
    sums = members.round()
    assert sums.answered == 6
    assert np.array_equal(members.sent[1], np.zeros_like(members.sent[1]))


def test_breaks_the_twin_without_the_control(tmp_path: Path) -> None:
    members = Members(terms(6, minimum_people=4, trust=Trust.CENTRAL), 6, tmp_path, Twin)
    assert members.round().answered == 5
    assert "NaN" in str(members.refusals[0][2])
