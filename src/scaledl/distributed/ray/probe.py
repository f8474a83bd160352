"""Whether somebody's Ray answers, and lets us in: asked before `ray.init`, which would try for over a minute."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

from scaledl.distributed.network import is_local
from scaledl.errors import UsageError

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 20.0
_FORM = "allowed: HOST:PORT of the head, as `ray start --head` prints it, or auto"

# In a process of its own: Ray's C++ part writes to standard error what it thinks of the answer.
_QUESTION = """\
import json, sys, platform
import ray
from ray._raylet import GcsClient
said = {"ray": ray.__version__, "python": platform.python_version(), "address": sys.argv[1]}
try:
    if sys.argv[1] == "auto":
        from ray._private.services import canonicalize_bootstrap_address_or_die

        said["address"] = canonicalize_bootstrap_address_or_die("auto")
    client = GcsClient(address=said["address"])
    nodes = client.get_all_node_info(timeout=5).values()
    said["nodes"] = [node.node_manager_address for node in nodes if node.state == 0]
    said["theirs"] = json.loads(client.internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=5) or "{}")
except Exception as error:
    said["error"], said["message"] = type(error).__name__, str(error)
print("\\n" + json.dumps(said))
"""


def answering(address: str) -> str:
    """HOST:PORT of a Ray that can be used, also for `auto`. Raises a UsageError that says why it cannot."""
    if address != "auto":
        host, port = _split(address)
        _check_port(address, host, port)
    said = _ask(address)
    if said.get("error"):
        raise UsageError(_refusal(address, said))
    _check_version(address, said)
    if not any(is_local(node) for node in said["nodes"]):
        raise UsageError(
            f"--address: {address} is a Ray of {', '.join(sorted(set(said['nodes'])))}, and none of that is this "
            f"machine; start the search on one of its nodes, or make this one a node: ray start --address={address}"
        )
    return str(said["address"])


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--address: got {address!r}; {_FORM}")
    return host.strip("[]"), int(port)


def _check_port(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise UsageError(f"--address: nothing answers at {address}: {reason}; {_FORM}") from error


def _ask(address: str) -> dict[str, Any]:
    command = [sys.executable, "-P", "-c", _QUESTION, address]
    environ = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=ANSWER_SECONDS)
        return dict(json.loads(done.stdout.rpartition("\n{")[1].strip() + done.stdout.rpartition("\n{")[2]))
    except subprocess.TimeoutExpired:
        return {"error": "Silence", "message": f"no answer within {ANSWER_SECONDS:g} s"}
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        return {"error": "Failure", "message": last[-300:]}


def _refusal(address: str, said: dict[str, Any]) -> str:
    if said["error"] == "AuthenticationError":
        mode = os.environ.get("RAY_AUTH_MODE")
        got = "no token was given" if mode != "token" else "the token is another one"
        return (
            f"--address: the Ray at {address} refused us: {got}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to "
            "the file with its token"
        )
    if said["error"] == "ConnectionError" and address == "auto":
        return f"--address: no Ray runs on this machine; {_FORM}; leave it out for a Ray of our own"
    return f"--address: {address} does not answer as a Ray does: {said['message']}; {_FORM}"


def _check_version(address: str, said: dict[str, Any]) -> None:
    theirs = said.get("theirs") or {}
    for ours, name, key in ((said["ray"], "Ray", "ray_version"), (said["python"], "Python", "python_version")):
        if theirs.get(key, ours) != ours:
            raise UsageError(
                f"--address: the Ray at {address} runs {name} {theirs[key]}, but here it is {ours}; both have to be "
                "the same: install that version here, or leave --address out for a Ray of our own"
            )
