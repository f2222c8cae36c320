"""Benchmarks times heads: encoded once, scored from disk."""
