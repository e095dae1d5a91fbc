"""A whole benchmark: documents and model, the limit, ourselves and the peers in one race, and the report of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilbatch.bench.competitor import JOB, LIMIT
from distilbatch.bench.contestant import Contestant
from distilbatch.bench.machine import available_cores
from distilbatch.bench.options import BenchOptions
from distilbatch.bench.prepare import Prepared, prepare
from distilbatch.bench.race import MEASURED, Race, Standing, Team
from distilbatch.bench.report import Contest, build_report
from distilbatch.bench.roster import OURS, PEER, Entrant, choose, ourselves, peers
from distilbatch.bench.sides import Side, make_side, side_entrants
from distilbatch.bench.sizing import MIN_DOCUMENTS, affordable_documents
from distilbatch.bench.stages import STAGES
from distilbatch.bench.workload import Workload
from distilbatch.inference.backends.operators import bfloat16_is_native
from distilbatch.model.flops import forward_flops

LIMIT_ENTRANT = Entrant("limit", LIMIT, "", "distilbatch.bench.limit:Limit")
REFERENCE_ENTRANT = Entrant("reference", "reference", "float32", "distilbatch.bench.reference:Reference")
PRECISIONS = ("float32", "bfloat16", "int8")
_LOAD_S = 15.0  # of a contestant, about


def run_bench(options: BenchOptions) -> dict[str, Any]:
    """Measure; see the package for what.

    Returns:
        The report as JSON values.

    Raises:
        DistilbatchError: There is nothing to measure: options, model or documents are wrong. A contestant that
            cannot run is part of the report.
    """
    start = time.perf_counter()
    threads = options.threads or available_cores()
    with tempfile.TemporaryDirectory(prefix="distilbatch-bench-") as folder:
        scratch = Path(folder)
        prepared = prepare(options, scratch, threads=threads)
        device = prepared.device
        precisions = PRECISIONS if device == "cpu" else (*PRECISIONS, "float16")
        own = [*(ourselves(precision) for precision in precisions), *side_entrants(options, prepared, precisions)]
        entrants = choose((*own, *(() if options.skip_peers else peers(device))), options.only)
        with Race(scratch) as race:
            limit = race.start(LIMIT_ENTRANT, prepared.workload(0))
            race.time(limit, LIMIT, -1)
            count = options.documents or _affordable(limit, prepared, entrants, options)
            lengths = prepared.write_documents(count)
            workload = prepared.workload(len(lengths))
            names = {entrant.side for entrant in entrants if entrant.side}
            sides = {name: make_side(name, prepared, workload, lengths) for name in sorted(names)}
            _start(race, entrants, prepared, workload, sides)
            if options.layout:
                _start_teams(race, prepared, workload, lengths)
            rounds = race.run(options.rounds, budget_s=options.budget_s - (time.perf_counter() - start))
            for standing in race.standings:
                if standing.entrant.kind == OURS and standing.status == MEASURED and "team" not in standing.about:
                    race.time(standing, STAGES, rounds)
            seconds = time.perf_counter() - start
            contest = Contest(options.seed, rounds, options.rounds, options.budget_s, seconds)
            return build_report(contest, prepared, workload, lengths, race.standings, list(sides.values()))


def _start(
    race: Race, entrants: Sequence[Entrant], prepared: Prepared, workload: Workload, sides: Mapping[str, Side]
) -> None:
    if prepared.comparable:
        race.start(REFERENCE_ENTRANT, workload, once=True)
    for entrant in entrants:
        if why := _unfit(entrant, prepared):
            race.refuse(entrant, why)
        elif entrant.side:
            race.start(entrant, sides[entrant.side].workload, leave_out=(JOB, STAGES))
        else:
            race.start(entrant, workload, leave_out=(STAGES,))


def _unfit(entrant: Entrant, prepared: Prepared) -> str:
    """Why an entrant is not worth starting; empty when it is."""
    if prepared.device == "cpu" and entrant.precision == "bfloat16" and not bfloat16_is_native():
        return "this processor has no bfloat16 and emulates it"
    if entrant.kind != PEER:
        return ""
    task = prepared.head.task
    return prepared.why_not_comparable or ("" if task in entrant.tasks else f"not compared on {task}")


def _start_teams(race: Race, prepared: Prepared, workload: Workload, lengths: NDArray[np.int64]) -> None:
    """One process for each thread, for each precision of ours that runs."""
    for standing in list(race.standings):
        entrant = standing.entrant
        if entrant.kind != OURS or standing.status != MEASURED or workload.threads < 2:
            continue
        parts = prepared.deal(workload, lengths, workload.threads)
        members = [Contestant(part.scratch / f"{entrant.name}.log", threads=1) for part in parts]
        name = f"{entrant.name}-processes"
        team = race.start(replace(entrant, name=name), parts[0], leave_out=(STAGES, JOB), runner=Team(members, parts))
        team.about["team"] = len(members)
        team.outputs = None  # each member has some of the documents


def _affordable(limit: Standing, prepared: Prepared, entrants: Sequence[Entrant], options: BenchOptions) -> int:
    """How many documents everybody can compute in each round within the budget."""
    if not limit.passes:
        return MIN_DOCUMENTS
    rates = {name: max(found.values()) for name, found in limit.passes[LIMIT][0].facts["rates"].items()}
    lengths = prepared.candidates.lengths
    flops = sum(forward_flops(prepared.model_config, lengths, first_only=False).values())
    known = [entrant for entrant in entrants if not entrant.missing() and not _unfit(entrant, prepared)]
    passes = sum(entrant.cost for entrant in known) * (options.rounds + 1)
    left = max(0.1 * options.budget_s, options.budget_s - _LOAD_S * len(known))
    return affordable_documents(rates, flops / len(lengths), passes=passes, budget_s=left, device=prepared.device)
