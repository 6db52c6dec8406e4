# SPDX-License-Identifier: Apache-2.0
"""Arithmetic on a bounded number of threads, each of which computes alone.

PyTorch by itself gives every single operation to all cores, whose threads meet at a barrier after each and spin while
they wait: on a machine with other work the slowest one holds up all. Slices, and scans, are independent, so here each
of them is computed by one thread from beginning to end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Protocol, TypeVar, runtime_checkable

import torch

from .errors import FlipmapError

__all__ = ["ARITHMETIC", "Arithmetic", "GivenUp", "limit_threads", "owned_by"]

Item = TypeVar("Item")
Result = TypeVar("Result")

#: On whose account a thread computes: what is given up gives its threads back.
_OWNER: ContextVar[object] = ContextVar("owner", default=None)


@contextmanager
def owned_by(owner: object) -> Iterator[None]:
    """What is computed in the block, by this thread or for it, is on the account of ``owner``."""
    token = _OWNER.set(owner)
    try:
        yield
    finally:
        _OWNER.reset(token)


class GivenUp(Exception):
    """Raised in a thread whose work has been given up: it computes no more."""


@runtime_checkable
class Waiting(Protocol):
    """An owner that wants to know how many of its threads wait for their turn, and how many compute."""

    given_up: bool  # whether nothing is to be computed for it any more

    def wait(self, change: int) -> None:
        """So many more threads wait."""

    def compute(self, change: int) -> None:
        """So many more threads compute."""


class Arithmetic:
    """At most so many threads compute at a time; others wait for their turn.

    Args:
        threads: how many; None for as many as PyTorch would take (OMP_NUM_THREADS, or the cores).
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._turn = threading.Condition()
        self._computing: dict[object, object] = {}  # ticket → owner
        self._mine = threading.local()

    @property
    def threads(self) -> int:
        """How many threads compute at most."""
        return self._threads or _torch_threads()

    def limit(self, threads: int | None) -> None:
        """Set how many threads compute at most; None for as many as PyTorch would take.

        Raises:
            FlipmapError: when it is no number of threads.
        """
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise FlipmapError(f"threads {threads!r}", "no number of threads", "Give 1 or more")
        with self._turn:
            self._threads = threads
            self._turn.notify_all()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Compute in the block, alone: PyTorch takes no further thread for it. Waits until a thread is free.

        Raises:
            GivenUp: when the owner has been given up meanwhile.
        """
        if getattr(self._mine, "depth", 0) > 0:
            yield
            return
        ticket, owner = object(), _OWNER.get()
        clock = owner if isinstance(owner, Waiting) else None
        with self._turn, _count(clock.wait if clock else None):
            self._turn.wait_for(lambda: len(self._computing) < self.threads)
            if clock and clock.given_up:
                raise GivenUp
            self._computing[ticket] = owner
        # A thread that begins while another computes alone would take its one thread for what the program has set.
        first = threading.current_thread() is not threading.main_thread()
        before, self._mine.depth = _torch_threads() if first else torch.get_num_threads(), 1
        torch.set_num_threads(1)  # of this thread, and of those that begin meanwhile
        try:
            with _count(clock.compute if clock else None):
                yield
        finally:
            torch.set_num_threads(before)
            self._mine.depth = 0
            with self._turn:
                self._computing.pop(ticket, None)
                self._turn.notify_all()

    def give_up(self, owner: object) -> None:
        """Let others compute in the place of threads that are stuck on the account of ``owner``."""
        with self._turn:
            for ticket in [ticket for ticket, theirs in self._computing.items() if theirs is owner]:
                del self._computing[ticket]
            self._turn.notify_all()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """``function`` of every item, in order, over as many threads as there are."""

        def alone(item: Item) -> Result:
            with self.turn():
                return function(item)

        workers = min(self.threads, len(items))
        if workers < 2 or getattr(self._mine, "depth", 0) > 0:
            return [alone(item) for item in items]
        with ThreadPoolExecutor(workers, thread_name_prefix="slices") as pool:
            return [done.result() for done in [pool.submit(copy_context().run, alone, item) for item in items]]


@contextmanager
def _count(count: Callable[[int], None] | None) -> Iterator[None]:
    """One more in the block, one less after it."""
    if count:
        count(1)
    try:
        yield
    finally:
        if count:
            count(-1)


_DEFAULT_THREADS: list[int] = []


def _torch_threads() -> int:
    """As many as PyTorch took when it was asked first: later on a thread that computes alone would answer 1."""
    if not _DEFAULT_THREADS:
        _DEFAULT_THREADS.append(torch.get_num_threads())
    return _DEFAULT_THREADS[0]


_torch_threads()
#: Of this process: every scan and every method share it.
ARITHMETIC = Arithmetic()


def limit_threads(threads: int | None) -> None:
    """Bound the threads of arithmetic of this process; None for as many as PyTorch would take."""
    ARITHMETIC.limit(threads)
