"""What torch can compute on, for people."""

from __future__ import annotations

import torch


def list_gpus() -> tuple[str, ...]:
    """The CUDA devices torch can use, with their memory; empty where there is none."""
    if not torch.cuda.is_available():
        return ()
    found = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return tuple(f"{device.name} ({device.total_memory / (1 << 30):.0f} GiB)" for device in found)
