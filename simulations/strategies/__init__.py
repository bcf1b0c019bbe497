"""Strategies to compare, one file each."""
