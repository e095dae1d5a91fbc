"""Attention of all documents of a token batch in one call, whatever their lengths: kernels of CUDA devices.

Which of them run depends on the card, the number format and the release of torch, and some are private to torch; so
each is tried on the device, at the shape it is to compute, and compared with plain steps before it is trusted.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from distilbatch.inference.backends import operators
from distilbatch.inference.faults import is_out_of_memory_at_load
from distilbatch.model.attention import Attention, eager_attention, sdpa_attention
from distilbatch.model.packed import Bounds, Layout

_log = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_SWITCH = threading.Lock()
_HALVES = frozenset({torch.float16, torch.bfloat16})
# What a missing or changed kernel raises: no such module or name, other arguments, not for this card.
_REFUSALS = (AttributeError, ImportError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Kernel:
    """An implementation of attention for documents of any lengths.

    Args:
        name: For logs.
        run: Maps ``(Q, heads, head size)`` queries and ``(T, heads, head size)`` keys and values, whose rows may be
            strided, to the contiguous context ``(Q, heads, head size)``.
        capability: The oldest cards it runs on.
        formats: What it computes in.
    """

    name: str
    run: Callable[[Tensor, Tensor, Tensor, Bounds], Tensor]
    capability: tuple[int, int]
    formats: frozenset[torch.dtype]


def unsplit_flash_attention(q: Tensor, k: Tensor, v: Tensor, bounds: Bounds) -> Tensor:
    """Torch's public kernel, where a document's context does not depend on the documents beside it, to the last bit.

    See :class:`Kernel`. With ``num_splits`` torch takes no other kernel than flash attention.
    """
    # Imported when it is first needed, as it takes torch's compiler with it: seconds that only a card's user pays.
    module = importlib.import_module("torch.nn.attention.varlen")
    context: Tensor = module.varlen_attn(
        q, k, v, bounds.queries, bounds.keys, bounds.max_queries, bounds.max_keys, num_splits=1
    )
    return context


KERNELS = (
    Kernel("flash, unsplit", unsplit_flash_attention, (8, 0), _HALVES),
    Kernel("flash", operators.flash_attention, (8, 0), _HALVES),
    Kernel("memory-efficient", operators.efficient_attention, (8, 0), frozenset({torch.bfloat16})),
    Kernel("memory-efficient", operators.efficient_attention, (5, 0), frozenset({torch.float16, torch.float32})),
)
"""The best first."""


def without_cudnn(
    q: Tensor, k: Tensor, v: Tensor, *, layout: Layout, n_heads: int, dropout_p: float
) -> tuple[Tensor, Tensor | None]:
    """The plain implementation on torch's other kernels.

    cuDNN, which torch prefers on cards from 9.0 on, plans each new shape for 40 to 70 ms, and every run is of another.
    The switch is of the whole process, so it is put back; the lock keeps threads from putting back each other's.
    """
    with _SWITCH:
        before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
        torch.backends.cuda.enable_cudnn_sdp(False)
        try:
            return sdpa_attention(q, k, v, layout=layout, n_heads=n_heads, dropout_p=dropout_p)
        finally:
            torch.backends.cuda.enable_cudnn_sdp(before)


class VarlenAttention(Attention):
    """One call for all documents; what the kernel has no arguments for is left to the plain implementation.

    Args:
        kernel: What computes it.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    @override
    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, layout: Layout, n_heads: int, dropout_p: float
    ) -> tuple[Tensor, Tensor | None]:
        if layout.key_mask is not None or dropout_p > 0 or not len(q):
            return without_cudnn(q, k, v, layout=layout, n_heads=n_heads, dropout_p=dropout_p)
        q, k, v = (x.view(len(x), n_heads, -1) for x in (q, k, v))
        return self.kernel.run(q, k, v, layout.bounds(q.device)).flatten(1), None


def choose_attention(
    *, device: torch.device, dtype: torch.dtype, n_heads: int, width: int, kernels: Sequence[Kernel] = KERNELS
) -> Attention:
    """The first kernel that this device has and that computes the right thing on it, or the plain implementation.

    Args:
        device: Where it runs.
        dtype: What it computes in.
        n_heads: Heads.
        width: H, the size of all heads together.
        kernels: What to choose from.

    Raises:
        RuntimeError: The device has no memory left to try one; see :mod:`distilbatch.inference.faults`.
    """
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        for kernel in kernels:
            if dtype not in kernel.formats or capability < kernel.capability:
                continue
            attend = VarlenAttention(kernel)
            if is_right(attend, device=device, dtype=dtype, n_heads=n_heads, width=width):
                _log.info("attention on %s: %s", device, kernel.name)
                return attend
        _log.warning("attention on %s: one call for each length of document, as no kernel takes several", device)
    return without_cudnn


def is_right(attend: Attention, *, device: torch.device, dtype: torch.dtype, n_heads: int, width: int) -> bool:
    """Whether an implementation does on a device what plain steps in float32 do, for all, first and some rows."""
    whole = Layout.of_lengths([130, 64, 64, 17, 2, 1, 33])
    some = torch.tensor([*range(3, 130, 5), 131, 193, 194, 275, 277, 310])  # none of the document of 17 tokens
    layouts = [whole, *(whole.select(rows, device=_CPU).layout for rows in ("first", some))]
    try:
        errors = [
            _error(attend, layout, device=device, dtype=dtype, n_heads=n_heads, width=width) for layout in layouts
        ]
    except _REFUSALS as refusal:
        if is_out_of_memory_at_load(refusal):
            raise
        _log.info("an attention kernel of %s is not used: %s", device, refusal)
        return False
    tolerance = {torch.float32: 1e-4, torch.float16: 1e-2}.get(dtype, 6e-2)
    right = all(error < tolerance for error in errors)  # not so for NaN
    if not right:
        _log.warning("an attention kernel of %s is not used: its results are off by up to %s", device, max(errors))
    return right


def _error(
    attend: Attention, layout: Layout, *, device: torch.device, dtype: torch.dtype, n_heads: int, width: int
) -> float:
    """The largest difference between an implementation and plain steps, on normal numbers."""
    generator = torch.Generator().manual_seed(0)
    rows = (sum(run.num_docs * run.q_len for run in layout.runs), sum(layout.lengths))
    queries, tokens = (torch.randn(count, 3 * width, generator=generator).to(dtype) for count in rows)

    def run(attend: Attention, queries: Tensor, tokens: Tensor) -> Tensor:
        q, (_, k, v) = queries.chunk(3, 1)[0], tokens.chunk(3, 1)  # strided, as a fused layer leaves them
        return attend(q, k, v, layout=layout, n_heads=n_heads, dropout_p=0.0)[0].float().cpu()

    found = run(attend, queries.to(device), tokens.to(device))
    expected = run(eager_attention, queries.float(), tokens.float())
    return float((found - expected).abs().max())
