"""Labelled sets of pictures, opened."""
