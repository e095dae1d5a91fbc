"""OpenVINO: the transformers model converted by its torch frontend, in float32, bfloat16 and NNCF's static int8.

A peer being measured, never a part of what runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
import torch
from numpy.typing import NDArray

from distilbatch.bench.inputs import pad, tokenize
from distilbatch.bench.machine import versions_of
from distilbatch.bench.peers.huggingface import PeerModel
from distilbatch.bench.peers.padded import PaddedPeer
from distilbatch.bench.workload import Workload
from distilbatch.errors import SetupError

_TYPES = {"float32": "f32", "bfloat16": "bf16"}
_CALIBRATION_DOCUMENTS = 64


def load(workload: Workload, *, precision: str) -> PaddedPeer:
    """A compiled model on the CPU.

    Raises:
        SetupError: The processor has no bfloat16, and OpenVINO would compute something else instead.
    """
    model = _convert(workload)
    if precision == "int8":
        model = _quantize(model, workload)
    core = openvino.Core()
    native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    wanted = _TYPES.get(precision, "bf16" if native else "f32")  # beside int8: the faster one that is there
    if wanted == "bf16" and not native:
        raise SetupError("OpenVINO finds no bfloat16 in this processor", found="it would compute float32")
    settings = {
        "INFERENCE_PRECISION_HINT": wanted,
        "INFERENCE_NUM_THREADS": workload.threads,
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time on all cores, as every peer here
    }
    compiled = core.compile_model(model, "CPU", settings)

    def forward(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = compiled([input_ids, attention_mask])[0]
        return values

    return PaddedPeer(workload, forward, {"inference_precision": wanted, **versions_of("openvino", "nncf")})


def _convert(workload: Workload) -> Any:  # noqa: ANN401 - a library without types here
    example = torch.ones((2, 8), dtype=torch.int64)
    inputs = {"input_ids": example, "attention_mask": example.clone()}
    shape = openvino.PartialShape([-1, -1])
    return openvino.convert_model(PeerModel(workload), example_input=inputs, input=[shape, shape])


def _quantize(model: Any, workload: Workload) -> Any:  # noqa: ANN401 - a library without types here
    import nncf  # noqa: PLC0415 - the other precisions do without it

    tokens = tokenize(workload)
    chosen = np.linspace(0, len(tokens) - 1, min(_CALIBRATION_DOCUMENTS, len(tokens)), dtype=np.int64)
    batches = (pad(tokens, np.array([document])) for document in chosen.tolist())
    data = nncf.Dataset([[batch.input_ids, batch.attention_mask] for batch in batches])
    return nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(chosen))
