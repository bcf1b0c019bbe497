"""What every report page shares: the templates, how a setting reads, how a privacy statement reads.

``templates/look.css`` is the look of all pages, ``templates/parts.html`` their common parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

_CLAIMS = {
    "unit": "who is protected",
    "adjacency": "data sets compared",
    "epsilon": "epsilon, all releases together",
    "delta": "delta",
    "mechanism": "mechanism",
    "trust": "who sees values before the noise",
    "sensitivity": "sensitivity (L2)",
    "noise_multiplier": "noise multiplier z",
    "participations": "participations charged, at most",
    "rho": "rho (zero-concentrated)",
    "sampling": "sampling",
    "accountant": "accountant",
}


def render(template: str, **values: Any) -> str:
    """A page from one of ``simulations/templates``; text in ``values`` is shown as text, a name it lacks raises."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["value"] = setting_text
    return templates.get_template(template).render(**values)


def setting_text(value: Any) -> str:
    """A setting as text: no quotes around words, no brackets around lists."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(setting_text(item) for item in value) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {setting_text(item)}" for key, item in value.items()) or "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def claims(statement: dict[str, Any]) -> list[tuple[str, str]]:
    """A privacy statement (``PrivacyStatement.to_json``) as pairs of words, in an order that reads."""

    def write(key: str, value: Any) -> str:
        if value is None:
            return "∞ — nothing is claimed" if key == "epsilon" else "–"
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    known = [key for key in _CLAIMS if key in statement]
    return [(_CLAIMS.get(key, key), write(key, statement[key])) for key in [*known, *(set(statement) - set(known))]]
