"""Taste models: from what a person said to a score for every item."""
