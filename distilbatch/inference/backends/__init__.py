"""How a linear layer and an attention run; one file a backend.

A backend swaps layers of a loaded model in place and never touches the forward. Kernels that this machine or this torch
lacks are left out behind a check, and the plain ones run in their place.
"""

from distilbatch.inference.backends.base import Backend
from distilbatch.inference.backends.choice import choose_backend
from distilbatch.inference.backends.reference import ReferenceBackend

__all__ = ["Backend", "ReferenceBackend", "choose_backend"]
