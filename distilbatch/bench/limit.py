"""The machine's limit: its best matrix rate at the model's shapes, by number format, with the best kernels of torch.

A kernel that is missing here, or only emulated, shows on a tiny product and is left out with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from distilbatch.bench.competitor import LIMIT, Competitor
from distilbatch.bench.workload import Workload
from distilbatch.errors import SetupError
from distilbatch.inference.backends import operators
from distilbatch.inference.backends.quantise import quantise
from distilbatch.inference.precision import resolve_device
from distilbatch.model.configuration import CONFIG_FILE, DistilBertConfig
from distilbatch.model.flops import Shape, linear_shapes

FLOAT32, BFLOAT16, FLOAT16, INT8 = "float32", "bfloat16", "float16", "int8"
_PROBE_ROWS = 64
_PROBE_SHAPE = Shape(768, 768)  # whatever the model: products of a tiny one are all overhead
_ROWS = {"cpu": 2048, "cuda": 32_768}
_REPEATS = 3
_PROBE_REPEATS = 10  # a millisecond each
_SLOWER = 4.0  # than float32 on the probe: emulated, and the full shape might take minutes
_DTYPES = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16, FLOAT16: torch.float16}

Product = Callable[[], object]
Build = Callable[[int, Shape, torch.device], Product]


class Limit(Competitor):
    """Chooses the fastest kernel for each format and shape, then times those again each round.

    Args:
        workload: Its model gives the shapes.
        rows: Rows of the products; None takes those of a token batch that suits the device.
    """

    def __init__(self, workload: Workload, *, rows: int | None = None) -> None:
        torch.set_num_threads(workload.threads)
        self._device = resolve_device(workload.device)
        self._rows = rows or _ROWS[self._device.type]
        self._shapes = linear_shapes(DistilBertConfig.from_file(workload.model / CONFIG_FILE))
        self._best: dict[str, dict[str, tuple[str, Product]]] = {}
        self._missing: dict[str, dict[str, str]] = {}
        self._probe_s: dict[str, float] = {}
        for precision, kernels in kernels_of(self._device).items():
            self._choose(precision, kernels)

    @property
    @override
    def scopes(self) -> tuple[str, ...]:
        return (LIMIT,)

    @override
    def describe(self) -> Mapping[str, Any]:
        chosen = {
            precision: {name: kernel for name, (kernel, _) in best.items()} for precision, best in self._best.items()
        }
        return {"kernels": chosen, "left_out": self._missing, "rows": self._rows}

    @override
    def probe(self) -> None:
        pass

    @override
    def outputs(self) -> NDArray[np.float32]:
        raise SetupError("the limit has no outputs")

    @override
    def run(self, scope: str) -> Mapping[str, Any]:
        return {
            "rates": {
                precision: {name: self._rate(name, product) for name, (_, product) in best.items()}
                for precision, best in self._best.items()
            }
        }

    def _choose(self, precision: str, kernels: Mapping[str, Build]) -> None:
        usable: dict[str, Build] = {}
        missing = self._missing.setdefault(precision, {})
        for kernel, build in kernels.items():
            try:
                seconds = _best_time(
                    build(_PROBE_ROWS, _PROBE_SHAPE, self._device), self._device, repeats=_PROBE_REPEATS
                )
            except (RuntimeError, AttributeError, TypeError) as error:  # not built in, or not for this processor
                missing[kernel] = str(error).splitlines()[0][:200]
                continue
            best = min([seconds, *self._probe_s.values()])
            if precision != FLOAT32 and seconds > _SLOWER * self._probe_s.get(FLOAT32, best):
                missing[kernel] = f"emulated: {seconds / self._probe_s[FLOAT32]:.0f} times slower than {FLOAT32}"
                continue
            self._probe_s[precision] = min(seconds, self._probe_s.get(precision, seconds))
            usable[kernel] = build
        if usable:
            self._best[precision] = {name: self._fastest(shape, usable) for name, shape in self._shapes.items()}

    def _fastest(self, shape: Shape, kernels: Mapping[str, Build]) -> tuple[str, Product]:
        built = {kernel: build(self._rows, shape, self._device) for kernel, build in kernels.items()}
        times = {kernel: _best_time(product, self._device) for kernel, product in built.items()}
        best = min(times, key=times.__getitem__)
        return best, built[best]

    def _rate(self, name: str, product: Product) -> float:
        shape = self._shapes[name]
        return 2.0 * self._rows * shape.inputs * shape.outputs / _best_time(product, self._device)


def _best_time(product: Product, device: torch.device, *, repeats: int = _REPEATS) -> float:
    best = float("inf")
    with torch.inference_mode():
        for _ in range(repeats + 1):  # the first one warms up
            _wait(device)
            start = time.perf_counter()
            product()
            _wait(device)
            best = min(best, time.perf_counter() - start)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def plain_kernels() -> dict[str, dict[str, Build]]:
    """What every device has, as far as it has the format."""
    return {name: {"linear": partial(_linear, dtype)} for name, dtype in _DTYPES.items()}


def kernels_of(device: torch.device) -> dict[str, dict[str, Build]]:
    """The kernels to try on a device, by format; float32 first."""
    plain = plain_kernels()
    if device.type == "cuda":
        return {**plain, INT8: {"int_mm": _int_mm}}
    return {
        FLOAT32: {**plain[FLOAT32], "onednn": partial(_onednn, torch.float32)},
        BFLOAT16: {**plain[BFLOAT16], "onednn": partial(_onednn, torch.bfloat16)},
        INT8: {
            "onednn_qlinear": _qlinear,
            **{f"dynamic_{engine}": partial(_dynamic, engine) for engine in ("onednn", "fbgemm", "x86")},
        },
    }


def _operands(rows: int, shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    sizes = ((rows, shape.inputs), (shape.outputs, shape.inputs), (shape.outputs,))
    values, weight, bias = (torch.randn(size, device=device).to(dtype) for size in sizes)
    return values, weight, bias


def _linear(dtype: torch.dtype, rows: int, shape: Shape, device: torch.device) -> Product:
    values, weight, bias = _operands(rows, shape, device, dtype)
    return partial(functional.linear, values, weight, bias)


def _onednn(dtype: torch.dtype, rows: int, shape: Shape, device: torch.device) -> Product:
    values, weight, bias = _operands(rows, shape, device, dtype)
    return partial(operators.packed_linear, values, operators.pack_linear(weight, rows=rows), bias)


def _int_mm(rows: int, shape: Shape, device: torch.device) -> Product:
    values = torch.randint(-127, 127, (rows, shape.inputs), dtype=torch.int8, device=device)
    weight = torch.randint(-127, 127, (shape.outputs, shape.inputs), dtype=torch.int8, device=device)
    return partial(operators.int8_matmul, values, weight.t())


def _qlinear(rows: int, shape: Shape, device: torch.device) -> Product:
    # Unsigned activations: signed ones fall to a reference kernel on processors without AMX.
    values, weight, bias = _operands(rows, shape, device, torch.float32)
    return partial(operators.int8_linear, quantise(values), operators.pack_int8(weight, rows=rows), bias)


def _dynamic(engine: str, rows: int, shape: Shape, device: torch.device) -> Product:
    values, weight, bias = _operands(rows, shape, device, torch.float32)
    torch.backends.quantized.engine = engine
    scales, zeros = weight.abs().amax(1).double() / 127, torch.zeros(shape.outputs, dtype=torch.int64)
    quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
    packed = operators.pack_dynamic_int8(quantized, bias)
    return partial(operators.dynamic_int8_linear, values, packed)
