"""`scaledl doctor`: what may stand in the way of a training, found before it starts."""

from scaledl.doctor.check import Check
from scaledl.doctor.examine import examine

__all__ = ["Check", "examine"]
