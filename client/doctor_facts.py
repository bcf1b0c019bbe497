"""What ``plgl doctor`` looks at on this machine. Verdicts are made in `client.doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import statistics
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from client.doctor import (
    PICTURE_SIZE,
    Check,
    Speed,
    check_browser,
    check_contradictions,
    check_devices,
    check_disk,
    check_diversity,
    check_keyring,
    check_learning,
    check_locked,
    check_loopback,
    check_memory,
    check_pack,
    check_providers,
    check_speed,
    check_store_file,
    check_store_health,
    check_telemetry,
    check_terminal,
    check_threads,
    check_versions,
)
from client.generators.pack import GeneratorPack, known_generators
from client.half_blocks import colour_depth
from client.journal import Event, MemoryJournal
from client.ratings import ANSWERS, Choice, Kind
from client.session import Session
from client.store import Store
from common.errors import PackError, PlglError, StoreError, StoreInUse
from common.version import version

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "cryptography", "flwr", "fastapi", "keyring")
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_REPEATS = 3
_LAST = 40  # items that diversity is measured on
_FEWEST = 20


@dataclass(frozen=True, kw_only=True)
class Look:
    """What to look at, and how far.

    Attributes:
        generator: name or folder of the pack that speed is measured with.
        store: path of the store.
        passphrase: that opens it.
        unlock: whether to open it at all.
        profile: whose answers are looked at in an open store.
        port: for the page; 0 for any.
        measure: whether to take the seconds that measuring speed needs.
        terminal: whether the output is one.
    """

    generator: str = "art"
    store: Path
    passphrase: str | None = None
    unlock: bool = False
    profile: str = "me"
    port: int = 0
    measure: bool = True
    terminal: bool = False


def examine(look: Look, environment: Mapping[str, str]) -> Iterator[Check]:
    """All checks, one after another, the slow ones last. What one of them raises becomes its own verdict."""
    yield look_at_packages()
    opened, verdicts = look_at_packs(look.generator)
    active = opened.generator.provider if opened is not None else None
    yield look_at_providers(active)
    yield look_at_devices()
    threads, cores, load = torch.get_num_threads(), cores_for_us(), load_average()
    yield check_threads(threads, cores, load)
    yield check_memory(free_memory(), free_gpu_memory())
    yield from verdicts
    yield look_at_disk(look.store)
    yield look_at_keyring()
    yield look_at_loopback(look.port)
    yield check_browser(browser_name())
    yield check_terminal(colour_depth(environment, look.terminal))
    yield check_telemetry(environment)
    yield from look_at_store(look)
    if opened is not None and look.measure:
        yield check_speed(measure_speed(opened), opened.generator.provider, threads, cores, load)


def look_at_packages() -> Check:
    """Versions of the packages that matter, against what the installed plgl asks for."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(line) for line in importlib.metadata.requires("plgl") or []]
    except importlib.metadata.PackageNotFoundError:  # used from a checkout
        asked = []
    wanted = {each.name.lower(): str(each.specifier) for each in asked if each.marker is None}
    found = {"plgl": version(), **{name: installed(name) for name in PACKAGES}}
    return check_versions(found, wanted)


def installed(name: str) -> str | None:
    """Version of an installed distribution; None where it is missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def look_at_packs(generator: str) -> tuple[GeneratorPack | None, list[Check]]:
    """Open every pack that comes with the program and the wanted one, and draw one picture; the wanted one, open."""
    wanted, verdicts = None, []
    for name in dict.fromkeys([*known_generators(), generator]):
        try:
            pack = GeneratorPack.open(name)
            pack.generate(pack.latents.sample(1, torch.Generator().manual_seed(0)), 64 if _any_size(pack) else None)
        except PackError as error:
            verdicts.append(check_pack(name, str(error), ""))
            continue
        about = f"{pack.version}, latent {pack.latents.dimension}, {pack.components} components, opens and draws"
        verdicts.append(check_pack(pack.name if Path(name).is_dir() else name, None, about))
        wanted = pack if name == generator else wanted
    return wanted, verdicts


def look_at_providers(active: str | None) -> Check:
    """What ONNX Runtime can use and what it uses."""
    import onnxruntime  # type: ignore[import-untyped]

    runtimes = [name for name in _RUNTIMES if installed(name) is not None]
    return check_providers(onnxruntime.get_available_providers(), active, torch.cuda.is_available(), runtimes)


def look_at_devices() -> Check:
    """What torch can compute on beside the processor."""
    devices = []
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(i).total_memory / 2**30
            devices.append(f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB")
    if torch.backends.mps.is_available():
        devices.append("Apple GPU (used by torch generators only)")
    return check_devices(devices, torch.version.cuda)


def cores_for_us() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float | None:
    """Processes that wanted a core during the last minute; None where the system does not count them."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def free_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes of memory that programs can still take; None where the system does not say."""
    try:
        rows = dict(line.split(":", 1) for line in meminfo.read_text("ascii").splitlines() if ":" in line)
        return 1024 * int(rows["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None


def free_gpu_memory() -> int | None:
    """Bytes free on the first GPU; None without one."""
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info()[0])


def look_at_disk(store: Path) -> Check:
    """Free space where the store lies, or will."""
    folder = next(each for each in (store.parent, *store.parent.parents) if each.exists())
    return check_disk(shutil.disk_usage(folder).free, str(store.parent))


def look_at_keyring() -> Check:
    """The keyring of the system; it is only named, not opened, so that nobody is asked to unlock it."""
    import keyring
    import keyring.backends.fail

    backend = keyring.get_keyring()
    parts = (backend, *getattr(backend, "backends", ()))
    plain = any("plaintext" in type(part).__name__.lower() for part in parts)
    usable = not isinstance(backend, keyring.backends.fail.Keyring) and backend.priority > 0
    return check_keyring(str(backend.name), usable, plain)


def look_at_loopback(port: int) -> Check:
    """Listen for a moment where the page would be."""
    try:
        with socket.create_server(("127.0.0.1", port)):
            return check_loopback(None, port)
    except OSError as error:
        return check_loopback(error.strerror or str(error), port)


def browser_name() -> str | None:
    """The browser that would be opened; None for none."""
    try:
        return str(getattr(webbrowser.get(), "name", "the default browser"))
    except webbrowser.Error:
        return None


def look_at_store(look: Look) -> Iterator[Check]:
    """The store, locked or not, and in an open one whether learning works."""
    if not look.unlock or not look.store.exists():
        yield look_at_locked_store(look.store)
        yield check_locked()
        return
    try:
        with Store.open(look.store, passphrase=look.passphrase, create=False) as store:
            health = store.health()
            yield check_store_health(health)
            if health["integrity"]:
                yield from look_at_answers(look, store.events())
    except StoreInUse as error:
        yield check_store_file(str(look.store), None, str(error), True)
    except StoreError as error:
        yield check_store_file(str(look.store), None, str(error), False)


def look_at_locked_store(path: Path) -> Check:
    """What can be known of a store without opening it."""
    about = path.stat() if path.exists() else None  # first: opening it may mend who can read it
    try:
        locked = Store.locked_by(path)
    except StoreError as error:
        return check_store_file(str(path), None, str(error), isinstance(error, StoreInUse))
    if locked is None or about is None:
        return check_store_file(str(path), None, None, False)
    shared = os.name == "posix" and bool(about.st_mode & 0o077)
    return check_store_file(str(path), locked, None, False, about.st_size, shared)


def look_at_answers(look: Look, events: list[Event]) -> Iterator[Check]:
    """Whether learning works, on a copy of the events in memory: nothing is written to the store."""
    copy = MemoryJournal()
    copy.append(events)
    try:
        session = Session.open(look.generator, store=copy, profile=look.profile, seed=0)
    except PlglError as error:  # answers about another pack
        yield Check(name="learning", state="advice", seen=str(error), next="give that pack with --generator")
        return
    known = session.explain()
    yield check_learning(known)
    yield check_contradictions(known)
    yield check_diversity(spread(session))


def spread(session: Session) -> float | None:
    """How varied the items of the last questions are, over random items; None where there are too few.

    Both are mean distances between features, each scaled by how much it varies among what people see.
    """
    shown = [item for rated in session.history for item in rated.rating.row[2]][-_LAST:]
    if len(shown) < _FEWEST:
        return None
    everything = torch.cat([session.catalogue.points.features[torch.tensor(shown)], _random_features(session)])
    scaled = everything[:, :-1].double() * session.lens.scale
    mine, random = scaled[: len(shown)], scaled[len(shown) :]
    return float(torch.pdist(mine).mean() / torch.pdist(random).mean())


def _random_features(session: Session) -> torch.Tensor:
    with torch.no_grad():
        return session.lens(session.pack.latents.sample(200, torch.Generator().manual_seed(0))).features


def measure_speed(pack: GeneratorPack) -> Speed:
    """Measure what happens between an answer and the next pair, with invented answers, in memory."""
    size = PICTURE_SIZE if _any_size(pack) else None
    latents = pack.latents.sample(2, torch.Generator().manual_seed(0))
    picture = _median_ms(lambda: pack.generate(latents, size)) / 2
    update_20, _ = _update_and_proposal(pack, 20)
    update_100, proposal = _update_and_proposal(pack, 100)
    return Speed(picture=picture, update_20=update_20, update_100=update_100, proposal=proposal)


def _update_and_proposal(pack: GeneratorPack, answers: int) -> tuple[float, float]:
    session = Session.open(pack.folder, store=_invented(pack, answers), seed=0)
    pairs = iter([session.propose(2) for _ in range(_REPEATS + 1)])

    def update() -> None:
        a, b = next(pairs)
        session.rate(Choice(a, b, "a"))

    return _median_ms(update), _median_ms(lambda: session.propose(2))


def _invented(pack: GeneratorPack, answers: int) -> MemoryJournal:
    """A journal of choices between random items by somebody with a linear taste in latents."""
    generator = torch.Generator().manual_seed(1)
    latents = pack.latents.sample(2 * answers, generator)
    scores = latents @ torch.randn(pack.latents.dimension, generator=generator)
    journal, about = MemoryJournal(), {"pack": pack.hash, "profile": "me"}
    journal.append([Event("item", {"item": i, **about}, latent) for i, latent in enumerate(latents)])
    for i in range(answers):
        value = ANSWERS.index("a" if scores[2 * i] > scores[2 * i + 1] else "b")
        body = {"kind": int(Kind.CHOICE), "value": value, "items": [2 * i, 2 * i + 1], "profile": "me"}
        journal.append([Event("rating", body)])
    return journal


def _median_ms(work: Callable[[], object]) -> float:
    """Median of several runs, milliseconds; the first run is not counted."""
    work()
    taken = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def _any_size(pack: GeneratorPack) -> bool:
    return pack.manifest.resizable
