"""A serverless function for CVAT: a tag for every picture, from `s3clip serve`.

nuclio calls `handler` with what CVAT sends, a picture as base64. The environment, in function.yaml, says
where the service is (S3CLIP_SERVE) and the token that it asks for, if any (S3CLIP_SERVE_TOKEN).
"""

import json
import os
import urllib.request
from typing import Any


def handler(context: Any, event: Any) -> Any:
    """Return CVAT's list of annotations: one tag, or none where the picture shows none of the classes."""
    asked = event.body if isinstance(event.body, dict) else json.loads(event.body)
    result = ask("/predict", {"images": [asked["image"]], "top_k": 1})["results"][0]
    if result.get("error"):
        return answer(context, {"error": result["error"]}, 400)
    (best,) = result["predictions"]
    tag = {"type": "tag", "label": best["label"], "confidence": str(best["score"]), "attributes": []}
    shown = best["accepted"] and best["score"] >= float(asked.get("threshold") or 0)
    return answer(context, [tag] if shown else [], 200)


def ask(path: str, question: dict[str, Any]) -> Any:
    """Return the service's answer."""
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("S3CLIP_SERVE_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    address = os.environ["S3CLIP_SERVE"].rstrip("/") + path
    request = urllib.request.Request(address, json.dumps(question).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as found:
        return json.load(found)


def answer(context: Any, body: Any, status: int) -> Any:
    """Return nuclio's form of an answer."""
    return context.Response(
        body=json.dumps(body), headers={}, content_type="application/json", status_code=status
    )
