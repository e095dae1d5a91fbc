"""How many actors go where, on clusters that are only described; test_ray.py has a real one."""

from __future__ import annotations

import pytest
import ray

from distilbatch.config import Engine
from distilbatch.engine.actors.slots import Node, Slots, describe_nodes, plan_slots
from distilbatch.errors import SetupError


@pytest.fixture
def cluster(monkeypatch):
    """Describes a cluster by the CPUs and GPUs of its nodes."""

    def describe(*nodes: tuple[float, float]) -> None:
        described = [
            {"Alive": True, "Resources": {"CPU": cpus, "node:1": 1.0} | ({"GPU": gpus} if gpus else {})}
            for cpus, gpus in nodes
        ]
        gone = {"Alive": False, "Resources": {"CPU": 1000.0, "GPU": 1000.0}}
        monkeypatch.setattr(ray, "nodes", lambda: [*described, gone])
        monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": sum(cpus for cpus, _ in nodes)})

    return describe


def plan(**engine) -> Slots:
    return plan_slots(Engine(type="ray", **engine), num_shards=10_000, text_bytes=1 << 40)


@pytest.mark.parametrize(
    ("nodes", "engine", "actors", "cpus", "gpus"),
    [
        ([(16, 0), (8, 1), (8, 1)], {}, 2, 8, 1),  # the head has no GPU, and lends none of its CPUs
        ([(96, 8), (4, 1)], {}, 9, 4, 1),
        ([(4, 8)], {}, 4, 1, 1),  # too few CPUs for all its GPUs
        ([(8, 2), (8, 2)], {"gpus_per_actor": 0.4}, 8, 2, 0.4),  # two on each, and not 2 // 0.4 on a node
        ([(20, 1)], {"gpus_per_actor": 0.1}, 10, 2, 0.1),  # 1 // 0.1 is 9
        ([(16, 3), (16, 3)], {"gpus_per_actor": 2}, 2, 16, 2),
        ([(8, 1), (8, 1)], {"cpus_per_actor": 4}, 2, 4, 1),
        ([(8, 1), (2, 1)], {"cpus_per_actor": 4}, 1, 4, 1),
        ([(8, 1), (8, 1)], {"device": "cpu"}, 4, 4, 0),
        ([(2, 0)] * 8, {}, 8, 2, 0),
        ([(3, 0)] * 8, {}, 8, 3, 0),
        ([(64, 0), (1, 0)], {}, 16, 4, 0),
        ([(0, 0), (16, 0)], {}, 4, 4, 0),
        ([(4, 0), (4, 0)], {}, 8, 1, 0),
        ([(8, 0), (8, 0)], {"cpus_per_actor": 5}, 2, 5, 0),  # sixteen CPUs in all, and yet not three
        ([(1, 0)], {"cpus_per_actor": 0.1}, 10, 0.1, 0),
    ],
    ids=str,
)
def test_every_actor_that_is_asked_for_fits_a_node(cluster, nodes, engine, actors, cpus, gpus):
    cluster(*nodes)
    assert plan(**engine) == Slots(actors, cpus, gpus, max(1, int(cpus)))


@pytest.mark.parametrize(
    ("nodes", "engine"),
    [
        ([(2, 0)] * 4, {"cpus_per_actor": 4}),
        ([(16, 0), (1, 1)], {"cpus_per_actor": 2}),
        ([(8, 1), (8, 1)], {"gpus_per_actor": 2}),
    ],
    ids=str,
)
def test_what_only_all_nodes_together_have_is_refused(cluster, nodes, engine):
    cluster(*nodes)
    with pytest.raises(SetupError, match="no actor fits into the cluster") as caught:
        plan(**engine)
    assert caught.value.found == describe_nodes([Node(*node) for node in nodes])


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_cluster_without_gpus_is_refused_where_they_are_asked_for(cluster, device):
    cluster((16, 0), (16, 0))
    with pytest.raises(SetupError) as caught:
        plan(device=device)
    error = caught.value
    assert (error.what, error.expected) == (f"engine.device {device}", "a cluster with GPUs")
    assert (error.found, "engine.device to auto or cpu" in error.remedy) == ("2 x 16 CPUs and 0 GPUs", True)
    assert [plan(device=other).gpus for other in ("auto", "cpu")] == [0, 0]
    cluster((16, 0), (16, 1))
    assert plan(device=device).gpus == 1


def test_equal_nodes_are_told_together():
    nodes = [Node(8, 1), Node(16, 0), Node(8, 1)]
    assert describe_nodes(nodes) == "2 x 8 CPUs and 1 GPUs, 16 CPUs and 0 GPUs"
