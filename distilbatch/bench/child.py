"""A contestant seen from inside: reads JSON lines from standard input, answers on what was standard output.

Whatever libraries print goes to standard error, so that it cannot disturb the answers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from distilbatch.bench.competitor import Competitor, Factory
from distilbatch.bench.workload import Workload
from distilbatch.errors import DistilbatchError


def serve() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    competitor: Competitor | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if competitor is None:
                start = time.perf_counter()
                competitor = _load(request)
                reply: Mapping[str, Any] = {
                    "seconds": time.perf_counter() - start,
                    "scopes": competitor.scopes,
                    "about": dict(competitor.describe()),
                }
            else:
                reply = _answer(competitor, request)
        except DistilbatchError as error:
            reply = {"refused": str(error)}
        except Exception as error:  # of any library: a line in the report
            reply = {"failed": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def _load(request: Mapping[str, Any]) -> Competitor:
    module, _, name = request["factory"].partition(":")
    factory: Factory = getattr(import_module(module), name)
    return factory(workload=Workload.from_dict(request["workload"]), **request["options"])


def _answer(competitor: Competitor, request: Mapping[str, Any]) -> Mapping[str, Any]:
    start = time.perf_counter()
    facts: Mapping[str, Any] = {}
    if request["do"] == "probe":
        competitor.probe()
    elif request["do"] == "outputs":
        values = competitor.outputs()
    else:
        facts = competitor.run(request["scope"])
    seconds = time.perf_counter() - start
    if request["do"] == "outputs":
        np.save(Path(request["file"]), values)
    return {"seconds": seconds, "resident_bytes": psutil.Process().memory_info().rss, **facts}
