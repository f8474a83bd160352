#!/usr/bin/env bash
# One training run on several hosts, torchrun on each over ssh:  launch/multinode.sh HOSTS CONFIG.yaml [key=value ...]
# HOSTS: n1,n2 or n1:4,n2:4 (ranks on each), or a hostfile with a line `HOST [slots=N]` each. The first one is the
# master. The hosts share the filesystem: this folder, the environment and the runs have the same path on all.
# Variables: NPROC (ranks on each host; default: its GPUs, or one), SCALEDL_SSH ("ssh -p 2222"), MASTER_PORT,
# MASTER_ADDR (of the first host, where the others know it by another name), SCALEDL_GRACE_SECONDS (to save, 60).
# A stop signal goes to all ranks. When a host fails, or the connection to it ends, all stop; nothing is left behind.
set -euo pipefail

if [ "$#" -lt 2 ]; then
    echo "usage: [NPROC=N] launch/multinode.sh HOST,HOST|HOSTFILE CONFIG.yaml [key=value ...]" >&2
    exit 2
fi

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
hosts="$1"
shift

exec "$python" -m scaledl.launch.hosts "$hosts" -- \
    "$python" -m scaledl.launch.torchrun --nnodes={num_nodes} --node-rank={node_rank} --nproc-per-node={nproc} \
    --rdzv-backend=static --master-addr={master_addr} --master-port={master_port} --no-python \
    scaledl train "$@"
