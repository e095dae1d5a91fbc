"""The engine: the order of the stages, the executors, and the driver that plans, dispatches and commits."""
