"""ofa-edge: train one Once-for-All supernet, then give every device the best subnet it can run."""

__version__ = "0.1.0"
