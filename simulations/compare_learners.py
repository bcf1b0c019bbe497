"""Our session against other learners, on the same people, questions answered with the same noise.

A cell of the experiment is one learner on one generator with one seed. What it is measured by (the yardstick) and the
prior are made once for a generator and a seed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.likelihood import Evidence
from common.errors import PriorError, SettingError
from common.prior import TYPICAL_SPREAD, PopulationPrior
from common.privacy.settings import PrivacySettings
from simulations import engines
from simulations.contest import TOP, Outcome, contest
from simulations.crowd import pairs
from simulations.learners_report import FORMAT
from simulations.panel import KINDS, Panel
from simulations.people import AnswerNoise, PeopleFactory, Population
from simulations.players import LEARNERS, Entry, Setting, learner
from simulations.progress import Stages
from simulations.run_folder import RunFolder, environment
from simulations.yardstick import BATCH, Yardstick, pictures

REFERENCE = 1_000  # pictures that factors are standardised by
TRAINING_POOL = 2_000  # pictures that those who train a prior rate
QUICK = ("session", "session-prior", "pairwise-gp-scale", "optuna-tpe", "cma-es", "random")
COMPONENTS = 48  # features of a prior
MEASURES = ("utility", "percentile", "best", "loved", "diversity", "extreme", "norm")


@dataclass(frozen=True, kw_only=True)
class CompareLearners:
    """Settings of the experiment; every field changes the result.

    Attributes:
        people: who test each learner, on each generator and with each seed.
        answers: numbers of answers after which recommendations are judged, rising.
        kinds: some of ``simulations.panel.KINDS``.
        surprise: how varied our recommendations are to be, 0 to 1.
        law: pictures of the generator that percentiles and realism refer to.
        train_prior: whether to train a private prior on other people of the same population.
        train_people: how many; ratings: of each of them.
        ratings: see above.
        epsilon: privacy budget of that prior; delta: its failure probability.
        delta: see above.
        seed: of the first repeat; repeats: independent panels.
        repeats: see above.
    """

    people: int = 8
    answers: tuple[int, ...] = (10, 20, 40, 80)
    kinds: tuple[str, ...] = KINDS
    surprise: float = 0.0
    law: int = 20_000
    train_prior: bool = False
    train_people: int = 2_000
    ratings: int = 30
    epsilon: float = 1.0
    delta: float = 1e-6
    seed: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("people", "ratings", "repeats", "train_people"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}={getattr(self, name)} must be >= 1")
        if not self.answers or min(self.answers) < 0 or list(self.answers) != sorted(set(self.answers)):
            raise SettingError(f"answers={self.answers} must be rising numbers >= 0; try 10,20,40,80")
        if max(self.answers) < 1:
            raise SettingError("answers must hold a number above 0; try 10,20,40,80")
        if not 0 <= self.surprise <= 1:
            raise SettingError(f"surprise={self.surprise} must lie between 0 (safe) and 1 (surprising)")
        if self.law < 1_000:
            raise SettingError(f"law={self.law} must be >= 1000 for percentiles to mean anything; try 20000")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise SettingError(f"kind {', '.join(unknown) or 'none'!r} is unknown; choose from {', '.join(KINDS)}")
        if self.train_prior:
            self.privacy()

    def privacy(self) -> PrivacySettings:
        """The promise of the federation that trains a prior."""
        return PrivacySettings(
            epsilon=self.epsilon,
            delta=self.delta,
            participations=4,
            norm_bound=6.0,
            expected_people=self.train_people,
            minimum_people=min(100, self.train_people),
        )


@dataclass(eq=False)
class _World:
    """A generator with a panel: everything a cell needs."""

    pack: GeneratorPack
    seed: int
    panel: Panel
    yardstick: Yardstick
    prior: PopulationPrior | None = field(default=None)


class Experiment:
    """One run of the experiment in a folder; whatever is finished there is used again."""

    def __init__(
        self,
        settings: CompareLearners,
        packs: Sequence[GeneratorPack],
        learners: Sequence[Entry],
        folder: RunFolder,
        *,
        population: PeopleFactory | None = None,
        prior: PopulationPrior | None = None,
        noise: AnswerNoise | None = None,
        yardsticks: Path | None = None,
        quiet: bool = False,
    ) -> None:
        """Prepare; nothing is computed yet.

        Args:
            settings: of the experiment.
            packs: generators.
            learners: those that can run here, see `runnable`.
            folder: of the run.
            population: how much people share, or people of a plug-in.
            prior: given instead of trained; only used on the generator it was made for.
            noise: of answers.
            yardsticks: a folder where yardsticks are kept for other runs too; None for the run's own.
            quiet: show no progress.
        """
        self.settings, self.packs, self.learners, self.folder = settings, list(packs), list(learners), folder
        self.population = Population() if population is None else population
        self.given, self.noise = prior, AnswerNoise() if noise is None else noise
        self.yardsticks = yardsticks
        work: dict[str, float] = {}
        for pack in self.packs:
            for seed in self.seeds:
                work[_stage("judging pictures", pack, seed)] = settings.law / 250
                if settings.train_prior and self._wants_prior:
                    work[_stage("training a prior", pack, seed)] = 30 * settings.train_people / 2_000
                for entry in self.learners:
                    share = settings.people * max(settings.answers) / 80
                    work[_stage(_title(entry), pack, seed)] = 0.1 + share * entry.slow
        work["report"] = 2
        self.stages = Stages(work, quiet=quiet)

    @property
    def seeds(self) -> list[int]:
        """One for each repeat."""
        return list(range(self.settings.seed, self.settings.seed + self.settings.repeats))

    @property
    def _wants_prior(self) -> bool:
        return any(entry.prior for entry in self.learners)

    def run(self) -> dict[str, Any]:
        """Do what is not done yet; returns the results as ``results.json`` holds them."""
        with self.stages:
            for pack in self.packs:
                for seed in self.seeds:
                    self._run_world(pack, seed)
            self.stages.begin("report")
        return self._results()

    def _run_world(self, pack: GeneratorPack, seed: int) -> None:
        missing = [entry for entry in self.learners if self.folder.cell(_cell(entry, pack, seed)) is None]
        world = self._world(pack, seed) if missing else None
        for entry in self.learners:
            stage = _stage(_title(entry), pack, seed)
            if world is None or entry not in missing:
                self.stages.skip(stage)
                continue
            self.stages.begin(stage)
            self.folder.save_cell(_cell(entry, pack, seed), self._meet(entry, world))

    def _meet(self, entry: Entry, world: _World) -> dict[str, Any]:
        seed, settings = world.seed, self.settings
        if entry.prior and world.prior is None:
            return {"skipped": "no prior for this generator"}

        def make(person: int) -> Any:
            own = (seed + 1) * 1_000_003 + person
            return entry.make(Setting(pack=world.pack, seed=own, prior=world.prior, surprise=settings.surprise))

        outcome = contest(
            make,
            world.pack,
            world.panel,
            world.yardstick,
            self.noise,
            points=settings.answers,
            seed=seed + 2,
            advance=self.stages.advance,
        )
        return _values(outcome, world.panel)

    # -- the people and what they are measured by

    def _world(self, pack: GeneratorPack, seed: int) -> _World:
        s = self.settings
        generator = torch.Generator().manual_seed(seed + 7)
        training = s.train_prior and self._wants_prior
        reference = _drawn(pack, pack.latents.sample(REFERENCE, generator))
        wanted = pack.latents.sample(s.people + s.train_people, generator)
        panel = Panel(
            self.population,
            people=s.people,
            others=s.train_people,  # also where nobody trains, so that those who test are always the same
            seed=seed,
            reference=reference,
            targets=lambda rows: _drawn(pack, wanted[rows]),
            kinds=s.kinds,
        )
        world = _World(pack, seed, panel, self._yardstick(pack, panel, seed))
        if training:
            world.prior = self._trained(world)
        elif self.given is not None and self.given.pack == pack.hash:
            world.prior = self.given
        return world

    def _yardstick(self, pack: GeneratorPack, panel: Panel, seed: int) -> Yardstick:
        s, stage = self.settings, _stage("judging pictures", pack, seed)
        about = [pack.hash, seed, s.people, s.kinds, s.law, panel.others, repr(self.population)]
        name = f"yardstick-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}.safetensors"
        path = self.folder.path(name) if self.yardsticks is None else self.yardsticks / name
        if path.exists():
            self.stages.skip(stage)
            return Yardstick.load(path)
        self.stages.begin(stage)
        found = Yardstick.make(pack, panel, law=s.law, seed=seed + 11, advance=self.stages.advance)
        path.parent.mkdir(parents=True, exist_ok=True)
        found.save(path)
        return found

    def _trained(self, world: _World) -> PopulationPrior:
        """A private prior of the others, learned as `plgl simulate cold-start` does."""
        stage = _stage("training a prior", world.pack, world.seed)
        folder = self.folder.path(f"prior-{_slug(world.pack)}-seed-{world.seed}")
        k = min(COMPONENTS, world.pack.components)
        try:
            found = PopulationPrior.load(folder, pack=world.pack.hash, parameters=k + 1)
            self.stages.skip(stage)
            return found
        except PriorError:
            pass  # not there yet, or damaged
        self.stages.begin(stage)
        flat = PopulationPrior.flat(k + 1, world.pack.hash, TYPICAL_SPREAD, world.pack.component_scale[:k])
        with tempfile.TemporaryDirectory(dir=self.folder.path("."), prefix=".nodes-") as devices:
            prior, _ = engines.run(
                "inline",
                self._training(world, k),
                flat,
                self.settings.privacy(),
                step=2.0,
                nodes=min(40, self.settings.train_people),
                folder=Path(devices),
                on_round=lambda _: self.stages.advance(0.2),
            )
        prior.save(folder)
        return prior

    def _training(self, world: _World, k: int) -> Evidence:
        """What those who train said about random pairs."""
        s = self.settings
        generator = torch.Generator().manual_seed(world.seed + 1)
        latents = world.pack.latents.sample(TRAINING_POOL, generator)
        raw = torch.cat(
            [
                world.panel.utilities_of_others(pictures(world.pack, latents[start : start + 500]))
                for start in range(0, TRAINING_POOL, 500)
            ],
            dim=1,
        )
        said = pairs(raw, s.ratings, self.noise, generator)
        return Evidence.gather(said.kind, said.value, said.items, world.pack.features(latents, k))

    # -- results

    def _results(self) -> dict[str, Any]:
        cells, points = self._cells(), self.settings.answers
        curves = [_curve(entry, cells[entry.name], points) for entry in self.learners if cells[entry.name]]
        return {
            "format": FORMAT,
            "command": "plgl simulate compare-learners",
            "generators": [{"name": p.name, "version": p.version, "hash": p.hash} for p in self.packs],
            "recommendations": TOP,
            "curves": curves,
            "differences": differences(self.learners, cells, points),
            "skipped": {e.name: "no prior; give --prior or --train-prior" for e in self.learners if not cells[e.name]},
            "seeds": self.seeds,
            "settings": self.folder.settings,
            "environment": environment(),
            "seconds": self.stages.seconds,
        }

    def _cells(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for entry in self.learners:
            cells = [
                {**cell, "generator": pack.name, "seed": seed}
                for pack in self.packs
                for seed in self.seeds
                if (cell := self.folder.cell(_cell(entry, pack, seed))) is not None and "skipped" not in cell
            ]
            found[entry.name] = cells
        return found


def runnable(names: Sequence[str], *, with_prior: bool) -> tuple[list[Entry], list[str]]:
    """Learners by name, and one line for each that cannot run here.

    Args:
        names: of learners; ``all`` for all there are, none for the ``QUICK`` ones.
        with_prior: whether there is a prior to use.

    Raises:
        SettingError: an unknown name, or nothing is left.
    """
    if not names:
        names = [name for name in QUICK if with_prior or not learner(name).prior]
    elif "all" in names:
        names = list(LEARNERS)
    entries, skipped = [], []
    for entry in (learner(name) for name in dict.fromkeys(names)):
        missing = [module for module in entry.needs if importlib.util.find_spec(module) is None]
        if missing:
            skipped.append(f'{entry.name} is left out: it needs {missing[0]}; run: pip install "plgl[bayesopt]"')
        elif entry.prior and not with_prior:
            skipped.append(f"{entry.name} is left out: it needs a prior; give --prior FOLDER or --train-prior")
        else:
            entries.append(entry)
    if not entries:
        raise SettingError(f"no learner is left: {'; '.join(skipped)}")
    return entries, skipped


def differences(
    entries: Sequence[Entry], cells: dict[str, list[dict[str, Any]]], points: Sequence[int]
) -> list[dict[str, Any]]:
    """Each of ours minus the best competitor, person by person, after each number of answers.

    The best competitor is the one of the highest mean utility at that number, chosen afterwards, which is to its
    advantage. ``equals`` is the number of answers after which the best of them has the utility that ours has.
    """
    rivals = [entry for entry in entries if not entry.ours and cells[entry.name]]
    if not rivals:
        return []
    means = [[_mean(_column(cells[r.name], "utility", at)) for at in range(len(points))] for r in rivals]
    summit = [max(column) for column in zip(*means, strict=True)]
    rows = []
    for entry in entries:
        if not entry.ours or not cells[entry.name]:
            continue
        for at, point in enumerate(points):
            best = max(rivals, key=lambda rival: float(_column(cells[rival.name], "utility", at).mean()))
            mine = float(_column(cells[entry.name], "utility", at).mean())
            equals, text = answers_to(points, summit, mine)
            row: dict[str, Any] = {"learner": entry.name, "answers": point, "best": best.name}
            row |= {"equals": equals, "equals_text": text}
            for measure in ("utility", "percentile"):
                gap = _column(cells[entry.name], measure, at) - _column(cells[best.name], measure, at)
                row[measure] = dict(zip(("mean", "low", "high"), band(gap), strict=True))
            rows.append(row)
    return rows


def band(values: Tensor) -> tuple[float, float, float]:
    """Mean of ``(n,)`` with its normal 95 % band."""
    mean = float(values.mean())
    half = 1.96 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return round(mean, 6), round(mean - half, 6), round(mean + half, 6)


def answers_to(points: Sequence[int], values: Sequence[float], level: float) -> tuple[float | None, str]:
    """Answers needed to reach a level on a curve that is linear between its points, as number and as text."""
    if values[0] >= level:
        return float(points[0]), f"<= {points[0]}"
    for (x0, y0), (x1, y1) in zip(
        zip(points, values, strict=True), zip(points[1:], values[1:], strict=True), strict=False
    ):
        if y1 >= level:
            found = x0 + (x1 - x0) * (level - y0) / (y1 - y0)
            return found, f"{found:.0f}"
    return None, f"> {points[-1]}"


def _column(cells: Sequence[dict[str, Any]], measure: str, at: int, kind: str | None = None) -> Tensor:
    """One value per person of a measure at a point, over all cells in order."""
    found = [
        value
        for cell in cells
        for value, of in zip(cell["verdicts"][at][measure], cell["kinds"], strict=True)
        if kind is None or of == kind
    ]
    return torch.tensor(found, dtype=torch.float64)


def _curve(entry: Entry, cells: Sequence[dict[str, Any]], points: Sequence[int]) -> dict[str, Any]:
    curve: dict[str, Any] = {
        "method": entry.name,
        "label": entry.label,
        "feedback": entry.feedback,
        "ours": entry.ours,
        "epsilon": None,
        "ratings": list(points),
        "people": len(_column(cells, "utility", 0)),
    }
    for measure in MEASURES:
        bands = [band(_column(cells, measure, at)) for at in range(len(points))]
        curve[measure], curve[f"{measure}_low"], curve[f"{measure}_high"] = (list(x) for x in zip(*bands, strict=True))
    curve["to_90th"], curve["to_90th_text"] = answers_to(points, curve["percentile"], 0.9)
    curve["by_kind"] = [
        {"kind": kind, **_part(cells, points, kind)}
        for kind in dict.fromkeys(k for cell in cells for k in cell["kinds"])
    ]
    curve["by_generator"] = [
        {"generator": name, **_part([cell for cell in cells if cell["generator"] == name], points)}
        for name in dict.fromkeys(cell["generator"] for cell in cells)
    ]
    curve["shown_late"] = _mean(torch.tensor([row for cell in cells for row in cell["shown_late"]]))
    curve["milliseconds_per_answer"] = _mean(torch.tensor([cell["milliseconds_per_answer"] for cell in cells]))
    curve["seconds_per_recommendation"] = _mean(torch.tensor([cell["seconds_per_recommendation"] for cell in cells]))
    return curve


def _part(cells: Sequence[dict[str, Any]], points: Sequence[int], kind: str | None = None) -> dict[str, Any]:
    """Mean utility and percentile of some of the people."""
    found: dict[str, Any] = {"people": len(_column(cells, "utility", 0, kind))}
    for measure in ("utility", "percentile"):
        found[measure] = [_mean(_column(cells, measure, at, kind)) for at in range(len(points))]
    return found


def _mean(values: Tensor) -> float:
    return round(float(values.double().mean()), 6)


def _values(outcome: Outcome, panel: Panel) -> dict[str, Any]:
    late = outcome.shown[len(outcome.shown) // 2 :]
    return {
        "kinds": panel.kinds,
        "verdicts": [asdict(verdict) for verdict in outcome.verdicts],
        "shown_late": [round(x, 6) for x in torch.stack(late).mean(0).tolist()],
        "milliseconds_per_answer": round(1000 * sum(outcome.answer_seconds) / len(outcome.answer_seconds), 3),
        "seconds_per_recommendation": round(sum(outcome.recommend_seconds) / len(outcome.recommend_seconds), 4),
    }


def _drawn(pack: GeneratorPack, latents: Tensor) -> Tensor:
    """Pictures of latents, a part at a time where they are shrunk."""
    return torch.cat([pictures(pack, part) for part in torch.split(latents, BATCH)])


def _title(entry: Entry) -> str:
    return f"meeting people: {entry.label}"


def _stage(what: str, pack: GeneratorPack, seed: int) -> str:
    return f"{what}, generator {pack.name}, seed {seed}"


def _slug(pack: GeneratorPack) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', pack.name)}-{pack.hash[:8]}"


def _cell(entry: Entry, pack: GeneratorPack, seed: int) -> str:
    return f"{entry.name}-{_slug(pack)}-seed-{seed}"
