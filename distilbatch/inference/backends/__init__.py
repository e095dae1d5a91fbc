"""How a linear layer and an attention run; one file a backend.

A backend swaps layers of a loaded model in place and never touches the forward: prepacked or quantised
linears and variable-length attention kernels are to live here, each behind a capability check.
"""

from distilbatch.inference.backends.base import Backend
from distilbatch.inference.backends.reference import ReferenceBackend

__all__ = ["Backend", "ReferenceBackend"]
