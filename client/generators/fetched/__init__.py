"""Generators this program can fetch when a person says so; nothing of them comes with it."""

FETCHABLE = ("faces", "voices")
"""Names that ``plgl generator add NAME`` knows."""
