#!/usr/bin/env bash
#SBATCH --job-name=scaledl
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#
# One training on one node or many:  sbatch [OPTION ...] slurm/train.sh CONFIG.yaml [key=value ...] [--then compress]
#
#   sbatch --nodes=4 slurm/train.sh configs/resnet.yaml optimizer.lr=0.1
#   sbatch --nodes=2 --gpus-per-node=4 --cpus-per-task=32 slurm/train.sh configs/resnet.yaml
#
# A node gets one rank for each of its GPUs, which share the CPUs; without GPUs, --ntasks-per-node says how many.
# Two minutes before the time is up, or when the job is preempted, the ranks save and leave, and the job is requeued: it
# keeps its id, which is the run's, and so goes on where it was. A rank that dies has the same effect.
# --then compress submits slurm/compress.sh for the run, to start when it is complete; the recipe is the config's, or
# that of --method or --recipe. What else can be set stands at the top of slurm/common.sh.
set -euo pipefail

# sbatch runs a copy of this file from its spool folder: $0 says nothing about the project.
project="${SLURM_SUBMIT_DIR:-$(cd "$(dirname "$0")/.." && pwd)}"
if [ "$#" -eq 0 ]; then
    echo "usage: sbatch slurm/train.sh CONFIG.yaml [key=value ...] [--then compress]" >&2
    exit 2
elif [ ! -r "$project/slurm/common.sh" ]; then
    echo "no slurm/common.sh in $project: submit from the project's folder" >&2
    exit 2
fi
cd "$project"
. slurm/common.sh
. slurm/next.sh

take_next "$@"
[ -z "$next" ] || submit_next
run_job train "${arguments[@]}"
