"""How a worker's process keeps its memory: large blocks are used again, and what is left over is given back.

The C library's own way is to map and unmap every block of some megabytes, which a forward asks for at each step: the
system clears each page of it anew, a tenth of the time of an int8 forward. And oneDNN's last 1,024 kernels are
kept, one for each number of rows that was met in each layer: hundreds of megabytes, in pieces that lie between freed
blocks and keep them from being joined.
"""

from __future__ import annotations

import ctypes
import os

# Parameters of mallopt, and the largest values that glibc takes or that a worker needs.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_BLOCK_BYTES = 32 << 20  # of those that are used again; as much as glibc allows
_KEPT_BYTES = 512 << 20  # free at the end of the heap, until release_free_memory
# oneDNN's own cache, and that of the library between it and torch, of each operator; making a kernel anew takes a small
# part of the time it then computes.
_KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_KERNELS = "64"


def steady_memory() -> None:
    """Make this process use freed memory again, in whichever thread it was freed, and keep few kernels.

    For processes that are workers from then on: these are settings of the whole process. The first one needs glibc;
    the second one is heard if nothing was computed yet, and leaves what the environment says already.
    """
    for name in _KERNEL_CACHES:
        os.environ.setdefault(name, _KERNELS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)  # the stages run in threads, and every thread's own arena would keep its own
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def release_free_memory() -> None:
    """Give memory that is free inside the process back to the system; does nothing where there is no glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
