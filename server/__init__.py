"""Sees sums only. Cannot import ``client``, so it cannot even name a rating."""
