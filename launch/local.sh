#!/usr/bin/env bash
# One training run on this machine, under torchrun:  launch/local.sh CONFIG.yaml [key=value ...]
# Works from any folder; a relative CONFIG is looked up from where you are.
# NPROC=2 launch/local.sh ... starts two ranks; without it there is one on each GPU, or one in all.
set -euo pipefail

if [ "$#" -eq 0 ]; then
    echo "usage: [NPROC=N] launch/local.sh CONFIG.yaml [key=value ...]" >&2
    exit 2
fi

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# torchrun, with the ranks' exit code instead of a traceback, and a supervisor that leaves nothing behind.
exec "$python" -m scaledl.launch.supervise -- \
    "$python" -m scaledl.launch.torchrun --standalone --nproc-per-node="${NPROC:-devices}" --no-python \
    scaledl train "$@"
