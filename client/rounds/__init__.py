"""Rounds with an artificial user: pairs, choices, a reward model and a destination that follows its gradient."""
