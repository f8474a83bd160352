"""One YAML config from training to a small, verified TorchScript file."""

__version__ = "0.1.0"
