"""CTranslate2: its converter makes an encoder; pooling and the head follow in torch.

A peer being measured, never a part of what runs. It removes padding from linear layers by itself.
"""

from __future__ import annotations

import ctranslate2
import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from numpy.typing import NDArray
from torch import Tensor

from distilbatch.bench.machine import versions_of
from distilbatch.bench.peers.huggingface import PeerModel, pool
from distilbatch.bench.peers.padded import PaddedPeer
from distilbatch.bench.workload import Workload


def load(workload: Workload, *, precision: str) -> PaddedPeer:
    """The converted encoder with the model's own head."""
    torch.set_num_threads(workload.threads)
    folder = workload.scratch / f"ctranslate2-{precision}"
    converter = TransformersConverter(str(workload.model))
    converter.convert(str(folder), quantization=None if precision == "float32" else precision, force=True)
    device = workload.device.partition(":")[0]
    encoder = ctranslate2.Encoder(str(folder), device, compute_type=precision, intra_threads=workload.threads)
    model = PeerModel(workload)

    @torch.inference_mode()
    def forward(input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        ids = ctranslate2.StorageView.from_array(input_ids.astype(np.int32))
        lengths = ctranslate2.StorageView.from_array(attention_mask.sum(1).astype(np.int32))
        states = torch.as_tensor(np.array(encoder.forward_batch(ids, lengths).last_hidden_state))
        values: NDArray[np.float32] = _read(model, states, torch.from_numpy(attention_mask)).numpy()
        return values

    return PaddedPeer(workload, forward, {"compute_type": encoder.compute_type, **versions_of("ctranslate2")})


def _read(model: PeerModel, states: Tensor, attention_mask: Tensor) -> Tensor:
    if model.pooling:
        return pool(states, attention_mask, model.pooling)
    hidden = torch.relu(model.model.pre_classifier(states[:, 0]))
    logits: Tensor = model.model.classifier(hidden)
    return logits
