#!/usr/bin/env bash
#SBATCH --job-name=scaledl
#SBATCH --nodes=1
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
#SBATCH --requeue
#SBATCH --signal USR1@120
#
# One training:  sbatch slurm/train.sh CONFIG.yaml [key=value ...]
set -euo pipefail

srun scaledl train "$@"
