"""Joins a Ray cluster or starts a local one that nobody outside this machine can reach."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import ray
from ray._private import services, worker

from distilbatch.config import Engine
from distilbatch.errors import SetupError

LOOPBACK = "127.0.0.1"
_CONNECT_S = 10.0
_OBJECT_STORE_BYTES = 128 << 20  # only descriptors and small results pass through it
_UNSAFE_VARIABLE = "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"

_log = logging.getLogger("distilbatch")


@contextmanager
def connected(engine: Engine) -> Iterator[None]:
    """Be connected to a cluster inside the block.

    A connection that was there before is used and left alone. Otherwise ``engine.address`` or ``RAY_ADDRESS`` is
    joined, else a local cluster is started, with its ports on the loopback interface, and ended with the block.

    Raises:
        SetupError: The cluster cannot be reached or started, or an environment variable makes Ray unsafe.
    """
    if os.environ.get(_UNSAFE_VARIABLE):
        raise SetupError(
            f"{_UNSAFE_VARIABLE} is set", found="a setting that lets a Parquet file run code", remedy="unset it"
        )
    if ray.is_initialized():
        yield
        return
    # Ray prints what it has to say about dead workers to stdout, which belongs to the program.
    with _replaced(worker, "print_to_stdstream", _log_lines):
        _connect(_address(engine))
        try:
            yield
        finally:
            ray.shutdown()


def is_there(engine: Engine) -> bool:
    """Whether :func:`connected` finds a cluster; else it starts one on this machine."""
    return bool(ray.is_initialized() or _address(engine))


def _address(engine: Engine) -> str | None:
    return engine.address or os.environ.get("RAY_ADDRESS")


def _connect(address: str | None) -> None:
    try:
        with _own_sigterm_handler():
            if address:
                _refuse_silence(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
            else:
                start_local(object_store_memory=_OBJECT_STORE_BYTES)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise SetupError(
            f"Ray cluster {address or 'on this machine'}",
            expected="a cluster to work on",
            found=f"{type(error).__name__}: {error}",
            remedy="check RAY_ADDRESS and the cluster, or set engine.type: local",
        ) from error


def _refuse_silence(address: str) -> None:
    """Knock at ``host:port`` first: Ray itself waits for many minutes for a cluster that is not there.

    Raises:
        OSError: Nobody answers.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def start_local(**options: Any) -> None:  # noqa: ANN401 - ray.init's
    """Start a cluster on this machine, with its ports on the loopback interface, and connect to it.

    Args:
        options: More of ``ray.init``.
    """
    # Ray replaces the loopback address by the machine's own, which opens its ports to the network.
    with _replaced(services, "resolve_ip_for_localhost", lambda host: host):
        ray.init(
            address="local",
            include_dashboard=False,
            dashboard_host=LOOPBACK,
            _node_ip_address=LOOPBACK,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )


def _log_lines(data: dict[str, Any], ignore_prefix: bool = False) -> None:
    _log.debug("Ray: %s", "\n".join(data["lines"]))


@contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Put the program's handler of SIGTERM back, which ``ray.init`` replaces by one that exits."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Where the program had none, Ray's is better than to die without ending the cluster.
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _replaced(module: ModuleType, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Put another function in the place of a private one of Ray, which has no setting for what it does.

    Where Ray no longer has it, Ray's own way stays.
    """
    original = getattr(module, name, None)
    if original is None:
        yield
        return
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, original)
