"""Compare ways to classify on the same images. Nothing in the rest of the package imports this one."""

from s3clip.evaluation.comparison import compare, compare_embeddings
from s3clip.evaluation.methods import METHODS
from s3clip.evaluation.report.comparison import Comparison, Difference, MethodScores

__all__ = ["METHODS", "Comparison", "Difference", "MethodScores", "compare", "compare_embeddings"]
