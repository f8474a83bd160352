#!/usr/bin/env bash
#SBATCH --job-name=scaledl
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#
# One training run on one node:  sbatch slurm/train.sh CONFIG.yaml [key=value ...]
# Options of sbatch go before the script:  sbatch --partition=gpu --gpus=1 slurm/train.sh configs/resnet.yaml
# The run's id is the Slurm job id, so the same job started again goes on where it stopped.
set -euo pipefail

if [ "$#" -eq 0 ]; then
    echo "usage: sbatch slurm/train.sh CONFIG.yaml [key=value ...]" >&2
    exit 2
fi

# sbatch runs a copy of this file from its spool folder: $0 says nothing about the project.
project="${SLURM_SUBMIT_DIR:-$(cd "$(dirname "$0")/.." && pwd)}"
cd "$project"

if [ -n "${SCALEDL_VENV:-}" ] || [ -d .venv ]; then
    venv="${SCALEDL_VENV:-$project/.venv}"
    if [ ! -x "$venv/bin/scaledl" ]; then
        echo "no scaledl in $venv: make it with 'make demo', or set SCALEDL_VENV to the right environment" >&2
        exit 2
    fi
    # shellcheck source=/dev/null
    . "$venv/bin/activate"
elif ! command -v scaledl >/dev/null; then
    echo "no .venv in $project and no scaledl on PATH: submit from the project's folder, or set SCALEDL_VENV" >&2
    exit 2
fi

# From Slurm 22.05 on, srun does not take this over from sbatch by itself.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
exec srun scaledl train "$@"
