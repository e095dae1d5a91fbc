"""The Ray executor: actors that each pin a device. The only home of ``ray`` in the engine."""

from distilbatch.engine.actors.executor import RayExecutor

__all__ = ["RayExecutor"]
