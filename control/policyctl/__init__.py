"""Publish, promote, roll back and serve reinforcement-learning policies on Triton."""

__version__ = "0.1.0"
