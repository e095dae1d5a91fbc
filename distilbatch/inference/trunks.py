"""Which models share a trunk: encoders with the same settings and the same weights."""

from __future__ import annotations

import hashlib

import torch

from distilbatch.model.modeling import PreTrainedModel


def trunk_fingerprint(model: PreTrainedModel) -> str:
    """Digest of an encoder's settings and weights; equal digests compute equal states."""
    config = model.config
    settings = (config.n_layers, config.n_heads, config.dim, config.hidden_dim, str(config.activation))
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in sorted(model.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
