"""Unlimited Knowledge Distillation for action recognition in dark videos, across many machines."""

__version__ = "0.1.0"
