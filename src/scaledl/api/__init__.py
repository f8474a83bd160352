"""The verbs as functions: what the commands call, and what a notebook calls.

Lightning, torch-pruning and the rest are imported by the verb that needs them: evaluating a file needs none of them.
"""

from scaledl.api.files import bench, evaluate, export, report, verify
from scaledl.api.results import write_evaluation
from scaledl.api.running import chain, compress, train

__all__ = ["bench", "chain", "compress", "evaluate", "export", "report", "train", "verify", "write_evaluation"]
