"""What ``plgl doctor`` thinks of what it sees: pure functions from facts to records with advice.

Facts are gathered in `client.doctor_facts`. Nothing here reads the machine, so every verdict can be tried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from client.explanation import ENOUGH, Explanation

State = Literal["ok", "advice", "problem"]
INSTANT = 100.0  # ms between an answer and the next pair that people do not notice
PICTURE_SIZE = 256
_MIB, _GIB = 1 << 20, 1 << 30
_ROOM_ON_DISK = 200 * _MIB
_MEMORY = 1 * _GIB  # what rating with the embedded generator takes, rounded up
_MUCH_ALIKE = 0.25  # see `check_diversity`


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: ``ok``; ``advice`` for something that could be better; ``problem`` for something that does not work.
        seen: what was found.
        next: what to do about it; empty where nothing is to be done.
    """

    name: str
    state: State
    seen: str
    next: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON allows it."""
        return asdict(self)


def check_versions(found: Mapping[str, str | None], wanted: Mapping[str, str]) -> Check:
    """Versions of packages against what this program asks for.

    Args:
        found: version by package, None for one that is missing.
        wanted: bounds by package, as in ``>=2.10``.
    """
    from packaging.specifiers import SpecifierSet

    missing = [name for name, version in found.items() if version is None]
    wrong = [
        f"{name} {version} ({wanted[name]} is asked for)"
        for name, version in found.items()
        if version is not None and not SpecifierSet(wanted.get(name, "")).contains(version, prereleases=True)
    ]
    if missing or wrong:
        seen = "; ".join([f"{name} is missing" for name in missing] + wrong)
        return Check(name="packages", state="problem", seen=seen, next="install again: pip install --upgrade plgl")
    return Check(name="packages", state="ok", seen=", ".join(f"{name} {version}" for name, version in found.items()))


def check_providers(available: Sequence[str], active: str | None, cuda: bool, runtimes: Sequence[str]) -> Check:
    """What runs the generators.

    Args:
        available: providers ONNX Runtime was built with.
        active: the one that runs the generator; None where no generator opens.
        cuda: whether torch sees a CUDA device.
        runtimes: installed distributions that own ONNX Runtime's folder.
    """
    known = [name.removesuffix("ExecutionProvider") for name in available]
    seen = f"{', '.join(known)} available; {(active or 'none').removesuffix('ExecutionProvider')} active"
    if len(runtimes) > 1:
        both = " and ".join(runtimes)
        say = f"pip uninstall {' '.join(runtimes)}; then install plgl again"
        return Check(name="ONNX Runtime", state="problem", seen=f"{seen}; {both} overwrite each other", next=say)
    if cuda and active != "CUDAExecutionProvider":
        say = "pip install --force-reinstall onnxruntime-gpu, of a version for the CUDA that torch brings"
        return Check(name="ONNX Runtime", state="advice", seen=f"{seen}, though there is a GPU", next=say)
    return Check(name="ONNX Runtime", state="ok", seen=seen)


def check_devices(devices: Sequence[str], torch_cuda: str | None) -> Check:
    """Where torch computes; a taste model needs no GPU."""
    if devices:
        return Check(name="GPU", state="ok", seen="; ".join(devices))
    built = f"torch is built for CUDA {torch_cuda}" if torch_cuda else "torch is built without CUDA"
    return Check(name="GPU", state="ok", seen=f"none, the processor does it all ({built}); rating needs none")


def check_threads(threads: int, cores: int, load: float | None) -> Check:
    """Threads of torch against the cores this process may use, and how busy they are.

    Args:
        threads: that torch uses.
        cores: that this process may use.
        load: processes that wanted a core during the last minute; None where that is unknown.
    """
    busy = "" if load is None else f", load {load:.1f}"
    seen = f"torch computes with {threads} of {cores} cores{busy}"
    if threads > cores:
        return Check(name="threads", state="advice", seen=seen, next=f"set OMP_NUM_THREADS={cores}")
    if load is not None and load > 1.5 * cores:
        return Check(name="threads", state="advice", seen=seen, next="close programs that keep the processor busy")
    return Check(name="threads", state="ok", seen=seen)


def check_pack(name: str, error: str | None, about: str) -> Check:
    """Whether a generator pack opens, its hashes are right and it draws."""
    if error is not None:
        return Check(
            name=f"pack {name}", state="problem", seen=error, next="install plgl again, or fetch the pack again"
        )
    return Check(name=f"pack {name}", state="ok", seen=about)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Milliseconds, each the median of several.

    Attributes:
        picture: one of two pictures drawn together, 256 pixels (or the pack's own size).
        update_20: learning from an answer after 20 others.
        update_100: after 100 others.
        proposal: choosing the next pair, after 100 answers.
    """

    picture: float
    update_20: float
    update_100: float
    proposal: float

    @property
    def answer(self) -> float:
        """From an answer to the next pair, when nothing is prepared ahead."""
        return self.update_100 + self.proposal + 2 * self.picture


def check_speed(speed: Speed, provider: str, threads: int, cores: int, load: float | None) -> Check:
    """Whether rating feels instant; where it does not, what is slow and why."""
    seen = (
        f"{speed.picture:.0f} ms a picture; {speed.update_20:.0f} / {speed.update_100:.0f} ms to learn after 20 / 100 "
        f"answers; {speed.proposal:.0f} ms to choose a pair; {speed.answer:.0f} ms from an answer to the next pair"
    )
    if speed.answer <= INSTANT:
        return Check(name="speed", state="ok", seen=seen)
    parts = {"drawing": 2 * speed.picture, "learning": speed.update_100, "choosing": speed.proposal}
    slowest = max(parts, key=lambda part: parts[part])
    if load is not None and load > 1.5 * cores:
        why = f"other programs use the processor (load {load:.1f} on {cores} cores); close some"
    elif threads > cores:
        why = f"{threads} threads wait for each other on {cores} cores; set OMP_NUM_THREADS={cores}"
    elif slowest == "drawing" and provider == "CPUExecutionProvider":
        why = "the processor draws; a GPU, smaller pictures or a smaller generator help"
    elif slowest == "drawing":
        why = "this generator is large; smaller pictures or a smaller generator help"
    else:
        why = "the processor is slow for the default model; --model bayes learns faster"
    share = parts[slowest] / speed.answer
    return Check(name="speed", state="advice", seen=seen, next=f"{slowest} takes {share:.0%} of it: {why}")


def check_keyring(backend: str | None, usable: bool, plain: bool) -> Check:
    """Where the key of the store can be kept.

    Args:
        backend: its name; None where there is no keyring.
        usable: whether it keeps keys at all.
        plain: whether it keeps them unencrypted.
    """
    if plain:
        return Check(
            name="keyring", state="advice", seen=f"{backend} keeps keys in plain text, so it is not used",
            next="rate with a passphrase: you are asked, or set PLGL_PASSPHRASE",
        )  # fmt: skip
    if not usable or backend is None:
        return Check(
            name="keyring", state="advice", seen="this system has none",
            next="rate with a passphrase: you are asked, or set PLGL_PASSPHRASE",
        )  # fmt: skip
    return Check(name="keyring", state="ok", seen=backend)


def check_disk(free: int, folder: str) -> Check:
    """Free space where answers are kept, in bytes."""
    seen = f"{free / _GIB:.1f} GiB free for {folder}"
    if free < 10 * _MIB:
        return Check(name="disk", state="problem", seen=seen, next="free some space: answers cannot be kept")
    if free < _ROOM_ON_DISK:
        return Check(name="disk", state="advice", seen=seen, next="free some space before it is full")
    return Check(name="disk", state="ok", seen=seen)


def check_memory(available: int | None, gpu: int | None = None) -> Check:
    """Free memory in bytes, of the machine and of the first GPU; None where that is unknown."""
    known = [f"{available / _GIB:.1f} GiB free" if available is not None else "unknown"]
    known += [f"{gpu / _GIB:.1f} GiB free on the GPU"] if gpu is not None else []
    if min(each for each in (available, gpu, _MEMORY) if each is not None) < _MEMORY:
        return Check(
            name="memory", state="advice", seen=", ".join(known),
            next="close other programs; draw smaller or fewer pictures at once (Item.picture(128), propose(2)); in a "
            "torch generator of your own, smaller chunks, and torch.utils.checkpoint where gradients are taken",
        )  # fmt: skip
    return Check(name="memory", state="ok", seen=", ".join(known))


def check_loopback(error: str | None, port: int) -> Check:
    """Whether the page can be served to this machine."""
    where = f"127.0.0.1:{port}" if port else "127.0.0.1"
    if error is None:
        return Check(name="page", state="ok", seen=f"{where} can be listened on; nobody else is served")
    say = "give --port 0 for a free one" if port else "allow programs to listen on 127.0.0.1"
    return Check(name="page", state="problem", seen=f"{where}: {error}", next=f"{say}, or use --socket or --terminal")


def check_browser(browser: str | None) -> Check:
    """Whether a browser can be opened."""
    if browser is None:
        say = "plgl rate --no-browser prints the address; plgl rate --terminal needs none"
        return Check(name="browser", state="advice", seen="none was found", next=say)
    return Check(name="browser", state="ok", seen=browser)


def check_terminal(depth: str | None) -> Check:
    """How pictures are drawn with ``--terminal``."""
    if depth is None:
        return Check(name="terminal", state="ok", seen="no colours here: --terminal writes pictures to files")
    return Check(name="terminal", state="ok", seen=f"{depth} colours")


def check_telemetry(environment: Mapping[str, str]) -> Check:
    """Whether the libraries underneath report usage to anybody."""
    wanted = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    on = [name for name, value in wanted.items() if environment.get(name) != value]
    if on:
        say = "set " + " ".join(f"{name}={wanted[name]}" for name in on)
        seen = f"{', '.join(on)} let{'s' * (len(on) == 1)} Flower or Ray call home"
        return Check(name="telemetry", state="advice", seen=seen, next=say)
    return Check(name="telemetry", state="ok", seen="off: Flower and Ray report nothing, no look for updates")


def check_store_file(
    path: str, locked: str | None, error: str | None, in_use: bool, size: int = 0, shared: bool = False
) -> Check:
    """A store that stays locked: whether it is there, what opens it, and who can read the file.

    Args:
        path: of the store.
        locked: ``passphrase`` or ``keyring``; None where there is no store.
        error: why its header cannot be read.
        in_use: whether that is because another process has it open.
        size: bytes.
        shared: whether others than the owner may read the file.
    """
    if in_use:
        return Check(name="store", state="ok", seen=f"in use now: {error}")
    if error is not None:
        say = "take a backup of the file, or: plgl store import"
        return Check(name="store", state="problem", seen=error, next=say)
    if locked is None:
        return Check(name="store", state="ok", seen=f"none yet at {path}; plgl rate makes it")
    seen = f"{path}, {size / _MIB:.1f} MiB, opened by {locked}; not unlocked"
    if shared:
        say = f"nothing in it can be read without the key; keep it to yourself all the same: chmod 600 {path}"
        return Check(name="store", state="advice", seen=f"{seen}; others could copy the file", next=say)
    return Check(name="store", state="ok", seen=seen)


def check_store_health(health: Mapping[str, Any]) -> Check:
    """A store that was unlocked; ``health`` as from ``Store.health``."""
    size = f"{health['rows']} rows, {health['bytes'] / _MIB:.1f} MiB"
    if not health["integrity"]:
        seen = f"{health['path']}: {health['problem']}"
        return Check(name="store", state="problem", seen=seen, next="take a backup of the file, or: plgl store import")
    seen = f"{health['path']}, {size}, schema {health['schema']}, {health['kdf']}; every row verified"
    if health["wal_bytes"] > 64 * _MIB:
        say = "open it once with plgl rate and leave in order, so that what waits is moved into the file"
        return Check(name="store", state="advice", seen=f"{seen}; {health['wal_bytes'] / _MIB:.0f} MiB wait", next=say)
    return Check(name="store", state="ok", seen=seen)


def check_locked() -> Check:
    """What stands for learning, agreement and diversity while the store stays locked."""
    say = "to look at them: plgl doctor --store PATH --passphrase-file FILE"
    return Check(name="your answers", state="ok", seen="not looked at: the store stays locked", next=say)


def check_learning(known: Explanation) -> Check:
    """Whether guesses about a person get better than blind ones."""
    if known.held_out_accuracy is None or known.answers < ENOUGH:
        return Check(name="learning", state="ok", seen=f"{known.answers} answers; {ENOUGH} are needed to say")
    seen = (
        f"{known.answers} answers, {known.held_out_accuracy:.0%} guessed before they were given "
        f"(blind guessing: {known.chance:.0%})"
    )
    if known.held_out_accuracy < known.chance + 0.05:
        return Check(
            name="learning", state="advice", seen=f"{seen}: it does not converge",
            next="answer only when you feel a difference and skip the rest; try another way of rating (--mode best); "
            "use one --context for each mood and one --profile for each person; compare models: plgl compare",
        )  # fmt: skip
    return Check(name="learning", state="ok", seen=seen)


def check_contradictions(known: Explanation) -> Check:
    """Whether answers contradict each other."""
    found = [trouble for trouble in known.troubles if "contradict" in trouble]
    if found:
        say = "take back what was a slip (Backspace, or the history); another mood is another --context"
        return Check(name="agreement", state="advice", seen=found[0], next=say)
    return Check(name="agreement", state="ok", seen="no answer contradicts another")


def check_diversity(spread: float | None) -> Check:
    """Whether what is shown is too much alike.

    Args:
        spread: mean distance between the items of the last questions over that of random items; 1 for as varied as
            the generator itself, 0 for all the same; None where there are too few.
    """
    if spread is None:
        return Check(name="diversity", state="ok", seen="too few answers to say")
    seen = f"the last questions are {spread:.0%} as varied as the generator itself"
    if spread < _MUCH_ALIKE:
        return Check(
            name="diversity", state="advice", seen=seen,
            next='say "neither" (three times in a row looks elsewhere), raise --surprise, or start a new --context',
        )  # fmt: skip
    return Check(name="diversity", state="ok", seen=seen)
