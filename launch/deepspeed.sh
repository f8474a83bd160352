#!/usr/bin/env bash
# One training run with ZeRO, under the deepspeed launcher:
#     launch/deepspeed.sh [--hostfile FILE] CONFIG.yaml [key=value ...]
# FILE: DeepSpeed's form, a line `HOST slots=N` each; the hosts share the filesystem. Without it the run is on this
# machine, NPROC ranks (default: all GPUs, or one). Variables as for launch/multinode.sh.
set -euo pipefail

hostfile=
if [ "${1:-}" = --hostfile ]; then
    hostfile="${2:-}"
    shift "$(($# < 2 ? $# : 2))"
fi
if [ "$#" -eq 0 ]; then
    echo "usage: [NPROC=N] launch/deepspeed.sh [--hostfile FILE] CONFIG.yaml [key=value ...]" >&2
    exit 2
fi
if [ -n "$hostfile" ] && [ ! -f "$hostfile" ]; then
    echo "no hostfile $hostfile: it has a line 'HOST slots=N' for each host" >&2
    exit 2
fi

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ ! -d /proc/driver/nvidia/gpus ]; then
    export DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}"
    NPROC="${NPROC:-1}"
fi
if [ -n "$hostfile" ]; then
    # Not DeepSpeed's own way over ssh: that needs pdsh, and leaves ranks behind when the connection ends.
    where=(--hostfile "$(realpath "$hostfile")" --no_ssh --node_rank={node_rank} --master_addr={master_addr})
else
    where=(--hostfile /dev/null ${NPROC:+--num_gpus="$NPROC"})
fi

exec "$python" -m scaledl.launch.hosts "${hostfile:-localhost}" -- \
    "$python" -m deepspeed.launcher.runner --log_level=critical "${where[@]}" --master_port={master_port} \
    --no_python --no_local_rank \
    scaledl train "$@" trainer.strategy=deepspeed
