"""Two actors of a real Ray, each of which starts `scaledl train` as a rank: `python ray_program.py FOLDER CONFIG`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray

PROGRAM = str(Path(sys.executable).with_name("scaledl"))


@ray.remote(num_cpus=1)
class Worker:
    def address(self) -> tuple[str, int]:
        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def train(self, variables: dict[str, str], folder: str, config: str) -> dict[str, Any]:
        # As a cluster that is started inside a job of Slurm has it: they speak of Ray's own tasks.
        slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "n[1-4]"}
        environment = {**os.environ, **slurm, **variables}
        done = subprocess.run([PROGRAM, "train", config], cwd=folder, env=environment, capture_output=True, text=True)
        return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


def main(folder: str, config: str) -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temporary:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=temporary)
        try:
            workers = [Worker.remote() for _ in range(2)]
            host, port = ray.get(workers[0].address.remote())
            common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": host, "MASTER_PORT": str(port)}
            trained = [
                worker.train.remote({**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, folder, config)
                for rank, worker in enumerate(workers)
            ]
            print("RESULT " + json.dumps(ray.get(trained, timeout=120)))
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:3])
