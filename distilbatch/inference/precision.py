"""Which device and which number format a predictor uses, checked against what the machine can do."""

from __future__ import annotations

import logging

import torch

from distilbatch.errors import SetupError
from distilbatch.inference.backends import operators

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.float32,
}
PRECISIONS = tuple(_DTYPES)
_FIRST_BFLOAT16_CAPABILITY = (8, 0)

_log = logging.getLogger("distilbatch")


def set_threads(threads: int) -> None:
    """Fix how many CPU threads torch computes with in this process."""
    torch.set_num_threads(threads)


def resolve_device(device: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device that is there.

    Raises:
        SetupError: CUDA was asked for and is not usable, or the index is too high.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise SetupError(
                f"device {device!r} is not usable",
                expected="a CUDA device that torch can see",
                found=f"{count} CUDA devices",
                remedy="set engine.device to cpu or auto",
            )
        return torch.device("cuda", chosen.index or 0)
    return chosen


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn ``auto`` into a precision that suits the device, and check that the device computes the one asked for.

    ``auto`` is exact float32 on CPUs, bfloat16 on CUDA cards that have it, else float16.

    Returns:
        One of :data:`PRECISIONS`.

    Raises:
        SetupError: The device cannot compute it, or it is float16 on a CPU.
    """
    native = device.type != "cuda" or torch.cuda.get_device_capability(device) >= _FIRST_BFLOAT16_CAPABILITY
    if precision == "auto":
        if device.type == "cpu":
            return "float32"
        return "bfloat16" if native else "float16"
    if precision == "float16" and device.type == "cpu":
        raise SetupError(
            "precision float16 on a CPU",
            expected="float32, bfloat16 or int8",
            found="float16, which CPUs emulate at a quarter of the speed of float32",
            remedy="set engine.precision to auto",
        )
    if precision == "bfloat16" and not native:
        raise SetupError(
            f"precision bfloat16 on {torch.cuda.get_device_name(device)}",
            expected="compute capability 8.0 or newer",
            remedy="set engine.precision to float16 or auto",
        )
    if precision == "bfloat16" and device.type == "cpu" and not operators.bfloat16_is_native():
        _log.warning("this CPU emulates bfloat16, at a fraction of the speed of float32")
    if precision == "int8":
        _check_int8(device)
    return precision


def resolve_settled_precision(precision: str, device: torch.device) -> str:
    """:func:`resolve_precision` for one that a run chose, perhaps on another machine, and not its user.

    Returns:
        float32 where the device does not compute it: every device has it, and the choice keeps the labels of float32.
    """
    try:
        return resolve_precision(precision, device)
    except SetupError as error:
        _log.warning("the run's precision is not for this device, which computes in float32: %s", error)
        return "float32"


def _check_int8(device: torch.device) -> None:
    if device.type == "cpu" and operators.int8_sums():
        return
    found = device.type if device.type != "cpu" else "none that torch's operators make use of"
    raise SetupError(
        "precision int8",
        expected="a CPU with AVX2 or newer",
        found=found,
        remedy="set engine.precision to auto",
    )


def storage_dtype(precision: str) -> torch.dtype:
    """What weights and activations are in memory; with int8, those that are not quantised."""
    return _DTYPES[precision]


def fast_precisions(device: torch.device) -> tuple[str, ...]:
    """Precisions that the device computes faster than float32, fastest first."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= _FIRST_BFLOAT16_CAPABILITY
        return ("bfloat16", "float16") if native else ("float16",)
    int8 = ("int8",) if operators.int8_sums() else ()
    return (*int8, "bfloat16") if operators.bfloat16_is_native() else int8
