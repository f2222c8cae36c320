"""Label everything there is: pictures and embeddings, on one machine or on many (extra `bulk`)."""

try:
    import pyarrow  # noqa: F401
except ImportError as error:
    raise ImportError("s3clip.bulk needs pyarrow: pip install 's3clip[bulk]'") from error

from s3clip.bulk.exports import check_export, export
from s3clip.bulk.job import TooManyErrorsError, label
from s3clip.bulk.page import write_summary_page
from s3clip.bulk.sorting import check_sorting, sort_into
from s3clip.bulk.summary import Summary

__all__ = [
    "Summary",
    "TooManyErrorsError",
    "check_export",
    "check_sorting",
    "export",
    "label",
    "sort_into",
    "write_summary_page",
]
