"""Training: one function that every verb, stage and trial goes through."""

from scaledl.train.fit import FitResult, fit

__all__ = ["FitResult", "fit"]
