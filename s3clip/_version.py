"""The version of this package, alone, so that every room may say it."""

__version__ = "0.1.0"
