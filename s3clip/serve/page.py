"""The page to drop a picture on: one file, which asks the service alone."""

import base64
import hashlib
import re
from pathlib import Path

PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")


def _digest(tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", PAGE, re.S)
    assert found  # it is our own file
    return base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()


HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src blob:; connect-src 'self'; base-uri 'none'; "
    f"form-action 'none'; frame-ancestors 'none'; style-src 'sha256-{_digest('style')}'; "
    f"script-src 'sha256-{_digest('script')}'",
    "Referrer-Policy": "no-referrer",
}
