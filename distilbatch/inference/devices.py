"""What torch can compute on, for people."""

from __future__ import annotations

import torch

from distilbatch.inference.backends import operators


def list_gpus() -> tuple[str, ...]:
    """The CUDA devices torch can use, with their memory; empty where there is none."""
    if not torch.cuda.is_available():
        return ()
    found = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return tuple(f"{device.name} ({device.total_memory / (1 << 30):.0f} GiB)" for device in found)


def list_cpu_precisions() -> tuple[str, ...]:
    """The precisions that this CPU computes in hardware, with the kernels that were found to be right here."""
    packed = operators.has_packed_linear(torch.float32)
    found = [f"float32 ({'oneDNN' if packed else 'plain torch'})"]
    if operators.bfloat16_is_native():
        found.append("bfloat16")
    if sums := operators.int8_sums():
        found.append(f"int8 ({sums.value})")
    return tuple(found)
