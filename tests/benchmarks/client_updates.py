"""How many client updates a second of one processor does: ours, the loop one would write first, and two frameworks.

    OMP_NUM_THREADS=1 python tests/benchmarks/client_updates.py
    python tests/benchmarks/client_updates.py --python pfl=/path/to/python --frameworks ours,naive,flower,pfl

All do the same work (``client_updates_frameworks.py``) and end with the same parameters as a float64 NumPy reference
after two rounds; a framework that does not is marked. Repetitions are interleaved, every run is a process of its own,
processor time is that of its whole tree without start-up and first round, and ratios are taken within a repetition,
so that a busy machine distorts them least. A framework that a Python does not have is left out, with the reason.

The floor is what the arithmetic and the memory traffic of plain gradient steps cost at the rates of this machine for
large matrices and copies. Where a person has fewer answers than latents our network does less arithmetic than that
(``simulations.strategies.local_training``), so more than 100 % would be no mistake.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
NEEDS = {"ours": "simulations", "naive": "torch", "flower": "ray", "pfl": "pfl"}
SLOW = {"naive": 2, "flower": 2, "pfl": 2}  # rounds, of which the first is not counted
OURS = {"lr": 400, "mlp": 40}
TOLERANCE = 1e-5
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SILENT = {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def environment() -> dict[str, str]:
    """One thread a process, no telemetry, this checkout first."""
    path = os.pathsep.join(filter(None, [str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **ONE_THREAD, **SILENT, "PYTHONPATH": path}


def missing(framework: str, python: str) -> str | None:
    """Why a framework cannot run with this Python; ``None`` if it can."""
    needed = NEEDS[framework]
    found = subprocess.run([python, "-c", f"import {needed}"], capture_output=True, text=True, env=environment())
    if found.returncode == 0:
        return None
    reason = (found.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    return f"{reason}; name a Python that has it with --python {framework}=PATH"


def once(framework: str, python: str, model: str, people: int, timeout: float) -> dict[str, Any] | str:
    """One run of a framework: what it measured, or why it gave nothing."""
    rounds = SLOW.get(framework, OURS[model])
    command = [python, str(HERE / "client_updates_frameworks.py"), framework, "--model", model]
    command += ["--people", str(people), "--rounds", str(rounds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment())
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return f"not done after {timeout:g} s; raise --timeout"
    except (IndexError, json.JSONDecodeError):
        return (done.stderr.strip().splitlines() or ["no output"])[-1]
    return found


def rates() -> tuple[float, float]:
    """Best of several: multiplications and additions a second of a large matrix product, bytes a second of a copy."""
    a = np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32)
    source, target = np.ones(2**25, dtype=np.float32), np.empty(2**25, dtype=np.float32)
    product, copy = [], []
    for _ in range(8):
        begun = time.process_time()
        a @ a
        product.append(time.process_time() - begun)
        begun = time.process_time()
        np.copyto(target, source)
        copy.append(time.process_time() - begun)
    return 2 * 1024**3 / min(product), 2 * source.nbytes / min(copy)


def floor(model: str, flops: float, bandwidth: float) -> tuple[float, float]:
    """Updates a second that arithmetic, and that memory, would allow: 30 answers, 100 latents and a one, 5 steps."""
    rows, inputs, hidden, steps = 30, 101, 64, 5
    work = steps * rows * 4 * (inputs * hidden + hidden + 1 if model == "mlp" else inputs)
    traffic = 4 * rows * inputs  # what a person answered about is read once; the weights stay in the cache
    return flops / work, bandwidth / traffic


def report(model: str, people: int, found: dict[str, list[dict[str, Any]]], reasons: dict[str, str]) -> None:
    """Print the table of one model."""
    limits = floor(model, *rates())
    print(f"\n{model.upper()}, {people} people a round")
    print(f"floor of one processor: {limits[0]:,.0f} updates/s by arithmetic, {limits[1]:,.0f} by memory")
    print(f"{'framework':<10}{'updates / CPU s':>16}{'x naive':>10}{'of FLOPs':>10}{'of memory':>10}{'difference':>12}")
    for name in NEEDS:
        if name in reasons:
            print(f"{name:<10}left out: {reasons[name]}")
        if name not in found:
            continue
        speeds = [run["updates"] / max(run["cpu_seconds"], 1e-9) for run in found[name]]
        loops = [run["updates"] / max(run["cpu_seconds"], 1e-9) for run in found.get("naive", [])]
        ratio = (
            statistics.median(mine / loop for mine, loop in zip(speeds, loops, strict=False)) if loops else float("nan")
        )
        middle, wrong = statistics.median(speeds), max(run["difference"] for run in found[name])
        shares = f"{middle / limits[0]:>10.1%}{middle / limits[1]:>10.1%}"
        verdict = "" if wrong <= TOLERANCE else "  WRONG PARAMETERS"
        print(f"{name:<10}{middle:>16,.0f}{ratio:>10.2f}{shares}{wrong:>12.1e}{verdict}")


def main() -> int:
    """Run and print; the exit status is 1 if a framework ended with other parameters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frameworks", default="ours,naive,flower,pfl")
    parser.add_argument("--models", default="lr,mlp")
    parser.add_argument("--people", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--python", action="append", default=[], metavar="FRAMEWORK=PATH")
    parser.add_argument("--timeout", type=float, default=900.0)
    options = parser.parse_args()
    pythons = {**dict.fromkeys(NEEDS, sys.executable), **dict(pair.split("=", 1) for pair in options.python)}
    wanted = options.frameworks.split(",")
    if unknown := [name for name in [*wanted, *pythons] if name not in NEEDS]:
        parser.error(f"framework {unknown[0]!r} must be one of {', '.join(NEEDS)}")
    reasons = {name: why for name in wanted if (why := missing(name, pythons[name])) is not None}
    right = True
    for model in options.models.split(","):
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        failed = dict(reasons)
        for _ in range(options.repeats):
            for name in wanted:
                if name not in failed:
                    run = once(name, pythons[name], model, options.people, options.timeout)
                    if isinstance(run, str):
                        failed[name] = run
                    else:
                        found[name].append(run)
                        right = right and run["difference"] <= TOLERANCE
        report(model, options.people, found, failed)
    return 0 if right else 1


if __name__ == "__main__":
    raise SystemExit(main())
