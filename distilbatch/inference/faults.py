"""What an error of torch says about the device: that its memory ran out, or that it computes nothing any more."""

from __future__ import annotations

import torch

from distilbatch.errors import ResourceError

# Failed allocations for which torch raises a plain RuntimeError: on the host, of pinned memory, inside cuBLAS.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
_NO_WORKSPACE = "CUBLAS_STATUS_NOT_INITIALIZED"  # what cuBLAS makes of no memory for its first workspace
_CUDA_ERROR = "CUDA error:"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the host or on the device: with less to do, the call may succeed."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or any(text in str(error) for text in _OUT_OF_MEMORY)


def is_out_of_memory_at_load(error: BaseException) -> bool:
    """The same, for the first calls of a process on its device."""
    return is_out_of_memory(error) or _NO_WORKSPACE in str(error)


def is_lost_device(error: BaseException) -> bool:
    """Whether a CUDA call failed, and not for want of memory.

    An illegal access, an ECC error or a card off the bus spoils the CUDA context of the process: every later call
    fails, in no time, until the process ends. Errors that spoil nothing look alike; a process more costs little.
    """
    if is_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    # Releases before 2.8 raise plain RuntimeErrors.
    return isinstance(error, getattr(torch, "AcceleratorError", ())) or _CUDA_ERROR in str(error)


def lost_device(error: BaseException, device: object) -> ResourceError:
    """Our error for a device that :func:`is_lost_device` speaks of."""
    return ResourceError(
        f"device {device} failed, and computes nothing more for this process",
        found=_first_line(error),
        remedy="run the same command again; if it comes back, look for Xid in the system's log, and leave the card out",
    )


def load_error(error: BaseException, device: object) -> ResourceError | None:
    """Our error for models that could not be put on a device; None where the device is not to blame."""
    if not is_out_of_memory_at_load(error):
        return lost_device(error, device) if is_lost_device(error) else None
    return ResourceError(
        f"the models do not fit into what is free of the memory of device {device}",
        found=_first_line(error),
        remedy="let fewer workers share the device (engine.gpus_per_actor, engine.actors), end what else uses it, or "
        "set engine.precision to a half format; a lower engine.max_batch_tokens makes no room for the models",
    )


def starved(device: object, num_tokens: int, *, seconds: float) -> ResourceError:
    """Our error for a device whose memory others have taken since the models were loaded: no document is to blame."""
    return ResourceError(
        f"device {device} has no memory left to compute with",
        expected=f"room for {num_tokens} tokens beside the models, as there was when they were loaded",
        found=f"none in {seconds:.0f} s",
        remedy="end what else took the memory, or let fewer workers share the device (engine.gpus_per_actor, "
        "engine.actors); then run the same command again, which goes on where this one stopped",
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
