# SPDX-License-Identifier: Apache-2.0
"""Arithmetic on a bounded number of threads: never more, each alone, and none lost to what is stuck."""

import threading
import time

import pytest
import torch

from bundle.errors import FlipmapError
from bundle.methods.structured_flips import StructuredFlips
from bundle.threads import Arithmetic, owned_by


def most_at_a_time(arithmetic, tasks):
    """The most threads that were inside at a time, and those that PyTorch would have taken for each."""
    inside, most, alone, lock = 0, 0, set(), threading.Lock()

    def work(_):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            alone.add(torch.get_num_threads())
        time.sleep(0.02)
        with lock:
            inside -= 1

    arithmetic.map(work, range(tasks))
    return most, alone


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_more_threads_than_allowed(threads):
    before = torch.get_num_threads()
    assert most_at_a_time(Arithmetic(threads), 12) == (threads, {1})
    assert torch.get_num_threads() == before, "what the program had set is as it was"


def test_two_volumes_share_the_threads():
    arithmetic, found = Arithmetic(2), []
    inside, most, lock = 0, 0, threading.Lock()

    def work(_):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)
        with lock:
            inside -= 1

    volumes = [threading.Thread(target=lambda: found.append(arithmetic.map(work, range(8)))) for _ in range(3)]
    for one in volumes:
        one.start()
    for one in volumes:
        one.join()
    assert len(found) == 3
    assert most == 2


def test_results_keep_their_order_and_errors_come_out():
    arithmetic = Arithmetic(3)
    assert arithmetic.map(lambda n: n * n, range(9)) == [n * n for n in range(9)]
    with pytest.raises(ZeroDivisionError):
        arithmetic.map(lambda n: 1 / n, range(3))
    assert arithmetic.map(str, [1, 2]) == ["1", "2"], "and the threads are free again"


def test_what_is_given_up_gives_its_threads_back():
    arithmetic, owner, go_on = Arithmetic(1), object(), threading.Event()

    def stuck():
        with owned_by(owner), arithmetic.turn():
            go_on.wait(10)

    thread = threading.Thread(target=stuck, daemon=True)
    thread.start()
    time.sleep(0.05)
    arithmetic.give_up(owner)
    started = time.perf_counter()
    with arithmetic.turn():
        assert time.perf_counter() - started < 1
    go_on.set()
    thread.join(1)
    assert most_at_a_time(arithmetic, 4)[0] == 1, "its late end sets nobody else free"


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two", True])
def test_what_is_no_number_of_threads(threads):
    with pytest.raises(FlipmapError, match="no number of threads"):
        Arithmetic().limit(threads)


def test_the_map_is_the_same_on_any_number_of_threads(network, monkeypatch):
    volume = torch.rand(1, 1, 40, 48, 9, generator=torch.Generator().manual_seed(0))
    maps = []
    for threads in (1, 3):
        monkeypatch.setattr("bundle.methods.base.ARITHMETIC", Arithmetic(threads))
        maps.append(StructuredFlips("both", mirrored=True, slices_per_pass=2, precision="float32")(volume, network))
    assert torch.equal(*maps)
