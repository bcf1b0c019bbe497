"""The main experiment: train a prior on some people, meet new ones, count the ratings until they are understood."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.likelihood import Evidence
from client.propose import PROPOSERS, Proposer
from client.ratings import Kind
from common.errors import PriorError, SettingError
from common.prior import TYPICAL_SPREAD, PopulationPrior
from common.privacy.settings import PrivacySettings
from simulations import engines
from simulations.contact_sheet import ContactSheet, Row
from simulations.interview import FLAT_SHARE, TOP, WIDTH, Interview, Learner, interview
from simulations.judged import JudgedItems
from simulations.people import AnswerNoise, PeopleFactory
from simulations.progress import Stages
from simulations.run_folder import RunFolder, environment

POINTS = (0, 1, 2, 5, 10, 20, 40, 80)
FEEDBACK = {"like": Kind.LIKE, "choice": Kind.CHOICE, "stars": Kind.STARS, "best": Kind.BEST, "worst": Kind.WORST}
SHEET_POINTS = (0, 5, 20)
SHEET_PEOPLE = 3
SHEET_PIXELS = 96


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Settings of the experiment; every field changes the result.

    Attributes:
        people: who train the prior; ratings: of each of them, about random items; new_people: who are met afterwards.
        ratings: see above.
        new_people: see above.
        epsilons: privacy budgets to compare; a prior without privacy is always trained beside them.
        delta: failure probability of each budget.
        participations: rounds, and the most that one person takes part in.
        norm_bound: clip norm C of one update.
        minimum_people: fewer answers abort a round.
        step: learning rate of the M-step.
        components: features k of the latent map.
        feedback: one of ``FEEDBACK``.
        proposer: one of ``client.propose.PROPOSERS``; new people only.
        pool: items that questions are made of; unseen: items that recommendations are chosen from.
        unseen: see above.
        engine: one of ``simulations.engines.ENGINES``; nodes: simulated devices.
        nodes: see above.
        seed: of the first repeat; repeats: independent populations.
        repeats: see above.
    """

    people: int = 2_000
    ratings: int = 30
    new_people: int = 200
    epsilons: tuple[float, ...] = (1.0,)
    delta: float = 1e-6
    participations: int = 4
    norm_bound: float = 6.0
    minimum_people: int = 100
    step: float = 2.0
    components: int = 48
    feedback: str = "choice"
    proposer: Proposer = "eubo"
    pool: int = 4_000
    unseen: int = 20_000
    engine: str = "inline"
    nodes: int = 40
    seed: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("ratings", "new_people", "components", "nodes", "repeats"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}={getattr(self, name)} must be >= 1")
        if self.feedback not in FEEDBACK:
            raise SettingError(f"feedback={self.feedback!r} must be one of {', '.join(FEEDBACK)}")
        if self.proposer not in PROPOSERS:
            raise SettingError(f"proposer={self.proposer!r} must be one of {', '.join(PROPOSERS)}")
        if self.engine not in engines.ENGINES:
            raise SettingError(f"engine={self.engine!r} must be one of {', '.join(engines.ENGINES)}")
        needed = max(max(POINTS), self.ratings) * WIDTH[self.kind]
        if self.pool < 2 * needed:
            raise SettingError(f"pool={self.pool} items are too few for {needed} shown to one person; try {4 * needed}")
        if self.unseen < 100:
            raise SettingError(f"unseen={self.unseen} must be >= 100 for a percentile to mean anything; try 20000")
        if self.nodes > self.people:
            raise SettingError(f"nodes={self.nodes} must be at most people={self.people}")
        if len(set(self.epsilons)) != len(self.epsilons):
            raise SettingError(f"epsilons={self.epsilons} must differ")
        for epsilon in self.epsilons:
            if not math.isfinite(epsilon):
                raise SettingError(
                    "epsilon=inf needs no asking: a prior without privacy is always trained beside the others"
                )
            self.privacy(epsilon)

    @property
    def kind(self) -> Kind:
        """Kind of question."""
        return FEEDBACK[self.feedback]

    def privacy(self, epsilon: float) -> PrivacySettings:
        """The promise of one federation."""
        return PrivacySettings(
            epsilon=epsilon,
            delta=self.delta,
            participations=self.participations,
            norm_bound=self.norm_bound,
            expected_people=self.people,
            minimum_people=self.minimum_people,
        )


@dataclass(frozen=True)
class Method:
    """One curve: its name for scripts, its label for people, its budget."""

    name: str
    label: str
    epsilon: float | None = None


def methods(settings: ColdStart) -> list[Method]:
    """The curves, weakest first."""
    return [
        Method("linear-z-no-prior", "linear in z, no prior"),
        Method("map-no-prior", "latent map, no prior"),
        Method("map-mean-only", "latent map + mean only, not private"),
        Method("map-prior-not-private", "latent map + prior, not private"),
        *(
            Method(f"map-prior-eps-{epsilon:g}", f"latent map + private prior, ε = {epsilon:g}", epsilon)
            for epsilon in settings.epsilons
        ),
    ]


class Experiment:
    """One run of the experiment in a folder; whatever is finished there is used again."""

    def __init__(
        self,
        settings: ColdStart,
        pack: GeneratorPack,
        factory: PeopleFactory,
        noise: AnswerNoise,
        folder: RunFolder,
        *,
        quiet: bool = False,
    ) -> None:
        self.settings, self.pack, self.factory, self.noise, self.folder = settings, pack, factory, noise, folder
        work: dict[str, float] = {}
        for seed in self.seeds:
            work[f"drawing and judging pictures (seed {seed})"] = 60 * (settings.pool + settings.unseen) / 24_000
            for name, _ in self._priors():
                work[f"learning the {name} prior (seed {seed})"] = 8 * settings.people / 2_000
            for method in methods(settings):
                work[f"meeting new people: {method.label} (seed {seed})"] = 12 * settings.new_people / 200
        work["report"] = 2
        self.stages = Stages(work, quiet=quiet)

    @property
    def seeds(self) -> list[int]:
        """One for each repeat."""
        return list(range(self.settings.seed, self.settings.seed + self.settings.repeats))

    def _priors(self) -> Iterator[tuple[str, float]]:
        yield "not private", math.inf
        for epsilon in self.settings.epsilons:
            yield f"ε = {epsilon:g}", epsilon

    def run(self) -> tuple[dict[str, Any], list[ContactSheet]]:
        """Do what is not done yet.

        Returns:
            The results object that ``report.write_report`` takes, and the contact sheets of three people.
        """
        sheets: list[ContactSheet] = []
        with self.stages:
            for seed in self.seeds:
                items = self._items(seed)
                priors = self._learn_priors(seed, items)
                for method in methods(self.settings):
                    self._meet(method, seed, items, priors)
                if seed == self.settings.seed:
                    sheets = list(self._sheets(seed, items))
            self.stages.begin("report")
        return self._results(), sheets

    def _items(self, seed: int) -> JudgedItems:
        stage = f"drawing and judging pictures (seed {seed})"
        path = self.folder.path(f"items-{seed}.safetensors")
        if path.exists():
            self.stages.skip(stage)
            return JudgedItems.load(path)
        s = self.settings
        self.stages.begin(stage)
        items = JudgedItems.make(
            self.pack,
            self.factory,
            count=s.people + s.new_people,
            new=s.new_people,
            pool=s.pool,
            unseen=s.unseen,
            seed=seed,
            advance=lambda n: self.stages.advance(n / (s.pool + s.unseen)),
        )
        items.save(path)
        return items

    def _training(self, seed: int, items: JudgedItems) -> Evidence:
        """What the people who train the prior said about random items."""
        s, width = self.settings, WIDTH[self.settings.kind]
        generator = torch.Generator().manual_seed(seed + 1)
        order = torch.rand(s.people, s.pool, generator=generator)
        shown = order.topk(s.ratings * width, dim=1).indices
        utilities = items.pool.gather(1, shown).reshape(s.people, s.ratings, width)
        values = self.noise.answer(s.kind, utilities, self.noise.levels(s.people, generator), generator)
        features = self.pack.features(items.pool_latents, s.components)
        return Evidence.gather(torch.full(values.shape, int(s.kind)), values, shown.reshape(utilities.shape), features)

    def _learn_priors(self, seed: int, items: JudgedItems) -> dict[float, PopulationPrior]:
        flat, evidence = self._flat(), None
        priors = {}
        for name, epsilon in self._priors():
            stage = f"learning the {name} prior (seed {seed})"
            label = "not-private" if math.isinf(epsilon) else f"eps-{epsilon:g}"
            folder = self.folder.path(f"prior-{label}-seed-{seed}")
            cell = f"federation-{label}-seed-{seed}"
            if self.folder.cell(cell) is not None:
                try:
                    priors[epsilon] = PopulationPrior.load(folder, pack=self.pack.hash, parameters=flat.parameters)
                    self.stages.skip(stage)
                    continue
                except PriorError:
                    pass  # it was damaged after it was written: learn it again
            self.stages.begin(stage)
            if evidence is None:
                evidence = self._training(seed, items)
            priors[epsilon] = self._federate(evidence, flat, epsilon, folder, cell)
        return priors

    def _federate(
        self, evidence: Evidence, flat: PopulationPrior, epsilon: float, folder: Path, cell: str
    ) -> PopulationPrior:
        s = self.settings
        with tempfile.TemporaryDirectory(dir=self.folder.path("."), prefix=".nodes-") as devices:
            prior, rounds = engines.run(
                s.engine,
                evidence,
                flat,
                s.privacy(epsilon),
                step=s.step,
                nodes=s.nodes,
                folder=Path(devices),
                on_round=lambda _: self.stages.advance(1 / s.participations),
            )
        prior.save(folder)
        self.folder.save_cell(cell, {"rounds": [record.to_json() for record in rounds]})
        return prior

    def _flat(self) -> PopulationPrior:
        k = self.settings.components
        return PopulationPrior.flat(k + 1, self.pack.hash, TYPICAL_SPREAD, self.pack.component_scale[:k])

    def _learner(self, method: Method, items: JudgedItems, priors: dict[float, PopulationPrior]) -> Learner:
        if method.name == "linear-z-no-prior":
            return Learner(
                pool=_with_bias(items.pool_latents),
                unseen=_with_bias(items.unseen_latents),
                flat=PopulationPrior.flat(items.pool_latents.shape[1] + 1, self.pack.hash, TYPICAL_SPREAD),
            )
        k, flat = self.settings.components, self._flat()
        full = priors[math.inf]
        chosen = {
            "map-no-prior": None,
            "map-mean-only": PopulationPrior(
                mean=full.mean,
                covariance=flat.covariance,
                thresholds=full.thresholds,
                pack=full.pack,
                privacy=full.privacy,
                rounds=full.rounds,
            ),
            "map-prior-not-private": full,
        }
        prior = priors[method.epsilon] if method.epsilon is not None else chosen[method.name]
        return Learner(
            pool=self.pack.features(items.pool_latents, k),
            unseen=self.pack.features(items.unseen_latents, k),
            flat=flat,
            prior=prior,
        )

    def _meet(
        self, method: Method, seed: int, items: JudgedItems, priors: dict[float, PopulationPrior]
    ) -> dict[str, Any]:
        stage, cell = f"meeting new people: {method.label} (seed {seed})", f"{method.name}-seed-{seed}"
        there = self.folder.cell(cell)
        if there is not None:
            self.stages.skip(stage)
            return there
        self.stages.begin(stage)
        result = interview(
            self._learner(method, items, priors),
            items.pool[self.settings.people :],
            items.unseen,
            kind=self.settings.kind,
            proposer=self.settings.proposer,
            noise=self.noise,
            points=POINTS,
            seed=seed + 2,
            advance=lambda n: self.stages.advance(n / max(POINTS)),
        )
        values = _cell(result)
        self.folder.save_cell(cell, values)
        return values

    def _sheets(self, seed: int, items: JudgedItems) -> Iterator[ContactSheet]:
        method = methods(self.settings)[-1]
        cell = self.folder.cell(f"{method.name}-seed-{seed}")
        assert cell is not None, "every method has its cell by now"
        for person in range(min(SHEET_PEOPLE, self.settings.new_people)):
            shown = torch.tensor(cell["shown"][person])
            captions = [
                _caption(self.settings.kind, value, place)
                for value in cell["said"][person]
                for place in range(WIDTH[self.settings.kind])
            ]
            asked = Row("shown, and what they said", self._draw(items.pool_latents[shown.flatten()]), captions)
            rows = [asked]
            for point in SHEET_POINTS:
                best = torch.tensor(cell["recommended"][person][POINTS.index(point)])
                rank = cell["percentile"][person][POINTS.index(point)]
                name = f"recommended after {point} rating{'s' if point != 1 else ''} (percentile {100 * rank:.0f})"
                rows.append(Row(name, self._draw(items.unseen_latents[best])))
            yield ContactSheet(title=method.label, person=f"new person {person + 1}", rows=rows)

    def _draw(self, latents: Tensor) -> Any:
        pictures = self.pack.generate(latents, size=SHEET_PIXELS)
        return ((pictures + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()

    def _results(self) -> dict[str, Any]:
        curves = [self._curve(method) for method in methods(self.settings)]
        return {
            "format": "plgl-cold-start-1",
            "command": "plgl simulate cold-start",
            "generator": {"name": self.pack.name, "version": self.pack.version, "hash": self.pack.hash},
            "curves": curves,
            "privacy": self._statements(),
            "worth": worth(curves),
            "settings": self.folder.settings | {"recommendations": TOP, "flat_share": FLAT_SHARE},
            "seeds": self.seeds,
            "environment": environment(),
            "seconds": self.stages.seconds,
            "federation": self._federation(),
        }

    def _curve(self, method: Method) -> dict[str, Any]:
        cells = [self.folder.cell(f"{method.name}-seed-{seed}") for seed in self.seeds]
        percentile = torch.cat([torch.tensor(cell["percentile"]) for cell in cells if cell])
        likelihood = torch.cat([torch.tensor(cell["log_likelihood"]) for cell in cells if cell])
        middle, low, high = _band(percentile)
        ll, ll_low, ll_high = _band(likelihood)
        return {
            "method": method.name,
            "label": method.label,
            "epsilon": method.epsilon,
            "ratings": list(POINTS),
            "percentile": middle,
            "low": low,
            "high": high,
            "log_likelihood": ll,
            "log_likelihood_low": ll_low,
            "log_likelihood_high": ll_high,
        }

    def _statements(self) -> list[dict[str, Any]]:
        rows = []
        for seed in self.seeds:
            for _, epsilon in self._priors():
                label = "not-private" if math.isinf(epsilon) else f"eps-{epsilon:g}"
                name = f"prior-{label}-seed-{seed}"
                privacy = PopulationPrior.load(self.folder.path(name)).privacy
                method = "map-prior-not-private" if math.isinf(epsilon) else f"map-prior-eps-{epsilon:g}"
                rows.append({"prior": name, "method": method, "statement": privacy.to_json(), "text": str(privacy)})
        return rows

    def _federation(self) -> dict[str, Any]:
        label = f"eps-{self.settings.epsilons[-1]:g}" if self.settings.epsilons else "not-private"
        cell = self.folder.cell(f"federation-{label}-seed-{self.settings.seed}")
        return {"engine": self.settings.engine, "prior": label, "rounds": cell["rounds"] if cell else []}


def worth(curves: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many ratings without a prior reach what the prior has after a few: read off the curves, interpolated."""
    by_name = {curve["method"]: curve for curve in curves}
    rows = []
    for curve in curves:
        if not curve["method"].startswith("map-prior"):
            continue
        for without in ("map-no-prior", "linear-z-no-prior"):
            for n in (5, 10):
                level = curve["percentile"][curve["ratings"].index(n)]
                equals = ratings_to_reach(by_name[without], level)
                last = by_name[without]["ratings"][-1]
                amount = f"more than {last}" if equals is None else f"{equals:.0f}"
                text = f"{n} ratings with '{curve['label']}' are worth {amount} with '{by_name[without]['label']}'"
                rows.append({"with": curve["method"], "ratings": n, "equals": equals, "without": without, "text": text})
    return rows


def ratings_to_reach(curve: dict[str, Any], level: float) -> float | None:
    """First number of ratings at which the curve, linear between its points, reaches ``level``; ``None`` if never."""
    xs, ys = curve["ratings"], curve["percentile"]
    if ys[0] >= level:
        return float(xs[0])
    for x0, x1, y0, y1 in zip(xs, xs[1:], ys, ys[1:], strict=False):
        if y1 >= level:
            return float(x0 + (x1 - x0) * (level - y0) / (y1 - y0))
    return None


def _with_bias(latents: Tensor) -> Tensor:
    return torch.cat([latents.double(), torch.ones(latents.shape[0], 1, dtype=torch.float64)], dim=1)


def _band(values: Tensor) -> tuple[list[float], list[float], list[float]]:
    """Mean over people with its normal 95 % band, per point."""
    mean = values.double().mean(0)
    half = 1.96 * values.double().std(0) / math.sqrt(values.shape[0]) if values.shape[0] > 1 else torch.zeros_like(mean)
    return tuple([round(x, 6) for x in row.tolist()] for row in (mean, mean - half, mean + half))  # type: ignore[return-value]


def _cell(result: Interview) -> dict[str, Any]:
    few = slice(0, SHEET_PEOPLE)
    return {
        "percentile": [[round(x, 6) for x in row] for row in result.percentile.tolist()],
        "log_likelihood": [[round(x, 6) for x in row] for row in result.log_likelihood.tolist()],
        "shown": result.items[few, :4].tolist(),
        "said": result.values[few, :4].tolist(),
        "recommended": result.recommended[few].tolist(),
    }


def _caption(kind: Kind, value: int, place: int) -> str:
    if kind == Kind.LIKE:
        return "liked" if value else "not"
    if kind == Kind.STARS:
        return f"{value} stars"
    if kind == Kind.CHOICE:
        return ("chosen" if value == place else "") if value < 2 else ("both" if value == 2 else "neither")
    return ("best" if kind == Kind.BEST else "worst") if value == place else ""
