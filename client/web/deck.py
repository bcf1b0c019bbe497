"""The deck: what is asked now, what comes next and what was said, for every window that is open.

A `Session` knows one thread. The deck holds the one lock around it and a worker that prepares questions while the
person looks: it lets the model learn, chooses items, draws and encodes them. An answer is written to the journal before
anything is shown; the next question is then ready. It was chosen before that answer, so each answer changes the
question after the next. One spare question is kept for people who answer faster than pictures can be drawn; a fresh one
always goes first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from client.curator import SURPRISE
from client.explanation import Explanation
from client.items import Item
from client.ratings import Glance
from client.session import Session
from client.web.endless import Endless
from client.web.modes import MODES, Mode, asked_as, mode_named, rating
from client.web.pictures import SIZES, Pictures, tag
from client.web.question import Answered, Question
from common.errors import ItemError, PlglError
from common.population_policy import PopulationPolicy

AHEAD = 2  # questions kept ready
STALE = 8  # answers after which a spare question is replaced
REMEMBERED = 200  # questions that can be taken back with their pictures
NEIGHBOURS = 4
WALL = 12
MORE, LONGEST = 12, 120  # items that are added to a wall at a time, and that it keeps at most
PATIENCE = 20.0  # seconds to wait for a picture before saying so
_HEAD_START = 0.02  # seconds the answer has to leave before the model takes the processor
_TRIES = 3  # to choose something else than what is on the screen

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Wall:
    """What was made for the person.

    Attributes:
        items: best first.
        chances: that they like each, 0 to 1; None where nobody knows.
        surprise: 0 for the safest, 1 for the most varied.
        answers: ratings it was made from.
    """

    items: tuple[Item, ...]
    chances: tuple[float | None, ...]
    surprise: float
    answers: int


class Deck:
    """One session and its questions. Safe to use from several threads.

    Attributes:
        session: use it under `lock` only.
        pictures: of the session's generator.
        lock: around the session.
        noticing: whether how long somebody looks counts; off until they ask for it.
        wall: the last one that was made.
        endless: what makes more of it.
        forgotten: whether everything was deleted.
    """

    def __init__(
        self,
        session: Session,
        *,
        mode: str = "pair",
        size: int = SIZES["big"],
        population: PopulationPolicy | None = None,
    ) -> None:
        """Start asking, with pictures of at most ``size`` pixels; `close` ends the worker.

        Raises:
            PriorError: the population policy is for another generator.
        """
        self.session, self.pictures = session, Pictures(session.pack, size)
        self.lock = threading.RLock()
        self.endless = Endless(session, self.lock, population=population)
        self.noticing, self.forgotten = False, False
        self.wall: Wall | None = None
        self._changed = threading.Condition(self.lock)
        self._mode = mode_named(mode)
        self._message: str | None = None
        self._explanation: Explanation | None = None
        self._trouble: Exception | None = None
        self._stopped = False
        self._version = self._epoch = 0
        with self.lock:
            self._clear()
        self._worker = threading.Thread(target=self._work, name="plgl-deck", daemon=True)
        self._worker.start()

    def _clear(self) -> None:
        """Forget questions, those of another person or another way to ask."""
        self._epoch += 1
        self._current: Question | None = None
        self._shown_at = time.monotonic()
        self._ahead: deque[Question] = deque()
        self._done: deque[Answered] = deque(maxlen=REMEMBERED)
        self._undone: list[tuple[Answered, Question]] = []  # with the question as it is shown again
        self._explanation, self._version, self.wall = None, self._version + 1, None
        self._changed.notify_all()

    # -- what is there

    @property
    def mode(self) -> Mode:
        """How new questions are asked."""
        return self._mode

    @property
    def last(self) -> Answered | None:
        """The question answered or skipped last."""
        with self.lock:
            return self._done[-1] if self._done else None

    @property
    def ahead(self) -> list[Question]:
        """Questions that are ready, the next one first."""
        with self.lock:
            return list(self._ahead)

    @property
    def ready(self) -> bool:
        """Whether the worker has nothing more to prepare."""
        with self.lock:
            return not self._wanted()

    @property
    def behind(self) -> int:
        """How many answers the model of the question on the screen has not seen, beyond the last one."""
        with self.lock:
            return max(0, self._version - self._current.version - 1) if self._current else 0

    @property
    def explanation(self) -> Explanation | None:
        """What the session said about itself when the worker last asked; None before that."""
        return self._explanation

    @property
    def can_redo(self) -> bool:
        """Whether an answer was taken back that can be given again."""
        return bool(self._undone)

    def current(self) -> Question:
        """The question on the screen; waits for it where it has to.

        Raises:
            PlglError: it could not be made, or the generator is very slow; the next call tries again.
        """
        with self._changed:
            if self._current is None:
                self._current = self._take()
                self._shown_at = time.monotonic()
            return self._current

    def wait_ahead(self, seconds: float) -> None:
        """Wait until the worker has nothing more to prepare, or until time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._wanted(), seconds)

    def say(self, text: str) -> None:
        """Keep a message for the next page."""
        self._message = text

    def message(self) -> str | None:
        """The message that was kept; each is given once."""
        with self.lock:
            text, self._message = self._message, None
            return text

    # -- answers

    def answer(self, key: str, answer: str, seconds: float | None = None) -> bool:
        """Take an answer.

        Guarantee: a question is answered once, however often its form arrives; when this returns, the answer is kept.

        Args:
            key: of the question.
            answer: one of its mode's answers.
            seconds: the person looked, where that is known.

        Returns:
            Whether it was taken; False where the question is not on the screen any more.

        Raises:
            SettingError: the mode has no such answer.
            PlglError: the journal refused; the question stays.
        """
        with self._changed:
            question = self._asked(key, answer)
            if question is None:
                return False
            outcome = self.session.rate(rating(question.mode, question.items, answer), replace=True)
            done = Answered(question=question, answer=answer, events=[outcome.event], foretold=outcome.foretold)
            if len(question.items) == 1:  # of several pictures nobody knows which one was looked at
                self._glances(done, seconds, skipped=False)
            self._learned()
            self._behind_us(done)
            return True

    def skip(self, key: str, seconds: float | None = None) -> bool:
        """Leave a question unanswered; returns whether it was on the screen."""
        with self._changed:
            question = self._asked(key, None)
            if question is None:
                return False
            self.session.skip(question.items)
            done = Answered(question=question, answer=None)
            self._glances(done, seconds, skipped=True)
            self._behind_us(done)
            return True

    def undo(self) -> bool:
        """Take the last answer back and show its question again; returns whether there was one."""
        with self._changed:
            done = self._done.pop() if self._done else self._last_of_history()
            if done is None:
                self.say("There is nothing to take back.")
                return False
            while self.session.history and self.session.history[-1].event in done.events:
                self.session.undo()
            self._learned()
            if self._current is not None:
                self._ahead.appendleft(self._current)
            shown = done.question.again()
            self._undone.append((done, shown))
            self._show(shown)
            return True

    def redo(self) -> bool:
        """Give the answer again that was taken back last; returns whether there was one."""
        with self._changed:
            if not self._undone:
                self.say("There is nothing to give again.")
                return False
            done, shown = self._undone.pop()
            for _ in done.events:
                self.session.redo()
            self._learned()
            self._done.append(done)
            following = self._undone[-1][1] if self._undone else None
            settled = {question.key for question in (shown, following) if question is not None}
            waiting = [question for question in (self._current, *self._ahead) if question is not None]
            self._ahead = deque(question for question in waiting if question.key not in settled)
            self._show(following)
            return True

    def remove(self, event: int) -> None:
        """Delete one rating for good.

        Raises:
            ItemError: there is no such rating.
        """
        with self._changed:
            self.session.remove(event)
            self._undone.clear()
            for done in self._done:
                done.events = [kept for kept in done.events if kept != event]
            self._learned()
            self._changed.notify_all()

    # -- other wishes

    def more_like(self, item: int) -> None:
        """Ask about neighbours of an item next.

        Raises:
            ItemError: it was never shown.
        """
        with self._changed:
            items = self.session.more_like(item, NEIGHBOURS)
            self.pictures.prepare(items)
            if self._current is not None:
                self._ahead.appendleft(self._current)
            self._show(self._question(MODES["best"], items, origin=item))

    def favourite(self, item: int, on: bool) -> None:
        """Add an item to the favourites or take it away.

        Raises:
            ItemError: it was never shown.
        """
        with self.lock:
            self.session.favourite(item, on)

    def is_favourite(self, item: int) -> bool:
        """Whether an item is one."""
        with self.lock:
            return item in {found.id for found in self.session.favourites}

    def choose_mode(self, name: str) -> None:
        """Ask in another way from now on.

        Raises:
            SettingError: there is no such way.
        """
        with self._changed:
            mode = mode_named(name)
            if mode != self._mode:
                self._mode = mode
                self._epoch += 1
                self._ahead.clear()
                self._show(None)

    def use(self, profile: str, context: str) -> None:
        """Change who is rating, or the situation.

        Raises:
            PlglError: that person cannot rate here; everything stays as it was.
        """
        with self._changed:
            self.session.use(profile=profile, context=context)
            self._clear()

    @property
    def known(self) -> bool:
        """Whether there is anything to make a wall from: answers, or what the crowd likes."""
        with self.lock:
            crowd = self.session.prior is not None or self.endless.population is not None
            return crowd or bool(self.session.history)

    def make_wall(self, surprise: float) -> Wall:
        """Make a wall of what the person will love; of what everybody's policy draws before the first answer.

        Raises:
            SettingError: surprise is outside 0 to 1.
        """
        with self.lock:
            newcomer = not self.session.history and self.endless.population is not None
            items = self.endless.items(WALL, surprise) if newcomer else self.session.recommend(WALL, surprise=surprise)
            self.wall = Wall(
                items=tuple(items),
                chances=self._chances(items),
                surprise=surprise,
                answers=len(self.session.history),
            )
            return self.wall

    def _chances(self, items: Sequence[Item]) -> tuple[float | None, ...]:
        """How likely the person is to like items; nobody knows of somebody unknown without a prior."""
        if not self.session.history and self.session.prior is None:
            return (None,) * len(items)
        return tuple(self.session.predict(items)[0].sigmoid().tolist())

    def more_wall(self) -> bool:
        """Add items of the endless stream to the wall, at its level.

        Returns:
            Whether there were any; where not, the stream is being learned, or cannot be: see `endless`.

        Raises:
            SettingError: see `make_wall`, where there is none yet.
        """
        with self.lock:
            made = self.wall or self.make_wall(SURPRISE)
            items = self.endless.items(MORE, made.surprise)
            if not items:
                return False
            kept = max(0, LONGEST - len(items))
            chances = (*made.chances[-kept:], *self._chances(items))
            self.wall = replace(made, items=(*made.items[-kept:], *items), chances=chances)
            return True

    def forget(self) -> None:
        """Destroy everything that is kept, of everybody."""
        with self._changed:
            self.session.forget()
            self._clear()
            self._message, self.noticing, self.forgotten = None, False, True
            self.pictures.forget()

    def find(self, item: int, name: str) -> Item:
        """An item, if the name of its picture is right.

        Raises:
            ItemError: it was never shown to this person, or the name is another's.
        """
        with self.lock:
            found = self.session.item(item)
        if tag(found.latent) != name:
            raise ItemError(f"item {item} of this person looks different; load the page again")
        return found

    def close(self) -> None:
        """Let everybody go who waits, and wait for the worker; twice does no harm."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self.endless.close()
        self._worker.join(PATIENCE)

    # -- inside

    def _asked(self, key: str, answer: str | None) -> Question | None:
        question = self._current
        if question is None or question.key != key:
            self._explain_stale(key, answer)
            return None
        return question

    def _explain_stale(self, key: str, answer: str | None) -> None:
        for done in self._done:
            if done.question.key == key:
                if done.answer != answer:
                    self.say("That question was answered already, perhaps in another window. Nothing was changed.")
                return
        self.say("That question is not on the table any more. Nothing was changed; here is the current one.")

    def _behind_us(self, done: Answered) -> None:
        self._undone.clear()
        self._done.append(done)
        self._show(None)

    def _glances(self, done: Answered, seconds: float | None, *, skipped: bool) -> None:
        if not self.noticing or seconds is None:
            return
        # nobody can have looked longer than the question was there
        looked = min(max(seconds, 0.0), time.monotonic() - self._shown_at, Glance.CAP)
        for item in done.question.items:
            done.events.append(self.session.rate(Glance(item, looked, skipped)).event)
            self._learned()

    def _last_of_history(self) -> Answered | None:
        """The last answer of an earlier start, with the glances that came after it."""
        events: list[int] = []
        for rated in reversed(self.session.history):
            events.insert(0, rated.event)
            asked = asked_as(rated.rating)
            if asked is not None:
                mode, answer = asked
                items = [self.session.item(id) for id in rated.rating.row[2]]
                self.pictures.prepare(items)
                question = self._question(mode, items)
                return Answered(question=question, answer=answer, events=events, foretold=rated.foretold)
        return None

    def _show(self, question: Question | None) -> None:
        """Put a question on the screen, None for the next one; there is room for another."""
        self._current = question
        if question is None and self._ahead:
            self._current = self._ahead.popleft()
        self._shown_at = time.monotonic()
        self._changed.notify_all()

    def _learned(self) -> None:
        self._version += 1

    def _take(self) -> Question:
        ready = self._changed.wait_for(lambda: self._ahead or self._trouble or self._stopped, PATIENCE)
        if self._ahead:
            question = self._ahead.popleft()
            self._changed.notify_all()
            return question
        trouble, self._trouble = self._trouble, None
        self._changed.notify_all()
        if isinstance(trouble, PlglError):
            raise trouble
        if trouble is not None:
            raise PlglError(f"the next pictures could not be made ({type(trouble).__name__}); load the page again")
        why = "the program is stopping" if ready else f"no picture after {PATIENCE:.0f} seconds"
        raise PlglError(f"{why}; load the page again")

    def _question(self, mode: Mode, items: Sequence[Item], origin: int | None = None) -> Question:
        return Question(
            mode=mode,
            items=tuple(item.id for item in items),
            pictures=tuple(f"{item.id}-{tag(item.latent)}" for item in items),
            version=self._version,
            notice=self.session.notice(),
            origin=origin,
        )

    # -- the worker

    def _wanted(self) -> bool:
        """Whether a question should be prepared."""
        if self._trouble is not None:
            return False
        if len(self._ahead) < AHEAD:
            return True
        return self._ahead[0].version < self._version or self._ahead[-1].version < self._version - STALE

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._wanted())
                if self._stopped:
                    return
                hurry = self._current is None and not self._ahead
            if not hurry:
                time.sleep(_HEAD_START)
            try:
                self._prepare()
            except Exception as error:  # whatever it is, the person is told, and the next request tries again
                if not isinstance(error, PlglError):
                    log.exception("a question could not be prepared")
                with self._changed:
                    self._trouble = error
                    self._changed.notify_all()

    def _prepare(self) -> None:
        """Choose and draw one question, and put it first."""
        with self.lock:
            epoch = self._epoch
            items = self._choose()
            question = self._question(self._mode, items)
        self.pictures.prepare(items)
        with self._changed:
            if epoch != self._epoch:
                return
            self._ahead.appendleft(question)
            while len(self._ahead) > AHEAD:
                self._ahead.pop()
            self._explanation = self.session.explain()
            self._changed.notify_all()

    def _choose(self) -> list[Item]:
        """Items of the next question, not those that are waiting already."""
        waiting = [*self._ahead, *([self._current] if self._current else [])]
        known = {frozenset(name.partition("-")[2] for name in question.pictures) for question in waiting}
        items: list[Item] = []
        for _ in range(_TRIES):
            items = self.session.propose(self._mode.items)
            if frozenset(tag(item.latent) for item in items) not in known:
                break
        return items
