"""This process as a driver of a Ray: quiet, with the right token, and with its signal handlers and variables kept."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from scaledl.distributed.ray.wrappers import wants_logs
from scaledl.errors import ScaledlError, UsageError

HEALTH_SECONDS = 60.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@contextmanager
def variables(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set, or with None unset, while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def connected(address: str) -> Iterator[None]:
    """`ray.init` and, in the end, `ray.shutdown`."""
    import ray

    if ray.is_initialized():
        raise UsageError("this process is connected to a Ray already; call ray.shutdown() first")
    _read_variables_again()
    level = logging.INFO if wants_logs() else logging.ERROR
    with _silenced():
        try:
            try:
                with _kept_handlers():
                    ray.init(address, logging_level=level, log_to_driver=wants_logs())
            except (ConnectionError, RuntimeError, TimeoutError) as error:
                raise ScaledlError(
                    f"Ray at {address} cannot be used: {str(error).strip().partition(chr(10))[0]}"
                ) from error
            yield
        finally:
            with _kept_handlers():
                ray.shutdown()


def _read_variables_again() -> None:
    """Ray reads RAY_AUTH_* once, when it is imported, and keeps the token."""
    from ray import _raylet

    inner: Any = _raylet
    with suppress(AttributeError, TypeError):
        inner.Config.initialize("")
        inner.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _silenced() -> Iterator[None]:
    """A thread of Ray prints what becomes of workers and raylets, to standard output, whatever was asked for."""
    from ray._private import worker

    shown = getattr(worker, "print_to_stdstream", None)
    if shown is None or wants_logs():
        yield
        return
    worker.print_to_stdstream = lambda *args, **kwargs: None
    try:
        yield
    finally:
        worker.print_to_stdstream = shown


@contextmanager
def _kept_handlers() -> Iterator[None]:
    """Ray puts a handler of SIGTERM in the place of ours, which saves."""
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            with suppress(ValueError, TypeError):  # not the main thread; a handler that is not Python's
                signal.signal(signum, handler)


def check_health(num_nodes: int) -> None:
    """Whether Ray can place something on every node. Raises ScaledlError that says which nodes it sees."""
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([{"CPU": 0.001}] * num_nodes, strategy="STRICT_SPREAD")
    try:
        if not group.wait(HEALTH_SECONDS):
            names = ", ".join(node["NodeName"] for node in living_nodes())
            raise ScaledlError(f"Ray should have {num_nodes} nodes, but within {HEALTH_SECONDS:g} s only has: {names}")
    finally:
        remove_placement_group(group)


def living_nodes() -> list[dict[str, Any]]:
    """As Ray lists them, the head first."""
    import ray

    list_nodes: Any = ray.nodes
    nodes = [node for node in list_nodes() if node["Alive"]]
    return sorted(nodes, key=lambda node: "node:__internal_head__" not in node["Resources"])
