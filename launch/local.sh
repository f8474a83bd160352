#!/usr/bin/env bash
# One training run on this machine:  launch/local.sh CONFIG.yaml [key=value ...]
# Works from any folder; a relative CONFIG is looked up from where you are.
set -euo pipefail

if [ "$#" -eq 0 ]; then
    echo "usage: launch/local.sh CONFIG.yaml [key=value ...]" >&2
    exit 2
fi

project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [ -n "${SCALEDL_VENV:-}" ] || [ -d "$project/.venv" ]; then
    venv="${SCALEDL_VENV:-$project/.venv}"
    if [ ! -x "$venv/bin/scaledl" ]; then
        echo "no scaledl in $venv: make it with 'make demo', or set SCALEDL_VENV to the right environment" >&2
        exit 2
    fi
    # shellcheck source=/dev/null
    . "$venv/bin/activate"
elif ! command -v scaledl >/dev/null; then
    echo "no .venv in $project and no scaledl on PATH: run 'make demo' there, or set SCALEDL_VENV" >&2
    exit 2
fi

exec scaledl train "$@"
