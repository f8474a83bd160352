"""The verbs as functions: what the commands call, and what a notebook calls.

Lightning, torch-pruning and the rest are imported by the verb that needs them: evaluating a file needs none of them.
"""

from scaledl.api.datasets import Suspect, audit, changed_files, describe_data, open_data, prepare_data, preview
from scaledl.api.files import bench, evaluate, export, report, verify
from scaledl.api.finding import find_batch_size, find_lr
from scaledl.api.generating import Continuation, Drawing, generate
from scaledl.api.results import write_evaluation
from scaledl.api.running import chain, compress, train
from scaledl.api.searching import tune

__all__ = [
    "Continuation",
    "Drawing",
    "Suspect",
    "audit",
    "bench",
    "chain",
    "changed_files",
    "compress",
    "describe_data",
    "evaluate",
    "export",
    "find_batch_size",
    "find_lr",
    "generate",
    "open_data",
    "prepare_data",
    "preview",
    "report",
    "train",
    "tune",
    "verify",
    "write_evaluation",
]
