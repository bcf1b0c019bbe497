"""A toy to play with: six shapes of A, four to choose from, the same noises before and after, six shapes of B."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from client.flows.course import Course
from client.flows.drawing import draw
from client.flows.folder import ToyFolder
from client.flows.judge import judge
from client.flows.script import preferred
from client.flows.shapes import KINDS
from client.flows.views import View
from client.terminal_keys import REDRAW, Keys
from common.errors import SettingError

HELP = "1 to {n} picks a shape, space shows others, backspace takes a pick back, q ends"
_NONE = ("space", "none", "0", "n", "s", "skip")
_UNDO = ("backspace", "undo", "u", "ctrl+z")
_QUIT = ("q", "quit", "escape")
_PATIENCE = 20  # sets of proposals an artificial person looks at


@dataclass
class Chooser:
    """An artificial person who likes one kind of shape.

    Attributes:
        kind: what they like.
    """

    kind: int
    _seen: int = field(default=0, init=False)

    def choose(self, proposals: Tensor) -> str:
        """The key they press: the best shape of the kind; space where there is none, q when they have had enough."""
        self._seen += 1
        index = preferred(proposals, self.kind)
        if index is None:
            return "space" if self._seen < _PATIENCE else "q"
        self._seen = 0
        return str(index + 1)


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    """What a toy shows.

    Attributes:
        injections: picks until it ends, >= 1.
        shown: shapes of A at the start and of B at the end, and before and after each injection, >= 1.
        counted: samples behind the shares named at the end, >= 16.
    """

    injections: int = 3
    shown: int = 6
    counted: int = 192

    def __post_init__(self) -> None:
        if min(self.injections, self.shown) < 1 or self.counted < 16:
            raise SettingError(
                f"injections={self.injections} and shown={self.shown} must be >= 1, counted={self.counted} >= 16; "
                "try 3, 6 and 192"
            )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a toy ended.

    Attributes:
        injections: picks that B has learned.
        shares: of each kind by its name, and of what is no shape as ``neither``: under A and under B.
        samples: shapes behind them.
        finished: whether all picks were made.
    """

    injections: int
    shares: dict[str, tuple[float, float]]
    samples: int
    finished: bool


class Toy:
    """Plays a course with somebody.

    Guarantee: B and its picks are in the folder after each injection, so stopping at any time, Ctrl-C included, loses
    at most the one that is being taught.
    """

    def __init__(
        self,
        course: Course,
        answers: Keys | Chooser,
        view: View,
        settings: ToySettings,
        folder: ToyFolder | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        """Play.

        Args:
            course: A and B, which may have had lessons already.
            answers: a person's keys, or an artificial person.
            view: what shows shapes.
            settings: how much.
            folder: where B is kept; None for nowhere.
            report: called with the steps of an injection that are done, and of how many.
        """
        self.course, self.view, self.settings = course, view, settings
        self._answers, self._folder, self._report = answers, folder, report
        self._noise = course.noise(settings.shown, 5_000_000_000 + course.settings.seed)  # the same all along

    def play(self) -> Outcome:
        """Ask until all picks are made or the person ends it.

        Raises:
            SettingError: a script holds a word that is no answer.
        """
        course, shown = self.course, self.settings.shown
        self._show("a", [("", course.by_a(self._noise))], f"{_number(shown)} shapes of A")
        ended = False
        while course.injections < self.settings.injections and not ended:
            ended = not self._round()
        self._show("b", [("", course.by_b(self._noise))], f"{_number(shown)} shapes of B, from the same noises as A's")
        return self._outcome(finished=not ended)

    def _round(self) -> bool:
        """One question; False when the person ends it."""
        count = self.course.injections + 1
        proposals = self.course.propose()
        title = f"Which do you like best? Pick {count} of {self.settings.injections}"
        self._show(f"pick-{count}", [("", proposals)], title)
        while (key := self._key(proposals)) is not None and key not in _QUIT:
            if key in _NONE:
                return True
            if key in _UNDO:
                self._undo()
                return True
            if key.isdigit() and 1 <= int(key) <= len(proposals):
                self._inject(proposals, int(key) - 1)
                return True
            if key == REDRAW:
                self._show(f"pick-{count}", [("", proposals)], title)
            elif getattr(self._answers, "scripted", False):
                raise SettingError(f"answer {key!r} is unknown; write 1 to {len(proposals)}, none, undo or quit")
            else:
                self.view.say(HELP.format(n=len(proposals)))
        return False

    def _key(self, proposals: Tensor) -> str | None:
        if isinstance(self._answers, Chooser):
            return self._answers.choose(proposals)
        if not self._answers.scripted:
            self.view.say(HELP.format(n=len(proposals)))
        return self._answers.read()

    def _inject(self, proposals: Tensor, index: int) -> None:
        course, steps = self.course, self.course.settings.teach.steps
        self.view.say(f"shape {index + 1} it is; B learns from it ...")
        course.inject(proposals[index], lambda done: self._tell(done, steps))
        self._keep()
        rows = [("A", course.by_a(self._noise)), (f"B{course.injections}", course.by_b(self._noise))]
        picks = "1 pick" if course.injections == 1 else f"{course.injections} picks"
        self._show(f"taught-{course.injections}", rows, f"The same noises under A, and under B after {picks}")

    def _undo(self) -> None:
        if not self.course.undo(lambda done: self._tell(done, self.course.settings.teach.steps)):
            self.view.say("there is no pick to take back")
            return
        self._keep()
        self.view.say("taken back; B is as it was before that pick")

    def _keep(self) -> None:
        if self._folder is not None:
            self._folder.save(self.course)

    def _tell(self, done: int, total: int) -> None:
        if self._report is not None:
            self._report(done, total)

    def _show(self, name: str, rows: list[tuple[str, Tensor]], title: str) -> None:
        self.view.show(name, [(label, draw(clouds, judge(clouds))) for label, clouds in rows], title)

    def _outcome(self, *, finished: bool) -> Outcome:
        course = self.course
        noise = course.noise(self.settings.counted, 8_000_000_000 + course.settings.seed)
        a = judge(course.by_a(noise))
        b = a if not course.injections else judge(course.by_b(noise))
        shares = {name: (a.share(kind), b.share(kind)) for kind, name in enumerate(KINDS)}
        shares["neither"] = (a.invalid, b.invalid)
        return Outcome(injections=course.injections, shares=shares, samples=len(noise), finished=finished)


def _number(n: int) -> str:
    return {4: "Four", 6: "Six"}.get(n, str(n))
