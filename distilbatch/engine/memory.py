"""How a worker's process keeps its memory: large blocks are used again, and what is left over is given back.

The C library's own way is to map and unmap every block of some megabytes, which a forward asks for at each step: the
system clears each page of it anew, a tenth of the time of an int8 forward.
"""

from __future__ import annotations

import ctypes

# Parameters of mallopt, and the largest values that glibc takes or that a worker needs.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_BLOCK_BYTES = 32 << 20  # of those that are used again; as much as glibc allows
_KEPT_BYTES = 512 << 20  # free at the end of the heap, until release_free_memory


def reuse_large_blocks() -> None:
    """Make this process use freed memory again, in whichever thread it was freed; nothing happens without glibc.

    For processes that are workers from then on: it is a setting of the whole process.
    """
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
