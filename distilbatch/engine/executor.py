"""The contract between the driver and whatever runs its shards."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

from distilbatch.engine.spec import Outcome, ShardTask


class Executor(Protocol):
    """Processes shards somewhere and reports what came of each; it never commits."""

    def run(self, tasks: Sequence[ShardTask], *, stop: threading.Event) -> Iterator[Outcome]:
        """Process every task, in any order.

        Args:
            tasks: The shards.
            stop: Once set, nothing new is started and what is under way is given up soon.

        Yields:
            A result or a failure for each task, and events in between. After ``stop`` some tasks are left out.

        Raises:
            ResourceError: Workers keep dying.
            SetupError: No worker can start.
        """
