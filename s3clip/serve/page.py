"""The page to drop a picture on: one file, which asks the service alone."""

import re
from pathlib import Path

from s3clip.html_page import COLOURS, source_of

PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8").replace("/* colours */", COLOURS)


def _source(tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", PAGE, re.S)
    assert found  # it is our own file
    return source_of(found[1])


HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src blob:; connect-src 'self'; base-uri 'none'; "
    f"form-action 'none'; frame-ancestors 'none'; style-src {_source('style')}; "
    f"script-src {_source('script')}",
    "Referrer-Policy": "no-referrer",
}
