"""Open-vocabulary segmentation: the head on every patch of a picture."""
