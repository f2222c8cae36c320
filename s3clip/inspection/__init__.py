"""What the space made of every class: reports, warnings, a page to browse, pictures."""

from s3clip.inspection.reports import ClassReport, TextReport, inspect_head

__all__ = ["ClassReport", "TextReport", "inspect_head"]
