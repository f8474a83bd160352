#!/usr/bin/env bash
# One search on several hosts, Ray on each over ssh:  launch/ray.sh HOSTS CONFIG.yaml --trials 64 [key=value ...]
# HOSTS: n1,n2 or n1:8,n2:8 (CPUs for Ray on each; default: all), or a hostfile with a line `HOST [slots=N]` each.
# `scaledl tune` runs on the first one. The hosts share the filesystem: this folder, the environment and the runs have
# the same path on all. Ray is private to this search: it has a token of its own, and nothing of it is left afterwards.
# Variables: SCALEDL_SSH ("ssh -p 2222"), SCALEDL_GRACE_SECONDS (for trials to save, 60).
# A stop signal stops the search, which the same command with run.id=ID goes on with; a host that is lost only costs
# the trials on it, unless it is the first.
set -euo pipefail

if [ "$#" -lt 2 ]; then
    echo "usage: launch/ray.sh HOST,HOST|HOSTFILE CONFIG.yaml [--trials N] [key=value ...]" >&2
    exit 2
fi

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
hosts="$1"
shift

exec "$python" -m scaledl.launch.ray_hosts "$hosts" -- scaledl tune "$@" --address {address}
