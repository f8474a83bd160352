#!/usr/bin/env bash
# Made by: scaledl launch slurm configs/resnet.yaml
#SBATCH --job-name=digits
#SBATCH --nodes=1
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --ntasks-per-node=1

set -- configs/resnet.yaml

# One training:  sbatch slurm/train.sh CONFIG.yaml [key=value ...]
set -euo pipefail

srun scaledl train "$@"
