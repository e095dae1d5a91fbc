"""What the C library does with freed blocks, in processes of their own."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
from distilbatch.engine import memory

if sys.argv[1] == "reuse":
    memory.reuse_large_blocks()

def work():
    for _ in range(50):
        blocks = [b"x" * (20 << 20) for _ in range(4)]  # of 5,120 pages; a forward has as many at a time
        blocks.clear()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

thread = threading.Thread(target=work)
before = faults()
thread.start()
thread.join()
print(faults() - before)
memory.release_free_memory()
print(int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize())
"""

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")


def run(how: str) -> tuple[int, int]:
    command = [sys.executable, "-c", PROGRAM, how]
    faults, resident = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    return int(faults), int(resident)


def test_large_blocks_are_used_again_across_steps_and_given_back_in_the_end():
    fresh_faults, _ = run("plain")
    faults, resident = run("reuse")
    assert faults < fresh_faults / 4
    assert resident < 150 << 20  # not the 512 MiB that may be kept in between
