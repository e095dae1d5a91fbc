"""The part of a block behind its attention, compiled by torch: residuals, norms, feed-forward layers in fewer kernels.

Attention stays outside: its kernels are the fastest there are, and take documents of any lengths as they are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import cast

import torch
from torch import Tensor

from distilbatch.model.layers import Finish, TransformerBlock, finish_block

COMPILER = "inductor"
# Two lengths, so that one that was compiled for its own length alone is found out. Primes, which no layer is as wide
# as: torch takes sizes that are equal while it compiles for one and the same.
_ROWS = (61, 1009)
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
    try:
        with _quiet():
            finish = _compiled_finish()
            difference = max(_difference(blocks[0], finish, rows, device=device, dtype=dtype) for rows in _ROWS)
    except (RuntimeError, ImportError, OSError) as error:  # no Triton, no compiler, a card it does not know
        _log.warning("engine.compile: left out, because torch cannot compile here: %s", _first_line(error))
        return False
    if not difference <= _TOLERANCES[dtype]:
        _log.warning("engine.compile: left out, because what torch compiled is off by %g", difference)
        return False
    for block in blocks:
        block.finish = finish
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Pass on no advice of the compiler, which would be a failure where warnings are errors.

    It recommends TF32 where float32 is asked for, which is exact on purpose, and warns of torch's own deprecated code.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


def _compiled_finish() -> Finish:
    """``finish_block``, compiled once for any number of rows and any block of one encoder."""
    # Weights are inputs, so that the other blocks need no compilation of their own. Another encoder does, and torch
    # counts compilations by the code object, after eight of which it silently stops compiling: so each has a copy.
    copy = FunctionType(finish_block.__code__.replace(), finish_block.__globals__, finish_block.__name__)
    compiled = cast("Finish", torch.compile(copy, backend=COMPILER, dynamic=True))

    def finish(block: TransformerBlock, context: Tensor, queries: Tensor) -> Tensor:
        # torch compiles anew for one row and for none, in the middle of a run and for minutes; these are quick anyway.
        return (compiled if len(queries) > 1 else finish_block)(block, context, queries)

    return finish


def _difference(
    block: TransformerBlock, finish: Finish, rows: int, *, device: torch.device, dtype: torch.dtype
) -> float:
    generator = torch.Generator().manual_seed(0)
    width = block.sa_layer_norm.normalized_shape[0]
    with torch.inference_mode():  # inputs too, and each of its own: others would be compiled for once more
        context, queries = (torch.randn(rows, width, generator=generator).to(device, dtype) for _ in range(2))
        exact = finish_block(block, context, queries)
        return float((finish(block, context, queries) - exact).float().abs().max() / exact.float().abs().max())


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
