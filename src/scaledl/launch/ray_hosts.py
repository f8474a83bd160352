"""Ray over hosts by ssh, and one command that uses it: `python -m scaledl.launch.ray_hosts HOSTS -- COMMAND ...`

HOSTS is as for `scaledl.launch.hosts`; the slots of a host are the CPUs that Ray may use there (all, where none are
given). The command runs on the first host, with {address} filled in, and the exit code is its own. All hosts share the
filesystem. When the command ends, or this process, nothing of it is left.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from scaledl.console import get_console
from scaledl.distributed.ray import require_ray
from scaledl.distributed.ray.wrappers import NODE_PROGRAM, OWN_ENVIRONMENT, Wrappers
from scaledl.errors import ScaledlError, UsageError
from scaledl.launch.host_list import Host, parse_hosts
from scaledl.launch.hosts import filled, run_everywhere
from scaledl.launch.ssh import check_hosts, plain_command, shell_of


def run_over_ray(hosts: Sequence[Host], command: Sequence[str]) -> int:
    """Bring Ray up on the hosts, run the command on the first, take Ray down. Returns the command's exit code."""
    require_ray()
    check_hosts(hosts, Path.cwd(), sys.executable)
    names = [host.name.rpartition("@")[2] for host in hosts]
    with closing(Wrappers(_commands(hosts), names, os.environ)) as wrappers:
        wrappers.start(cpus=[host.slots for host in hosts])
        get_console().info(f"Ray runs on {', '.join(names)}")
        settings = {**OWN_ENVIRONMENT, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": wrappers.token_file}
        given = ["env", *(f"{name}={value}" for name, value in settings.items())]
        code = run_everywhere(hosts[:1], [*given, *filled(command, {"address": wrappers.address})])
        lost = wrappers.fail_reason()
        if lost is not None:
            get_console().warn(lost)
    return code


def _commands(hosts: Sequence[Host]) -> list[list[str]]:
    folder, python = Path.cwd(), sys.executable
    return [
        shell_of(host, plain_command([*NODE_PROGRAM, str(index)], os.environ, folder, python))
        for index, host in enumerate(hosts)
    ]


def main(argv: Sequence[str]) -> int:
    try:
        if len(argv) < 3 or argv[1] != "--":
            raise UsageError("usage: python -m scaledl.launch.ray_hosts HOSTS -- COMMAND ...")
        return run_over_ray(parse_hosts(argv[0]), argv[2:])
    except KeyboardInterrupt:
        return 130
    except ScaledlError as error:
        get_console().error(str(error))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
