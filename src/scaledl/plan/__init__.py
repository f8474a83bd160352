"""What a training will need, before it runs: memory of a rank and wall time, for any layout of ranks.

Measured: a rank's steps, validation, checkpoint and final evaluation, with its share of the batch and of the CPUs, in a
process of its own that trains as `scaledl train` does. Computed from that: what ranks share or exchange.
"""

from scaledl.plan.estimate import Estimate, Plan, plan
from scaledl.plan.layout import Layout

__all__ = ["Estimate", "Layout", "Plan", "plan"]
