"""Compare ways to classify on the same images. Nothing in the rest of the package imports this one."""

from s3clip.evaluation.baselines import CONTENDERS
from s3clip.evaluation.report import Comparison, ContenderScores, Difference
from s3clip.evaluation.runner import compare, compare_embeddings

__all__ = ["CONTENDERS", "Comparison", "ContenderScores", "Difference", "compare", "compare_embeddings"]
