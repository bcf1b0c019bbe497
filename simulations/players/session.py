"""Our own session as a player, through its public API alone."""

from __future__ import annotations

from torch import Tensor

from client.generators.pack import GeneratorPack
from client.items import Item
from client.journal import MemoryJournal
from client.ratings import ANSWERS, Choice, Kind, Like, Rating, Stars
from client.session import Session
from common.errors import SettingError
from common.prior import PopulationPrior

SHOWN = {Kind.CHOICE: 2, Kind.LIKE: 1, Kind.STARS: 1}


class SessionPlayer:
    """A session that is asked for questions of one kind."""

    def __init__(
        self,
        pack: GeneratorPack,
        seed: int,
        *,
        feedback: Kind = Kind.CHOICE,
        prior: PopulationPrior | None = None,
        surprise: float = 0.0,
    ) -> None:
        """Open a session in memory.

        Raises:
            SettingError: questions of this kind are not asked here.
        """
        if feedback not in SHOWN:
            raise SettingError(f"feedback={feedback!r} must be one of {', '.join(k.name.lower() for k in SHOWN)}")
        self.feedback, self.surprise = feedback, surprise
        self.session = Session(pack, MemoryJournal(), prior=prior, seed=seed)
        self._shown: list[Item] = []

    def ask(self) -> Tensor:
        """See `Player`."""
        self._shown = self.session.propose(SHOWN[self.feedback])
        return _latents(self._shown)

    def tell(self, answer: int) -> None:
        """See `Player`."""
        rating: Rating
        if self.feedback == Kind.CHOICE:
            rating = Choice(self._shown[0], self._shown[1], ANSWERS[answer])
        elif self.feedback == Kind.LIKE:
            rating = Like(self._shown[0], bool(answer))
        else:
            rating = Stars(self._shown[0], answer)
        self.session.rate(rating)

    def recommend(self, k: int) -> Tensor:
        """See `Player`."""
        return _latents(self.session.recommend(k, surprise=self.surprise))


def _latents(items: list[Item]) -> Tensor:
    import torch

    return torch.stack([item.latent for item in items])
