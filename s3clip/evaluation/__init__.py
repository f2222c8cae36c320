"""Compare ways to classify on the same images. Nothing in the rest of the package imports this one."""

from s3clip.evaluation.comparison import compare, compare_embeddings
from s3clip.evaluation.methods import CONTENDERS
from s3clip.evaluation.report.comparison import Comparison, ContenderScores, Difference

__all__ = ["CONTENDERS", "Comparison", "ContenderScores", "Difference", "compare", "compare_embeddings"]
