"""``plgl simulate``: experiments on invented people."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from common.errors import SettingError
from simulations import flow_policies, from_file_cli
from simulations import scale as scale_command
from simulations.attacks import cli as attacks
from simulations.audits import cli as audits
from simulations.lab import cli as lab
from simulations.lab import policies_cli, population_policies_cli

if TYPE_CHECKING:
    from client.propose import Proposer
    from common.prior import PopulationPrior

app = typer.Typer(help="Experiments on invented people.", no_args_is_help=True)


def _epsilons(values: list[str]) -> tuple[float, ...]:
    """Budgets from ``--epsilon 1 --epsilon 2`` or ``--epsilon 1,2``."""
    found = []
    for text in ",".join(values).split(","):
        try:
            found.append(float(text))
        except ValueError as error:
            raise SettingError(f"epsilon={text!r} is not a number; try --epsilon 1 or --epsilon 0.5,1,2") from error
    return tuple(found)


@app.command("cold-start")
def cold_start(
    out: Annotated[Path, typer.Option(help="Folder for everything that comes out; resumed if it is there.")] = Path(
        "plgl-cold-start"
    ),
    generator: Annotated[str, typer.Option(help="Generator pack: a name or a folder.")] = "art",
    epsilon: Annotated[list[str], typer.Option(help="Privacy budgets to compare, e.g. 0.5,1,2.")] = ["1"],  # noqa: B006
    delta: Annotated[float, typer.Option(help="Failure probability of each budget.")] = 1e-6,
    participations: Annotated[int, typer.Option(help="Rounds; the most one person takes part in.")] = 4,
    norm_bound: Annotated[float, typer.Option(help="Clip norm of one person's update.")] = 6.0,
    minimum_people: Annotated[int, typer.Option(help="Fewer answers than this abort a round.")] = 100,
    step: Annotated[float, typer.Option(help="Learning rate of the server.")] = 2.0,
    train_people: Annotated[int, typer.Option(help="People who train the prior.")] = 2_000,
    ratings: Annotated[int, typer.Option(help="Ratings of each of them.")] = 30,
    new_people: Annotated[int, typer.Option(help="New people to meet.")] = 200,
    people: Annotated[
        str, typer.Option(help="Your own people, as module:object (simulations.people.PeopleFactory).")
    ] = "",
    shared: Annotated[float, typer.Option(help="How much invented people have in common, 0 to 1.")] = 0.9,
    archetypes: Annotated[int, typer.Option(help="Archetypes of invented people.")] = 5,
    ideal: Annotated[float, typer.Option(help="Share of people with an ideal point.")] = 0.2,
    two_peaked: Annotated[float, typer.Option(help="Share of people with two ideal points.")] = 0.1,
    components: Annotated[int, typer.Option(help="Features of the latent map to use.")] = 48,
    feedback: Annotated[str, typer.Option(help="like, choice, stars, best or worst.")] = "choice",
    propose: Annotated[str, typer.Option(help="random, thompson, optimistic, information or eubo.")] = "eubo",
    pool: Annotated[int, typer.Option(help="Items that questions are made of.")] = 4_000,
    unseen: Annotated[int, typer.Option(help="Items that recommendations are chosen from.")] = 20_000,
    engine: Annotated[str, typer.Option(help="inline, direct, batched, or ray (simulation extra).")] = "inline",
    nodes: Annotated[int, typer.Option(help="Simulated devices; each holds many people.")] = 40,
    seed: Annotated[int, typer.Option(help="Of the first repeat. Privacy noise never has a seed.")] = 0,
    repeats: Annotated[int, typer.Option(help="Independent populations.")] = 1,
    sets: lab.Set = [],  # noqa: B006
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results.json to standard output, nothing else.")
    ] = False,
) -> None:
    """Train a private prior on invented people, then meet new ones: how many ratings until they are understood?"""
    import torch

    from client.generators.pack import GeneratorPack
    from simulations.cold_start import ColdStart, Experiment
    from simulations.lab.assignments import assigned_among
    from simulations.people import AnswerNoise, Population, load_factory
    from simulations.report import headline, results_text, terminal_table, write_report
    from simulations.run_folder import RunFolder

    settings = ColdStart(
        people=train_people,
        ratings=ratings,
        new_people=new_people,
        epsilons=_epsilons(epsilon),
        delta=delta,
        participations=participations,
        norm_bound=norm_bound,
        minimum_people=minimum_people,
        step=step,
        components=components,
        feedback=feedback,
        proposer=cast("Proposer", propose),
        pool=pool,
        unseen=unseen,
        engine=engine,
        nodes=nodes,
        seed=seed,
        repeats=repeats,
    )
    pack = GeneratorPack.open(generator)
    population = Population(shared=shared, archetypes=archetypes, ideal=ideal, two_peaked=two_peaked)
    settings, population, noise = assigned_among(sets, settings, population, AnswerNoise())
    if settings.components > pack.components:
        raise SettingError(
            f"components={settings.components} is more than the {pack.components} the map of {pack.name} has"
        )
    factory = load_factory(people) if people else population
    about: dict[str, Any] = {
        **asdict(settings),
        "generator": f"{pack.name} {pack.version} {pack.hash}",
        "population": people or asdict(population),
        "answers": asdict(noise),
    }
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # many small matrices: more threads only wait for each other, long on a busy machine
    seeds = range(settings.seed, settings.seed + settings.repeats)
    with RunFolder.open(out, "simulate cold-start", about, seeds=seeds) as folder:
        results, sheets = Experiment(settings, pack, factory, noise, folder).run()
        page = write_report(folder, results, sheets)
        folder.finish()
        if as_json:
            sys.stdout.write(results_text(results))
            return
        console = Console()
        console.print(terminal_table(results))
        console.print(headline(results), highlight=False)
        for row in results["worth"]:
            if row["ratings"] == 5:
                console.print(f"  {row['text']}", highlight=False)
        console.print(f"\nreport  {page}", highlight=False, soft_wrap=True)


def _numbers(text: str) -> tuple[int, ...]:
    """Whole numbers from ``10,20,40``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise SettingError(f"answers={text!r} must be whole numbers; try --answers 10,20,40,80") from error


def _names(values: list[str]) -> list[str]:
    """Names from ``--x a --x b`` or ``--x a,b``."""
    return [name.strip() for name in ",".join(values).split(",") if name.strip()]


def _digest(prior: PopulationPrior) -> str:
    """Names a prior in the settings of a run."""
    import hashlib

    return hashlib.sha256(b"".join(x.numpy().tobytes() for x in (prior.mean, prior.covariance))).hexdigest()


@app.command("compare-learners")
def compare_learners(
    out: Annotated[Path, typer.Option(help="Folder for everything that comes out; resumed if it is there.")] = Path(
        "plgl-compare-learners"
    ),
    generator: Annotated[list[str], typer.Option(help="Generator packs: names or folders.")] = ["art"],  # noqa: B006
    people: Annotated[int, typer.Option(help="People who test each learner; 32 or more for narrow bands.")] = 8,
    answers: Annotated[str, typer.Option(help="Numbers of answers to look after.")] = "10,20,40,80",
    learners: Annotated[
        list[str],
        typer.Option(help="Names from the list above, or all. More may be added to a finished folder."),
    ] = [],  # noqa: B006
    prior: Annotated[Path | None, typer.Option(help="Folder of a private prior for session-prior.")] = None,
    train_prior: Annotated[
        bool, typer.Option("--train-prior", help="Train one on other people of the same population.")
    ] = False,
    epsilon: Annotated[float, typer.Option(help="Privacy budget of that prior.")] = 1.0,
    delta: Annotated[float, typer.Option(help="Its failure probability.")] = 1e-6,
    train_people: Annotated[int, typer.Option(help="People who train it.")] = 2_000,
    ratings: Annotated[int, typer.Option(help="Ratings of each of them.")] = 30,
    kinds: Annotated[
        list[str], typer.Option(help="Kinds of people: weighted, ideal, two-peaked, target. All by default.")
    ] = [],  # noqa: B006
    plug_in: Annotated[
        str, typer.Option("--people-from", help="Your own people, as module:object (simulations.people.PeopleFactory).")
    ] = "",
    shared: Annotated[float, typer.Option(help="How much invented people have in common, 0 to 1.")] = 0.9,
    archetypes: Annotated[int, typer.Option(help="Archetypes of invented people.")] = 5,
    surprise: Annotated[float, typer.Option(help="How varied our recommendations are to be, 0 to 1.")] = 0.0,
    law: Annotated[int, typer.Option(help="Pictures that percentiles and realism refer to.")] = 20_000,
    yardsticks: Annotated[
        Path | None, typer.Option(help="Keep judged pictures in this folder, for other runs with the same people.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first repeat. Privacy noise never has a seed.")] = 0,
    repeats: Annotated[int, typer.Option(help="Independent panels of people.")] = 1,
    sets: lab.Set = [],  # noqa: B006
    as_json: Annotated[
        bool, typer.Option("--json", help="Print results.json to standard output, nothing else.")
    ] = False,
) -> None:
    """Our session against other learners: who recommends better after the same number of answers?

    Learners: session, session-prior, session-stars, session-like (ours); pairwise-gp, pairwise-gp-drop,
    pairwise-gp-scale, noisy-ei (BoTorch); optuna-gp, optuna-tpe; cma-es; seed-logistic; random.

    Without options it runs session, pairwise-gp-scale, optuna-tpe, cma-es and random, and session-prior where there
    is a prior, in about five minutes on two cores. All of them with 32 people take hours.
    """
    import torch

    from client.generators.pack import GeneratorPack
    from common.prior import PopulationPrior
    from simulations.compare_learners import CompareLearners, Experiment, runnable
    from simulations.lab.assignments import assigned_among
    from simulations.learners_report import headline, losses, results_text, terminal_tables, write_report
    from simulations.panel import KINDS
    from simulations.people import AnswerNoise, Population, load_factory
    from simulations.run_folder import RunFolder

    settings = CompareLearners(
        people=people,
        answers=_numbers(answers),
        kinds=tuple(_names(kinds)) or KINDS,
        surprise=surprise,
        law=law,
        train_prior=train_prior,
        train_people=train_people,
        ratings=ratings,
        epsilon=epsilon,
        delta=delta,
        seed=seed,
        repeats=repeats,
    )
    population = Population(shared=shared, archetypes=archetypes)
    settings, population, noise = assigned_among(sets, settings, population, AnswerNoise())
    if prior is not None and settings.train_prior:
        raise SettingError("--prior and --train-prior exclude each other; give one of them")
    packs = [GeneratorPack.open(name) for name in _names(generator)]
    if len({pack.hash for pack in packs}) != len(packs) or not packs:
        raise SettingError("--generator must name one or more different packs")
    found = None if prior is None else PopulationPrior.load(prior)
    entries, skipped = runnable(_names(learners), with_prior=found is not None or settings.train_prior)
    factory = load_factory(plug_in) if plug_in else population
    about: dict[str, Any] = {
        **asdict(settings),
        "generators": [f"{pack.name} {pack.version} {pack.hash}" for pack in packs],
        "population": plug_in or asdict(population),
        "prior": "" if found is None else _digest(found),
        "noise": asdict(noise),
    }
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # many small matrices: more threads only wait for each other, long on a busy machine
    seeds = range(settings.seed, settings.seed + settings.repeats)
    with RunFolder.open(out, "simulate compare-learners", about, seeds=seeds) as folder:
        console = Console(stderr=as_json)
        for line in skipped:
            console.print(line, highlight=False, soft_wrap=True)
        results = Experiment(
            settings, packs, entries, folder, population=factory, prior=found, noise=noise, yardsticks=yardsticks
        ).run()
        page = write_report(folder, results)
        folder.finish()
        if as_json:
            sys.stdout.write(results_text(results))
            return
        for table in terminal_tables(results):
            console.print(table)
        console.print(headline(results), highlight=False)
        for line in losses(results):
            console.print(f"  {line}", highlight=False, soft_wrap=True)
        console.print(f"\nreport  {page}", highlight=False, soft_wrap=True)


# Each of these modules imports heavy libraries inside its commands only.
app.command("privacy")(lab.privacy)
app.command("population")(lab.population)
app.command("scale")(scale_command.scale)
app.command("audit")(audits.audit)
app.command("attack")(attacks.attack)
app.command("from-file")(from_file_cli.from_file)
app.command("policies")(policies_cli.policies)
app.command("population-policies")(population_policies_cli.population_policies)
app.command("flows")(flow_policies.flows)
app.command("diff")(lab.diff)
