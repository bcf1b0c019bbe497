"""What a person takes with them: their ratings as JSON or CSV. How long they looked stays unless they ask for it."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

from client.ratings import Kind
from client.session import Session
from client.web.modes import asked_as
from common.version import version

COLUMNS = ("event", "at", "profile", "context", "kind", "value", "answer", "items", "foretold", "generator_sha256")
_GLANCE = Kind.GLANCE.name.lower()


def exported(session: Session, *, noticed: bool = False) -> dict[str, Any]:
    """Everything about the profile that is rating, as JSON allows it.

    Args:
        session: whose ratings.
        noticed: also what was noticed without being said, such as how long the person looked.
    """
    content = session.export()
    content["ratings"] = [row for row in content["ratings"] if noticed or row["kind"] != _GLANCE]
    about = {"program": f"plgl {version()}", "written": datetime.now(UTC).isoformat(timespec="seconds")}
    return {**about, "seed": session.seed, **content}


def as_json(session: Session, *, noticed: bool = False) -> bytes:
    """See `exported`."""
    return json.dumps(exported(session, noticed=noticed), ensure_ascii=False, indent=1).encode("utf-8", "replace")


def as_csv(session: Session, *, noticed: bool = False) -> bytes:
    """Ratings, one a line, with the columns of `COLUMNS`; times in UTC. The latents are in the JSON only."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(COLUMNS)
    for rated in session.history:
        kind, value, items = rated.rating.row
        if kind == Kind.GLANCE and not noticed:
            continue
        asked = asked_as(rated.rating)
        answer = asked[1] if asked is not None else ""
        at = datetime.fromtimestamp(rated.at, UTC).isoformat(timespec="seconds")
        shown = " ".join(map(str, items))
        foretold = "" if rated.foretold is None else str(rated.foretold).lower()
        row = [rated.event, at, _plain(session.profile), _plain(rated.context), kind.name.lower(), value, answer]
        lines.writerow([*row, shown, foretold, session.pack.hash])
    return text.getvalue().encode("utf-8", "replace")


def _plain(words: str) -> str:
    # a spreadsheet would run these as a formula
    return f"'{words}" if words[:1] in tuple("=+-@\t\r") else words
