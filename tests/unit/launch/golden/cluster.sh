#!/usr/bin/env bash
# Made by: scaledl launch slurm configs/resnet.yaml
#SBATCH --job-name=resnet
#SBATCH --nodes=4
#SBATCH --time=2-00:00:00
#SBATCH --output=%x-%j.log
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --partition=gpu
#
# Estimated by `scaledl plan`: 12 GB of GPU memory a rank
# a note of two lines

export SCALEDL_VENV="${SCALEDL_VENV:-/opt/venv}"
set -- configs/resnet.yaml optimizer.lr=0.1 'run.name=it'"'"'s $HOME'

# One training:  sbatch slurm/train.sh CONFIG.yaml [key=value ...]
set -euo pipefail

srun scaledl train "$@"
