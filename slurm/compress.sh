#!/usr/bin/env bash
#SBATCH --job-name=scaledl-compress
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#
# Shrink a trained run:  sbatch [OPTION ...] slurm/compress.sh [RUN] [--method distill,prune,qat] [key=value ...]
#
# RUN is a path, NAME, NAME/ID, or the id of the job that trained it; without one, the newest complete training run,
# which a requeued job keeps to.
# It is laid out, stopped and requeued like slurm/train.sh, and goes on within the stage where it was.
set -euo pipefail

# sbatch runs a copy of this file from its spool folder: $0 says nothing about the project.
project="${SLURM_SUBMIT_DIR:-$(cd "$(dirname "$0")/.." && pwd)}"
if [ ! -r "$project/slurm/common.sh" ]; then
    echo "no slurm/common.sh in $project: submit from the project's folder" >&2
    exit 2
fi
cd "$project"
. slurm/common.sh

run_job compress "$@"
