"""The frame of every page that is written: its head, its colours by day and by night, and what it may load.

A page brings all that it needs: it asks for nothing, and runs no script but its own.
"""

import base64
import hashlib
from html import escape

COLOURS = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --paper: #fff;
  --tint: #f6f8fa; --blue: #0969da; --red: #cf222e; --amber: #9a6700; --rust: #bc4c00; --green: #1a7f37;
  --warn: #fff1e5 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --paper: #0d1117; --tint: #151b23; --blue: #4493f8; --red: #f85149; --amber: #d29922; --rust: #db6d28;
  --green: #3fb950; --warn: #2b1d10 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
"""
"""What all pages are coloured and lettered with; a page's own style comes after it."""


def source_of(content: str) -> str:
    """Return by what a policy allows a script, or a style, of this content: 'sha256-...'."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def html_page(title: str, style: str, body: str, script: str = "") -> str:
    """Return a whole page.

    Args:
        title: as text.
        style: CSS, beside `COLOURS`.
        body: HTML; whatever comes from elsewhere is escaped in it.
        script: JavaScript, which runs last.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        policy += f"; script-src {source_of(script)}"
        body += f"\n<script>{script}</script>"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{COLOURS}{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )
