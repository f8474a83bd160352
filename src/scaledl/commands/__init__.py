"""One function per verb: from parsed arguments through the api to what the user reads. No torch before it is needed."""

from scaledl.commands.datasets import data
from scaledl.commands.doctoring import doctor
from scaledl.commands.finding import find
from scaledl.commands.generating import generate
from scaledl.commands.launching import launch, plan
from scaledl.commands.listing import listing as list
from scaledl.commands.looking import config, lineage, report, runs
from scaledl.commands.making import chain, compress, train
from scaledl.commands.measuring import bench, evaluate, export, verify
from scaledl.commands.tuning import tune

__all__ = [
    "bench",
    "chain",
    "compress",
    "config",
    "data",
    "doctor",
    "evaluate",
    "export",
    "find",
    "generate",
    "launch",
    "lineage",
    "list",
    "plan",
    "report",
    "runs",
    "train",
    "tune",
    "verify",
]
