"""Keeps a worker's resident memory level: the C library returns freed memory only when it is told to."""

from __future__ import annotations

import ctypes


def release_free_memory() -> None:
    """Give memory that is free inside the process back to the system; does nothing where there is no glibc.

    The stages of each shard run in threads of their own, and every thread's arena keeps what it once needed.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
