"""Token buckets: how often somebody may ask."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import SettingError

MOST = 50_000
"""Askers that are remembered at once; the one that has not asked for longest is forgotten first."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So many a second in the long run, and so many at once.

    Attributes:
        per_second: > 0.
        burst: >= 1.
    """

    per_second: float
    burst: int

    def __post_init__(self) -> None:
        if not 0 < self.per_second < math.inf or self.burst < 1:
            raise SettingError(f"a rate of {self.per_second} a second, {self.burst} at once lets nobody through")


class Buckets:
    """One bucket for each asker, in bounded memory."""

    def __init__(self, rate: Rate, monotonic: Callable[[], float], most: int = MOST) -> None:
        """All buckets begin full.

        Args:
            rate: how fast they fill and how much they hold.
            monotonic: seconds of a clock that never goes back.
            most: askers remembered.
        """
        self._rate, self._monotonic, self._most = rate, monotonic, most
        self._buckets: OrderedDict[object, tuple[float, float]] = OrderedDict()

    def take(self, who: object) -> float:
        """Take one from somebody's bucket.

        Returns:
            0 if there was one, else the seconds until there is.
        """
        now = self._monotonic()
        left, then = self._buckets.pop(who, (float(self._rate.burst), now))
        left = min(float(self._rate.burst), left + (now - then) * self._rate.per_second)
        wait = 0.0 if left >= 1 else (1 - left) / self._rate.per_second
        self._buckets[who] = (left - 1 if wait == 0 else left, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return wait


def network(address: str) -> str:
    """Who shares a limit: an IPv4 address, or the /64 of an IPv6 address, which one household has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
