"""Errors of torch by what they ask for: less to do, another process, or a mended program."""

from __future__ import annotations

import pytest
import torch

from distilbatch.errors import ResourceError
from distilbatch.inference.faults import is_lost_device, is_out_of_memory, is_out_of_memory_at_load, load_error

ILLEGAL_ACCESS = (
    "CUDA error: an illegal memory access was encountered\n"
    "CUDA kernel errors might be asynchronously reported at some other API call"
)
MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB"),
    RuntimeError("CUDA error: out of memory"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried to"),
]
NO_WORKSPACE = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
LOST = [
    torch.AcceleratorError(ILLEGAL_ACCESS),
    torch.AcceleratorError("something else than in other releases"),
    RuntimeError(ILLEGAL_ACCESS),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("cuDNN: CUDA error: device-side assert triggered"),
    NO_WORKSPACE,
]
BUGS = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    ValueError("CUDA error: quoted by somebody"),
    ZeroDivisionError("division by zero"),
]


def named(error: BaseException) -> str:
    return f"{type(error).__name__} {str(error)[:30]}"


@pytest.mark.parametrize("error", MEMORY, ids=named)
def test_memory_that_runs_out_costs_no_device(error):
    assert (is_out_of_memory(error), is_out_of_memory_at_load(error), is_lost_device(error)) == (True, True, False)


@pytest.mark.parametrize("error", LOST, ids=named)
def test_a_lost_device_is_told_from_a_lack_of_memory(error):
    assert (is_out_of_memory(error), is_lost_device(error)) == (False, True)


@pytest.mark.parametrize("error", BUGS, ids=named)
def test_bugs_are_neither(error):
    assert (is_out_of_memory_at_load(error), is_lost_device(error), load_error(error, "cuda:0")) == (False, False, None)


@pytest.mark.parametrize("error", [*MEMORY, NO_WORKSPACE], ids=named)
def test_models_that_do_not_fit_are_no_bug_and_no_matter_of_token_batches(error):
    found = load_error(error, torch.device("cuda:1"))
    assert isinstance(found, ResourceError)
    assert found.what == "the models do not fit into what is free of the memory of device cuda:1"
    assert found.found.startswith(type(error).__name__)
    assert "engine.gpus_per_actor" in found.remedy


def test_a_device_that_fails_as_models_are_loaded_is_named_with_its_error():
    found = load_error(LOST[0], torch.device("cuda:1"))
    assert str(found) == (
        "device cuda:1 failed, and computes nothing more for this process; "
        "found AcceleratorError: CUDA error: an illegal memory access was encountered; "
        "run the same command again; if it comes back, look for Xid in the system's log, and leave the card out"
    )
