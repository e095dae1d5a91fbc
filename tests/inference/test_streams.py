"""Streams: threads that compute at the same time, and leave the cores of everybody else alone."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from distilbatch.inference.streams import Streams, layout_of, suitable_streams


@pytest.mark.parametrize(
    ("cores", "expected"),
    [(1, (1, 1)), (2, (2, 1)), (8, (8, 1)), (9, (2, 4)), (11, (2, 5)), (12, (3, 4)), (16, (4, 4)), (96, (24, 4))],
)
def test_no_core_is_in_two_streams_and_few_are_left_over(cores, expected):
    count, threads = layout_of(cores)
    assert (count, threads) == expected
    assert cores - 4 < count * threads <= cores


@pytest.mark.parametrize(("count", "batches", "expected"), [(0, 7, 0), (1, 7, 0), (2, 7, 6), (3, 7, 6), (4, 3, 0)])
def test_batches_that_would_leave_a_stream_idle_are_for_all_cores(count, batches, expected):
    assert Streams(count).whole_rounds(batches) == expected


def test_streams_compute_at_the_same_time():
    together = threading.Barrier(3, timeout=20)
    streams = Streams(3)
    ends = [streams.submit(together.wait) for _ in range(3)]
    assert sorted(end.result() for end in ends) == [0, 1, 2]


def test_a_device_and_a_single_core_have_no_streams():
    assert torch.get_num_threads() == 1
    assert suitable_streams(torch.device("cpu")).count == 0
    assert suitable_streams(torch.device("cuda", 0)).count == 0


def test_streams_are_made_once_and_take_no_cores_from_others():
    # In a process of its own: what torch gives to a thread that it never saw hangs on every call before.
    program = """
import threading, torch
from distilbatch.inference.streams import suitable_streams

torch.set_num_threads(3)
cpu = torch.device("cpu")
streams = suitable_streams(cpu)
counts = {streams.submit(torch.get_num_threads).result() for _ in range(9)}
elsewhere = []
other = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
other.start()
other.join()
print(streams.count, counts, torch.get_num_threads(), elsewhere, suitable_streams(cpu) is streams)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "3 {1} 3 [3] True\n"
