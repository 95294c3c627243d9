"""Figures of comparisons."""

from l2o.figures.draw import draw

__all__ = ["draw"]
