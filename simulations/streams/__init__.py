"""Ways to make an endless stream for one person, by name: one file each, one line here.

A stream is made from a session that has heard some answers (`simulations.streams.base.Listener`) and gives latents, as
many as are asked for. Everything listed here becomes a row of ``plgl simulate policies``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from common.errors import SettingError

if TYPE_CHECKING:
    from simulations.streams.base import Maker

STREAMS = {
    "base": "simulations.streams.base_generator:make",
    "best-of-n": "simulations.streams.best_of_n:make",
    "search": "simulations.streams.latent_search:make",
    "policy": "simulations.streams.latent_policy:make",
    "policy-ppo": "simulations.streams.latent_policy:make_by_ppo",
    "distilled": "simulations.streams.distilled:make",
}


def stream(name: str) -> Maker:
    """What makes the streams of a name.

    Raises:
        SettingError: there is none, or what it needs is not installed.
    """
    if name not in STREAMS:
        raise SettingError(f"stream {name!r} is unknown; choose from {', '.join(STREAMS)}")
    module, _, function = STREAMS[name].partition(":")
    try:
        found: Maker = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise SettingError(f"stream {name!r} needs {error.name}; install plgl with its extra") from error
    return found
