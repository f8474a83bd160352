"""`python two_nodes.py VERB …`: scaledl, whose private Ray has two raylets of one CPU each on this machine."""

from __future__ import annotations

import sys

from scaledl.cli import main
from scaledl.distributed.ray import local_ray
from scaledl.tune import place

if __name__ == "__main__":
    place.local_ray = lambda cpus, gpus: local_ray(1, num_nodes=2)
    sys.exit(main(sys.argv[1:]))
