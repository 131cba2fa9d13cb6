"""clampd: a path MTU of its own for every peer of a Linux gateway."""

__version__ = "0.1.0"
