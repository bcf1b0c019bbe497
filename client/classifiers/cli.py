"""``plgl compare``: which taste model guesses a person's own answers best."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from common.errors import SettingError

if TYPE_CHECKING:  # heavy modules are imported inside the command, so that help stays quick
    from client.classifiers.evaluation import Row

ENOUGH = 10  # ratings below which every difference is luck

app = typer.Typer(help="Compare taste models on your own ratings.")


@app.command("compare")
def compare(
    store: Annotated[Path | None, typer.Option(help="The encrypted store; without it the usual one.")] = None,
    profile: Annotated[str, typer.Option(help="Whose ratings.")] = "me",
    generator: Annotated[str, typer.Option(help="The generator they are about: a name, or the folder of a pack.")] = (
        "art"
    ),
    prior: Annotated[Path | None, typer.Option(help="Folder of a population prior to use where a model can.")] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the passphrase; without it PLGL_PASSPHRASE, or you are asked.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only these models; give it again for each.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts; each is guessed by models that heard the others.")] = 5,
    seed: Annotated[int, typer.Option(help="Which ratings are held out together.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Compare taste models on your own ratings: which guesses answers best that it has not heard."""
    from client.classifiers import MODELS, evaluation, taste_model
    from client.session import Session
    from client.store import default_path

    store = default_path() if store is None else store
    if not store.exists():
        raise SettingError(f"there is no store at {store}; rate something first, or name another with --store")
    names = list(dict.fromkeys(model or MODELS))
    if len(names) < 2:
        raise SettingError(f"--model {names[0]} alone cannot be compared; name one more, or leave --model out")
    passphrase = _passphrase(passphrase_file)
    with Session.open(
        generator, prior=prior, store=store, passphrase=passphrase, profile=profile, seed=seed
    ) as session:
        answers, scale, crowd = session.answers(), session.lens.scale, session.prior
        others = [name for name in session.profiles() if name != profile]
    if not len(answers) and others:
        raise SettingError(f"profile {profile!r} has no ratings in this store; it holds {', '.join(others)}")
    models = {name: taste_model(name, prior=crowd, lens_scale=scale, seed=seed) for name in names}
    asked = int(evaluation.guessable(answers).sum())
    if asked < ENOUGH:
        _too_few(asked, as_json)
        return
    rows = evaluation.compare(models, answers, folds, seed)
    if as_json:
        about = {"ratings": asked, "enough": True, "verdict": evaluation.verdict(rows)}
        print(json.dumps({**about, "models": [_to_json(row) for row in rows]}))
        return
    _print(rows, asked)
    Console().print(evaluation.verdict(rows), highlight=False, markup=False, soft_wrap=True)


def _passphrase(file: Path | None) -> str | None:
    """From the file, the environment, or the keyboard; None (the keyring is asked) when nothing is typed."""
    if file is not None:
        try:
            return file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"cannot read the passphrase file {file}: {error}; check --passphrase-file") from error
    if "PLGL_PASSPHRASE" in os.environ:
        return os.environ["PLGL_PASSPHRASE"]
    typed: str = typer.prompt(
        "Passphrase (empty: use the system keyring)", default="", show_default=False, hide_input=True, err=True
    )
    return typed or None


def _too_few(ratings: int, as_json: bool) -> None:
    message = (
        f"only {ratings} ratings that can be guessed: too few to compare models; "
        f"rate at least {ENOUGH}, and 40 or more to tell them apart"
    )
    if as_json:
        print(json.dumps({"ratings": ratings, "enough": False, "verdict": message, "models": []}))
    else:
        print(message)


def _to_json(row: Row) -> dict[str, Any]:
    found = row.held_out
    return {
        "model": row.name,
        "accuracy": _number(found.accuracy),
        "standard_error": _number(found.error),
        "chance": _number(found.chance),
        "log_loss": found.log_loss,
        "answers": found.answers,
        "fit_milliseconds": round(row.fit_milliseconds, 1),
    }


def _number(value: float) -> float | None:
    return value if value == value else None  # JSON has no NaN


def _print(rows: list[Row], ratings: int) -> None:
    table = Table(title=f"{ratings} ratings, each guessed by models that had not heard it", title_justify="left")
    table.add_column("model")
    for column in ("guessed right", "log loss", "fit (ms)"):
        table.add_column(column, justify="right")
    for row in rows:
        found = row.held_out
        guessed = f"{100 * found.accuracy:.0f} ± {100 * found.error:.0f} %"
        table.add_row(row.name, guessed, f"{found.log_loss:.3f}", f"{row.fit_milliseconds:.0f}")
    Console().print(table)
