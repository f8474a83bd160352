# Sourced by the scripts beside it. Leaves the name of an interpreter that knows scaledl in $python.
# shellcheck shell=bash

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

# The interpreter beside the command; one that was installed for a user alone has none there.
python="$(dirname "$(command -v scaledl)")/python"
[ -x "$python" ] || python=python3
