"""What one round was like, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One round.

    Attributes:
        round: from 1.
        loss: of the reward model over the whole memory after training, nats.
        reward_mean: of the pictures shown, as the trained model sees them.
        reward_best: of the best of them.
        reward_destination: of the destination after its move.
        distance: of the destination from the target; 1 is the median of random pictures.
        distance_favourite: of the picture the user preferred so far.
        angle: radians on the shell that samples and the destination could go.
        questions: asked in this round.
        a: answers "A".
        b: answers "B".
        both: answers "both good".
        neither: answers "both bad".
    """

    round: int
    loss: float
    reward_mean: float
    reward_best: float
    reward_destination: float
    distance: float
    distance_favourite: float
    angle: float
    questions: int
    a: int
    b: int
    both: int
    neither: int
