"""The version of this code, the same in a checkout, in an installed wheel and inside a Flower app bundle."""

from __future__ import annotations

import importlib.metadata
import tomllib
from functools import cache
from pathlib import Path


@cache
def version() -> str:
    """The version that stands in ``pyproject.toml``.

    A checkout and an app bundle carry that file beside the packages, and it wins, because an older wheel may be
    installed as well; a wheel has it in its metadata.
    """
    try:
        project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))[
            "project"
        ]
        if project["name"] == "plgl":
            return str(project["version"])
    except (OSError, KeyError, ValueError):
        pass
    return importlib.metadata.version("plgl")
