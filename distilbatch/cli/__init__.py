"""The command line: the only place that prints, exits, and sets up logging and signals.

Light modules declare the verbs. What a verb needs of torch, ray or pyarrow is imported inside it, the one exception
to imports at the top, so that ``--help`` and a mistyped option answer at once.
"""

from __future__ import annotations

from distilbatch.cli.program import app, main

__all__ = ["app", "main"]
