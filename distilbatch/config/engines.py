"""The engine of a config: where the work runs and how much of the machine it takes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distilbatch.config.fields import AutoInt, AutoNumber, Device, GpuShare, Number, Section

__all__ = ["Engine"]


class Engine(Section):
    """How the work is executed. None of it but the precision can change a result.

    Both types take every key, so that one config serves both (``-s engine.type=local``).

    Args:
        type: ``local`` is one process without Ray; ``ray`` an actor for each device slot of a cluster.
        device: Where the model runs; ``auto`` takes a GPU where there is one.
        precision: Number format of the forward pass. ``auto`` tries the fast ones on a sample of the job's documents
            and takes the fastest that gives the labels of float32; see ``min_agreement``.
        min_agreement: Least share of sampled rows that must keep the labels of float32: 0.999 where ``precision`` is
            ``auto``. Set, it is asked of any other precision too, and the job is refused below it.
        max_batch_tokens: Tokens of a token batch, at most; ``auto`` takes what suits the device, on a GPU what its
            free memory holds.
        compile: On a GPU: let ``torch.compile`` fuse the layers around attention, which takes about a minute at start.
        sort_buffer_rows: Documents that are sorted by length together; also a bound on memory.
        shard_rows: Rows of a shard, at most; ``auto`` aims at some minutes of work, and at several shards of a
            small table.
        threads: Threads of the forward pass in each process.
        shutdown_grace_s: Seconds that shards in flight get to finish after a signal.
        hang_timeout_s: Seconds after which a worker hangs of which nothing came, not even a token batch: its stacks go
            to the log; on Ray it is replaced, and a row that does it again becomes an error row, and locally the run
            ends. 0 and null wait for ever. Loading models does not count.
        actors: Ray: how many; ``auto`` fills the cluster.
        cpus_per_actor: Ray: CPUs each one reserves; ``auto`` leaves none idle.
        gpus_per_actor: Ray: GPUs each one reserves; a fraction shares a GPU.
        address: Ray: ``auto`` or ``host:port`` of a cluster; None starts one here unless ``RAY_ADDRESS`` is set.
        max_worker_deaths: Ray: dead actors that are replaced before the run stops.
        in_flight_per_actor: Ray: shards that an actor works on at a time.
    """

    type: Literal["local", "ray"] = "local"
    device: Device = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    min_agreement: Annotated[float, Number(minimum=0, maximum=1, whole=False)] | None = None
    max_batch_tokens: Annotated[int | Literal["auto"], Number(minimum=16, auto=True)] = "auto"
    compile: bool = False
    sort_buffer_rows: Annotated[int, Number(minimum=1)] = 4096
    shard_rows: AutoInt = "auto"
    threads: AutoInt = "auto"
    shutdown_grace_s: Annotated[float, Number(minimum=0, whole=False)] = 30.0
    hang_timeout_s: Annotated[float, Number(minimum=0, whole=False)] | None = 1800.0
    actors: AutoInt = "auto"
    cpus_per_actor: AutoNumber = "auto"
    gpus_per_actor: GpuShare = "auto"
    address: Annotated[str, Field(min_length=1)] | None = None
    max_worker_deaths: Annotated[int, Number(minimum=0)] = 20
    in_flight_per_actor: Annotated[int, Number(minimum=1)] = 2
