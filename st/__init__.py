"""Search-and-Train: compress a trained CNN by searching its structure and training that anew."""

__version__ = "0.1.0"
