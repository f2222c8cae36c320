"""Step 3: the mathematics of a space and its metrics: tensors in, tensors out."""

from s3clip.space.metrics import METRICS
from s3clip.space.rips import chordal_distances, death_times
from s3clip.space.scale_rules import SCALE_RULES

__all__ = ["METRICS", "SCALE_RULES", "chordal_distances", "death_times"]
