"""What the C library does with freed blocks, and oneDNN with kernels, in processes of their own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from distilbatch.inference.backends import operators

PROGRAM = """
import resource, sys, threading
from distilbatch.engine import memory

if sys.argv[1] == "reuse":
    memory.steady_memory()

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

KERNELS = """
import sys
import psutil, torch
from torch import nn
from distilbatch.engine import memory

if sys.argv[1] == "reuse":
    memory.steady_memory()
from distilbatch.inference.backends.linears import PackedLinear
from distilbatch.inference.backends.operators import NOTHING

torch.set_num_threads(1)
layers = [PackedLinear([nn.Linear(64, width)], NOTHING) for width in (64, 96, 128)]
with torch.inference_mode():
    for layer in layers:
        layer(torch.zeros(2, 64))
    before = psutil.Process().memory_info().rss
    for rows in range(3, 400):
        x = torch.zeros(rows, 64)
        for layer in layers:
            layer(x)
memory.release_free_memory()
print(len(layers) * 397, psutil.Process().memory_info().rss - before)
"""

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")


def run(how: str, program: str = PROGRAM) -> tuple[int, int]:
    command = [sys.executable, "-c", program, how]
    # Workers that ran in this process have set these already.
    environment = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name}
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
    faults, resident = done.stdout.split()
    return int(faults), int(resident)


def test_large_blocks_are_used_again_across_steps_and_given_back_in_the_end():
    fresh_faults, _ = run("plain")
    faults, resident = run("reuse")
    assert faults < fresh_faults / 4
    assert resident < 150 << 20  # not the 512 MiB that may be kept in between


@pytest.mark.skipif(not operators.has_packed_linear(torch.float32), reason="torch has no prepacked linear layers here")
def test_kernels_for_every_number_of_rows_do_not_pile_up():
    _, piled = run("plain", KERNELS)
    _, kept = run("reuse", KERNELS)
    assert kept < piled / 3
