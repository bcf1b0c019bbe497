"""Audits: is the epsilon of a statement true of the code that ran?

Each audit attacks one part of the federation, knows beforehand what it can see, and is run against builds that were
broken on purpose beside the one that ships. A lower bound above the claim proves a bug; one below it proves nothing.
"""
