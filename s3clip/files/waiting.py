"""How long a server asks to be left alone."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def seconds_to_wait(retry_after: str | None) -> float | None:
    """Read the header Retry-After: seconds, or a date of HTTP; None where it is neither."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\s*-?\d+\s*", retry_after):
        return max(0.0, float(retry_after.strip()[:20]))  # more digits are more than is waited for, too
    try:
        date = parsedate_to_datetime(retry_after)
        date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (IndexError, OverflowError, TypeError, ValueError):  # of a date that is none, or in no year
        return None
