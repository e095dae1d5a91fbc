"""The Ray executor: actors that each pin a device. The only home of ``ray`` in the engine."""

from distilbatch.engine.actors.executor import RayExecutor
from distilbatch.engine.actors.slots import cluster_capacity

__all__ = ["RayExecutor", "cluster_capacity"]
