# SPDX-License-Identifier: Apache-2.0
"""Cases through stages that overlap: while one is computed, others are read and written. What is stuck is given up.

A thread cannot be stopped from outside, so every stage of a case has a thread of its own, which is left behind when it
is stuck: it holds up nobody, and is told that nothing is to be written any more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..threads import ARITHMETIC, owned_by

__all__ = ["Clock", "Stage", "TookTooLong", "run_stages"]

Case = TypeVar("Case", bound=Hashable)

SLOW = 30.0  # seconds from which on a case that does not compute no longer keeps others waiting for its place
MOST_SLOW = 16  # threads that may be slow at a time: memory has an end
LOOK = 1.0  # seconds between looks at the clocks


class TookTooLong(Exception):
    """A case has used up its time.

    Args:
        doing: name of the stage that it was in.
    """

    def __init__(self, doing: str) -> None:
        self.doing = doing
        super().__init__(doing)


class Clock:
    """Seconds that a case has taken; it stands still between stages, and while all that is left to do waits for its
    turn to compute (`bundle.threads.Arithmetic.turn`).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spent = 0.0
        self._since: float | None = None
        self._open, self._waiting, self._computing = False, 0, 0
        self.given_up = False

    @property
    def seconds(self) -> float:
        """So far."""
        with self._lock:
            return self._spent + (time.perf_counter() - self._since if self._since is not None else 0.0)

    @property
    def computes(self) -> bool:
        """Whether a thread computes for it, so that it is slow, perhaps, but not stuck."""
        with self._lock:
            return self._computing > 0

    def start(self) -> None:
        """A stage begins."""
        self._change(open_=True)

    def stop(self) -> None:
        """A stage is over."""
        self._change(open_=False)

    def wait(self, change: int) -> None:
        """So many more threads wait for their turn."""
        self._change(waiting=change)

    def compute(self, change: int) -> None:
        """So many more threads compute."""
        self._change(computing=change)

    def _change(self, open_: bool | None = None, waiting: int = 0, computing: int = 0) -> None:
        with self._lock:
            self._open = self._open if open_ is None else open_
            self._waiting += waiting
            self._computing += computing
            runs = self._open and (self._computing > 0 or self._waiting == 0)
            now = time.perf_counter()
            if self._since is not None:
                self._spent += now - self._since
            self._since = now if runs else None


@dataclass(frozen=True)
class Stage(Generic[Case]):
    """One of the things that are done to a case.

    Attributes:
        name: for messages.
        work: (case, what the stage before it gave, clock) → what the next one gets.
        most: cases in it at a time.
    """

    name: str
    work: Callable[[Case, Any, Clock], Any]
    most: int


@dataclass
class _Running(Generic[Case]):
    case: Case
    given: Any = None
    clock: Clock = field(default_factory=Clock)
    future: Future = field(default_factory=Future)
    entered: float = 0.0  # of the clock, at the beginning of the stage


def run_stages(
    cases: Sequence[Case],
    stages: Sequence[Stage],
    finished: Callable[[Case, Any], None],
    failed: Callable[[Case, Exception], None],
    timeout: float | None = None,
) -> None:
    """Take every case through all stages.

    Args:
        cases: in the order in which they begin.
        stages: one after the other. A stage takes no more cases while the next one has enough of them waiting.
        finished: called with a case and what its last stage gave.
        failed: called with a case and its error, `TookTooLong` where it was given up.
        timeout: seconds that a case may take; None for any.
    """
    slow = min(SLOW, timeout / 4) if timeout else SLOW
    waiting: list[deque[_Running]] = [deque() for _ in stages]
    waiting[0].extend(_Running(case) for case in cases)
    inside: list[list[_Running]] = [[] for _ in stages]
    try:
        while any(waiting) or any(inside):
            _start(stages, waiting, inside, slow)
            running = [one for stage in inside for one in stage]
            wait([one.future for one in running], timeout=min(LOOK, slow), return_when=FIRST_COMPLETED)
            for number, stage in enumerate(stages):
                for one in list(inside[number]):
                    if one.future.done():
                        inside[number].remove(one)
                        _pass_on(one, number, waiting, finished, failed)
                    elif timeout is not None and one.clock.seconds > timeout:
                        inside[number].remove(one)
                        _give_up(one)
                        failed(one.case, TookTooLong(stage.name))
    finally:
        for one in (one for stage in inside for one in stage):
            _give_up(one)


def _start(stages: Sequence[Stage], waiting: list[deque], inside: list[list[_Running]], slow: float) -> None:
    """Begin what there is room for, the last stages first, so that nothing piles up before them."""
    overdue = sum(_stuck(one, slow) for stage in inside for one in stage)
    for number in reversed(range(len(stages))):
        while waiting[number]:
            quick = sum(not _stuck(one, slow) for one in inside[number])
            if overdue >= MOST_SLOW or quick >= stages[number].most:
                break
            if number + 1 < len(stages) and len(waiting[number + 1]) >= stages[number].most:
                break
            one = waiting[number].popleft()
            one.future, one.entered = Future(), one.clock.seconds
            inside[number].append(one)
            threading.Thread(target=_work, args=(stages[number], one), name=stages[number].name, daemon=True).start()


def _stuck(one: _Running, slow: float) -> bool:
    """Whether it has been in its stage for long without computing: it keeps nobody else from entering."""
    return one.clock.seconds - one.entered > slow and not one.clock.computes


def _work(stage: Stage, one: _Running) -> None:
    future = one.future
    one.clock.start()
    try:
        with owned_by(one.clock):
            result = stage.work(one.case, one.given, one.clock)
    except BaseException as error:
        one.clock.stop()
        future.set_exception(error)
    else:
        one.clock.stop()
        future.set_result(result)


def _pass_on(one: _Running, number: int, waiting: list[deque], finished: Callable, failed: Callable) -> None:
    """What has left a stage goes to the next one, or out."""
    error = one.future.exception()
    one.given = None if error else one.future.result()
    if error is not None and not isinstance(error, Exception):
        raise error
    if error is not None:
        failed(one.case, error)
    elif number + 1 < len(waiting):
        waiting[number + 1].append(one)
    else:
        finished(one.case, one.given)


def _give_up(one: _Running) -> None:
    """Nothing of it is wanted any more, and others may compute in its place."""
    one.clock.given_up = True
    ARITHMETIC.give_up(one.clock)
