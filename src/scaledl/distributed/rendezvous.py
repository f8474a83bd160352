"""How the ranks of a launch find each other: one store that all of them can reach, or the reason why there is none.

A port that the launcher fixed is used as PyTorch does it: rank 0 listens there, or torchrun's agent already does.
Without one, rank 0 listens where it can and says hello on one of a few ports that follow from the launch (`hello`).
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from scaledl.distributed.environment import ClusterSpec
from scaledl.distributed.exchange import collect, get, has, hear, pauses, put, rule
from scaledl.distributed.hello import Hello, ask, candidate_ports
from scaledl.distributed.missing import describe_missing
from scaledl.distributed.network import LOOPBACK, addresses_of, interface_towards, is_loopback, slurm_address
from scaledl.distributed.port_owner import owner_of_port
from scaledl.errors import ScaledlError, UsageError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_ROUND = "scaledl/round"
_HERE = "here"
_LATENESS_SECONDS = 10.0  # rank 0 tells what it found after its own deadline


def open_store(spec: ClusterSpec, timeout_seconds: float) -> Store:
    """The store that all ranks of the launch share, when all are there; fresh, also where torchrun keeps one for long.

    Raises UsageError: the master does not resolve, the fixed port is taken. ScaledlError: rank 0 cannot be reached, or
    ranks did not appear in time; rank 0 names them.
    """
    if spec.world_size == 1:
        alone: Store = _stores().HashStore()
        return alone
    deadline = time.monotonic() + timeout_seconds
    address = master_address(spec)
    with ExitStack() as meeting:
        if _agent_serves(spec):
            store = _join_fixed(spec, address, deadline)
        elif spec.rank == 0:
            store = _host(spec, address, meeting)
        else:
            store = _join(spec, address, deadline)
        store.set_timeout(timedelta(seconds=timeout_seconds))
        return _come_together(spec, store, deadline, timeout_seconds)


def master_address(spec: ClusterSpec) -> str:
    """The IP address at which the ranks meet, as seen from here. Raises UsageError when the name means nothing."""
    if spec.num_nodes == 1 and spec.master_addr in spec.nodes:
        return LOOPBACK
    name = spec.master_addr
    try:
        return addresses_of(name)[0]
    except OSError as error:
        problem = error.strerror or str(error)
    known_to_slurm = slurm_address(name) if name in spec.nodes else None
    if known_to_slurm is not None:
        try:
            return addresses_of(known_to_slurm)[0]
        except OSError as error:
            problem = f"{problem}, nor does its address in Slurm, {known_to_slurm}: {error.strerror or error}"
    what = "the job's first node, where rank 0 runs" if name in spec.nodes else "MASTER_ADDR"
    raise UsageError(
        f"{what}: got {name!r}, which does not resolve on {socket.gethostname()}: {problem}; "
        "set MASTER_ADDR to the IP address of rank 0's machine, or add the name to /etc/hosts on every node"
    )


def _agent_serves(spec: ClusterSpec) -> bool:
    """Whether torchrun's agent has a store at the master's address: then every rank only connects to it."""
    return (
        spec.launcher == "env"
        and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
        and os.environ.get("MASTER_PORT") == str(spec.master_port)
    )


# Rank 0


def _host(spec: ClusterSpec, address: str, meeting: ExitStack) -> Store:
    reachable = "" if is_loopback(address) and spec.num_nodes > 1 else address
    if spec.master_port is not None:
        return _serve(_listen_on_fixed(reachable, spec.master_port))
    greeter = _listen_on_first_free(reachable, candidate_ports(spec.launch_id))
    meeting.callback(greeter.close)
    listener = _listen(reachable, 0)
    port = listener.getsockname()[1]
    store = _serve(listener)
    meeting.enter_context(Hello(greeter, spec.launch_id, port))
    return store


def _serve(listener: socket.socket) -> Store:
    """A store in this process on that socket, which from now on belongs to it."""
    host, port = listener.getsockname()[:2]
    store: Store = _stores().TCPStore(
        LOOPBACK if host in ("0.0.0.0", "::") else host,  # noqa: S104  how a socket that listens everywhere shows it
        port,
        None,
        True,
        timedelta(seconds=60),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    return store


def _listen_on_fixed(address: str, port: int) -> socket.socket:
    try:
        return _listen(address, port)
    except PermissionError as error:
        raise UsageError(f"MASTER_PORT: got {port}; allowed: a port above 1023, others need rights") from error
    except OSError as error:
        raise UsageError(
            f"MASTER_PORT: {port} is in use on {socket.gethostname()} by {owner_of_port(port)}; "
            "name a free one, or unset it under Slurm, where the ranks find one themselves"
        ) from error


def _listen_on_first_free(address: str, ports: list[int]) -> socket.socket:
    for port in ports:
        try:
            return _listen(address, port)
        except OSError:
            continue
    raise ScaledlError(
        f"all ports that the ranks could meet on are in use on {socket.gethostname()}: {', '.join(map(str, ports))} "
        f"(the first by {owner_of_port(ports[0])}); set MASTER_PORT to a free one"
    )


def _listen(address: str, port: int) -> socket.socket:
    """At this address, where it is one of this machine; else (behind a translation of addresses) at all of them."""
    import errno

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=1024)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
    return socket.create_server(("", port), backlog=1024)


# The others


def _join(spec: ClusterSpec, address: str, deadline: float) -> Store:
    if spec.master_port is not None:
        return _join_fixed(spec, address, deadline)
    ports = candidate_ports(spec.launch_id)
    problem = ""
    for _ in pauses(deadline):
        port, new_problem = ask(address, ports, spec.launch_id, deadline)
        if port is not None:
            return _connect(address, port, deadline, spec)
        problem = new_problem or problem
    shown = f"ports {ports[0]}, {ports[1]} and {len(ports) - 2} more from {min(ports)} to {max(ports)}"
    raise _unreachable(spec, address, shown, problem)


def _join_fixed(spec: ClusterSpec, address: str, deadline: float) -> Store:
    assert spec.master_port is not None, "a launcher that sets the ranks sets a port"
    problem = ""
    for _ in pauses(deadline):
        try:
            socket.create_connection(
                (address, spec.master_port), max(0.1, min(5.0, deadline - time.monotonic()))
            ).close()
            return _connect(address, spec.master_port, deadline, spec)
        except OSError as error:
            problem = "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
    raise _unreachable(spec, address, f"port {spec.master_port}", problem)


def _connect(address: str, port: int, deadline: float, spec: ClusterSpec) -> Store:
    """A client of the store there. Against something else that listens, torch's client waits for ever, so it waits
    in a thread that can be left behind."""
    result: list[Any] = []

    def connect() -> None:
        try:
            patience = timedelta(seconds=max(1.0, deadline - time.monotonic()))
            result.append(_stores().TCPStore(address, port, None, False, patience, wait_for_workers=False))
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=connect, name="torch-store-client", daemon=True)
    thread.start()
    for _ in pauses(deadline):
        if not thread.is_alive():
            break
    found = result[0] if result else TimeoutError("it does not speak as a store does")
    if isinstance(found, Exception):
        problem = str(found).partition("\n")[0][:200]
        raise _unreachable(spec, address, f"port {port}", f"something listens there, but {problem}") from found
    return found  # type: ignore[no-any-return]


def _unreachable(spec: ClusterSpec, address: str, ports: str, problem: str) -> ScaledlError:
    here = spec.host
    way = interface_towards(address)
    via = f" through {way}" if way else ""
    where = address if address == spec.master_addr else f"{spec.master_addr} ({address})"
    hint = ""
    if is_loopback(address) and spec.num_nodes > 1 and spec.node_rank > 0:
        hint = (
            f". On {here}, {spec.master_addr} means this machine itself: correct /etc/hosts, or set "
            "MASTER_ADDR to the IP address of rank 0's machine"
        )
    return ScaledlError(f"rank {spec.rank} on {here} could not reach rank 0 at {where}, {ports}{via}: {problem}{hint}")


# Together


def _come_together(spec: ClusterSpec, store: Store, deadline: float, timeout_seconds: float) -> Store:
    """A part of the store that belongs to this start alone: torchrun's store outlives restarts, with all that is in it.

    Rank 0 opens a round, and closes it before it tells who is in. So a round that is open is that of this start, or of
    one whose rank 0 died in it, and then another will be opened.
    """
    me = {"node": spec.node_rank, "host": spec.host}
    if spec.rank == 0:
        name = secrets.token_hex(8)
        room = part_of(store, f"scaledl/{name}")
        put(room, f"{_HERE}/0", me)
        put(store, _ROUND, name)
        here = collect(room, _HERE, spec.world_size, deadline)
        put(store, _ROUND, "")
        rule(room, _HERE, here, lambda here: _all_or_error(spec, here, timeout_seconds))
        return room
    found = _enter(store, spec.rank, me, deadline + _LATENESS_SECONDS)
    if found is None:
        raise ScaledlError(
            f"rank {spec.rank} on {me['host']} reached the store at {spec.master_addr}, but rank 0 did not appear "
            f"there within {timeout_seconds:g} s"
        )
    hear(found, _HERE, spec.rank, deadline)
    return found


def _enter(store: Store, rank: int, me: dict[str, Any], deadline: float) -> Store | None:
    """The room of a round in which rank 0 has told who is in."""
    name, room = "", store
    for _ in pauses(deadline):
        if name and has(room, [f"{_HERE}/verdict"]):
            return room
        current = get(store, _ROUND) if has(store, [_ROUND]) else ""
        if current and current != name:
            name, room = current, part_of(store, f"scaledl/{current}")
            put(room, f"{_HERE}/{rank}", me)
    return None


def part_of(store: Store, name: str) -> Store:
    """A store of its own within another one."""
    part: Store = _stores().PrefixStore(name, store)
    return part


def _stores() -> Any:
    """torch's, of which its type information does not speak."""
    from torch import distributed

    return distributed


def _all_or_error(spec: ClusterSpec, here: dict[int, Any], timeout_seconds: float) -> None:
    if len(here) < spec.world_size:
        raise ScaledlError(f"{describe_missing(spec, here)} did not appear within {timeout_seconds:g} s")
