"""Data sets in memory: sources, splits, augmentation, batches."""

from scaledl.data.arrays import Arrays, Batch, DataSpec, RawData, normalize
from scaledl.data.datamodule import DataModule, build_data
from scaledl.data.loader import BatchLoader

__all__ = ["Arrays", "Batch", "BatchLoader", "DataModule", "DataSpec", "RawData", "build_data", "normalize"]
