"""ONNX Runtime: the transformers model exported by torch, in float32 and with its dynamic int8 quantisation.

A peer being measured, never a part of what runs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from distilbatch.bench.machine import describe_machine, versions_of
from distilbatch.bench.peers.huggingface import PeerModel
from distilbatch.bench.peers.padded import PaddedPeer
from distilbatch.bench.workload import Workload

_INPUTS = ("input_ids", "attention_mask")
_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"}


def load(workload: Workload, *, precision: str) -> PaddedPeer:
    """A session over the exported model."""
    path = _export(workload)
    if precision == "int8":
        path = _quantize(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = workload.threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    wanted = "CUDAExecutionProvider" if workload.device.startswith("cuda") else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(str(path), options, providers=[wanted])

    def forward(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = session.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})[0]
        return values

    return PaddedPeer(workload, forward, {"provider": wanted, **versions_of("onnxruntime", "onnx", "onnxscript")})


def _export(workload: Workload) -> Path:
    path = workload.scratch / "onnx" / "model.onnx"
    if path.is_file():
        return path
    partial = workload.scratch / "onnx-partial"
    partial.mkdir(exist_ok=True)
    example = torch.ones((2, 8), dtype=torch.int64)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=workload.max_length)
    torch.onnx.export(
        PeerModel(workload),
        (example, example.clone()),  # of one tensor twice the exporter makes one input
        str(partial / path.name),
        input_names=list(_INPUTS),
        output_names=["values"],
        dynamic_shapes={name: {0: batch, 1: length} for name in _INPUTS},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    partial.rename(path.parent)
    return path


def _quantize(path: Path) -> Path:
    target = path.with_name("model-int8.onnx")
    # Without dot-product instructions two products of 8 bits overflow 16: the documentation asks for 7-bit weights.
    narrow = not _DOT_PRODUCTS.intersection(describe_machine()["flags"])
    quantize_dynamic(path, target, weight_type=QuantType.QInt8, per_channel=True, reduce_range=narrow)
    return target
