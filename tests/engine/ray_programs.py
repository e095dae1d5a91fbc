"""Programs that the Ray tests run in processes of their own, to kill them or to give them another cluster.

ray_programs.py drive CONFIG [N]    one run (of N rows), told on stdout as JSON lines; SIGTERM stops it
ray_programs.py gpus CONFIG         a run on two logical GPUs, and one that shares a GPU
ray_programs.py two-nodes CONFIG    a run on a cluster of two nodes that it joins, one of which goes down
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import ray
from ray._private import state
from ray.cluster_utils import Cluster

import distilbatch
from distilbatch.engine.driver import Progress
from distilbatch.errors import DistilbatchError


def tell(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


class Report(Progress):
    """Tells what happens, with the process id and the GPUs of workers that start."""

    commits = 0

    def shard_committed(self, result):
        self.commits += 1
        tell(kind="committed", shard=result.index, pid=int(result.metrics["pid"]))

    def event(self, event):
        words = re.search(r"worker (\d+)(?:, GPU (.*))?$", event.message) if event.kind == "started" else None
        tell(kind=event.kind, message=event.message, pid=int(words[1]) if words else None, gpu=words and words[2])


def drive(config: dict[str, Any]) -> int:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        limit = int(sys.argv[3]) if len(sys.argv) > 3 else None
        report = distilbatch.run(config, limit=limit, progress=Report(), stop=stop)
    except DistilbatchError as error:
        tell(kind="error", error=type(error).__name__, message=str(error))
        return error.exit_code
    tell(kind="done", rows=report.num_rows, this_attempt=report.rows_this_attempt)
    return 0


MEETING = """
import os, pathlib, time
from distilbatch import Pipeline, TextClassification

def before(batch):
    folder = pathlib.Path({folder!r})
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < {workers}:
        time.sleep(0.05)
    return batch

PIPELINE = Pipeline(annotate=[TextClassification(name="topic")], before=before)
"""


def gpus(config: dict[str, Any]) -> int:
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    sink, model = config["sink"]["path"], config.pop("annotate")[0]["model"]
    for name, share, workers in (("whole", 1, 2), ("shared", 0.5, 3)):
        tell(kind="run", name=name)
        config["sink"]["path"] = f"{sink}-{name}"
        config["engine"] |= {"gpus_per_actor": share, "cpus_per_actor": 0.5, "actors": 3}
        # No worker begins before all have started, or the run might be over.
        pipeline = Path(f"{sink}-{name}.py")
        pipeline.write_text(MEETING.format(folder=f"{sink}-{name}-met", workers=workers))
        distilbatch.run({**config, "pipeline": str(pipeline), "models": {"topic": model}}, progress=Report())
    return 0


def two_nodes(config: dict[str, Any]) -> int:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address

    class LoseANode(Report):
        def shard_committed(self, result):
            super().shard_committed(result)
            if self.commits == 3:
                tell(kind="nodes", alive=_alive(), actors=_actor_nodes())
                cluster.remove_node(second, allow_graceful=False)

    distilbatch.run(config, progress=LoseANode())
    tell(kind="left", connected=ray.is_initialized())
    ray.init(address=cluster.address, log_to_driver=False)
    tell(kind="nodes", alive=_alive(), actors=_actor_nodes())
    ray.shutdown()
    cluster.shutdown()
    return 0


def _alive() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def _actor_nodes() -> int:
    """On how many nodes live actors are."""
    return len({actor["Address"]["NodeID"] for actor in state.actors().values() if actor["State"] == "ALIVE"})


if __name__ == "__main__":
    program = {"drive": drive, "gpus": gpus, "two-nodes": two_nodes}[sys.argv[1]]
    sys.exit(program(json.loads(Path(sys.argv[2]).read_text())))
