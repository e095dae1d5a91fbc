"""The part of a block behind its attention, compiled by torch: residuals, norms, feed-forward layers in fewer kernels.

Attention stays outside: its kernels are the fastest there are, and take documents of any lengths as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

import torch

from distilbatch.model.layers import Finish, TransformerBlock, finish_block

COMPILER = "inductor"
_ROWS = (64, 1000)  # two lengths, so that one that was compiled for its own length alone is found out
_TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}

_log = logging.getLogger("distilbatch")


def compile_blocks(blocks: Sequence[TransformerBlock], *, device: torch.device, dtype: torch.dtype) -> bool:
    """Let all blocks end in one compiled function, if it can be compiled and computes the right thing here.

    Args:
        blocks: Of one encoder, on the device and in the format.
        device: Where they run.
        dtype: Of their weights.

    Returns:
        Whether they do; otherwise they are left as they were, and the log says why.
    """
    # One function of any block: its weights are inputs, so that the others need no compilation of their own.
    compiled = cast("Finish", torch.compile(finish_block, backend=COMPILER, dynamic=True))
    try:
        difference = max(_difference(blocks[0], compiled, rows, device=device, dtype=dtype) for rows in _ROWS)
    except (RuntimeError, ImportError, OSError) as error:  # no Triton, no compiler, a card it does not know
        _log.warning("engine.compile: left out, because torch cannot compile here: %s", _first_line(error))
        return False
    if not difference <= _TOLERANCES[dtype]:
        _log.warning("engine.compile: left out, because what torch compiled is off by %g", difference)
        return False
    for block in blocks:
        block.finish = compiled
    return True


def _difference(
    block: TransformerBlock, compiled: Finish, rows: int, *, device: torch.device, dtype: torch.dtype
) -> float:
    generator = torch.Generator().manual_seed(0)
    width = block.sa_layer_norm.normalized_shape[0]
    with torch.inference_mode():  # inputs too, and each of its own: others would be compiled for once more
        context, queries = (torch.randn(rows, width, generator=generator).to(device, dtype) for _ in range(2))
        exact = finish_block(block, context, queries)
        return float((compiled(block, context, queries) - exact).float().abs().max() / exact.float().abs().max())


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
