"""An example of the files ``plgl simulate from-file`` reads: invented people choose among invented phone plans.

A conjoint study as they are run: every question shows a few plans, the person picks one. Tastes share a mean and a
covariance (whoever minds the price cares less about data), and choices are noisy (multinomial logit).
"""

from __future__ import annotations

from pathlib import Path

import torch

from common.errors import FolderError, SettingError
from common.files import write_atomically
from simulations.lab.frames import Frame

_LEVELS = {
    "price": (5.0, 10.0, 20.0, 40.0),
    "gigabytes": (1.0, 5.0, 20.0, 50.0),
    "months": (0.0, 12.0, 24.0),
    "fast": (0.0, 1.0),
    "network": (1.0, 2.0, 3.0, 4.0, 5.0),
}
_MEAN = (-1.6, 0.9, -0.6, 0.3, 0.8)  # utility of one standard deviation of each, to a typical person
_LOADINGS = ((1.0, -0.6, 0.2, -0.4, -0.2), (0.0, 0.5, 0.8, 0.3, -0.4))  # what tastes have in common around the mean
_OWN = 0.3


def example(people: int = 600, questions: int = 12, alternatives: int = 3, seed: int = 0) -> Frame:
    """Answers of invented people, one row for each plan shown; the same for the same arguments.

    Args:
        people: how many answer.
        questions: of each of them.
        alternatives: plans in a question.
        seed: of plans, tastes and choices.

    Raises:
        SettingError: an argument is below what a choice needs.
    """
    if people < 1 or questions < 1 or alternatives < 2:
        raise SettingError(f"people={people} and questions={questions} must be >= 1, alternatives={alternatives} >= 2")
    generator = torch.Generator().manual_seed(seed)
    plans, scaled = [], []
    shape = (people, questions, alternatives)
    for levels in _LEVELS.values():
        values = torch.tensor(levels)[torch.randint(len(levels), shape, generator=generator)]
        plans.append(values)
        scaled.append((values - torch.tensor(levels).mean()) / torch.tensor(levels).std(correction=0))
    common = torch.randn(people, len(_LOADINGS), generator=generator) @ torch.tensor(_LOADINGS)
    tastes = torch.tensor(_MEAN) + common + _OWN * torch.randn(people, len(_MEAN), generator=generator)
    utilities = torch.einsum("pqak,pk->pqa", torch.stack(scaled, dim=-1), tastes)
    gumbel = -torch.log(-torch.log(torch.rand(shape, generator=generator).clamp(1e-6, 1 - 1e-6)))
    chosen = torch.nn.functional.one_hot((utilities + gumbel).argmax(-1), alternatives)
    rows = [(p, q, a) for p in range(people) for q in range(questions) for a in range(alternatives)]
    columns: dict[str, list[object]] = {
        "person": [f"person-{p + 1}" for p, _, _ in rows],
        "question": [q + 1 for _, q, _ in rows],
        "kind": ["best"] * len(rows),
        "alternatives": [alternatives] * len(rows),
        "chosen": chosen.flatten().tolist(),
    }
    return Frame(columns | {f"feature.{name}": x.flatten().tolist() for name, x in zip(_LEVELS, plans, strict=True)})


def write_example(path: Path, frame: Frame) -> None:
    """Write an example as CSV or Parquet.

    Raises:
        SettingError: the name ends otherwise, or Parquet cannot be written here.
        FolderError: the file is there already.
        StorageError: the disk refuses it.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise SettingError(f"{path.name} must end in .csv or .parquet")
    if path.exists():
        raise FolderError(f"{path} is there already; choose another name for the example")
    write_atomically(path, frame.to_csv().encode() if path.suffix == ".csv" else frame.to_parquet())
