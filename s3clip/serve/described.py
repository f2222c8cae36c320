"""What OpenAPI says of the paths."""

from typing import Any

_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
_HEAD = "5f2c8a1be09d7743"
_ONE_AMONG: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "integer"},
    {"type": "object", "additionalProperties": {"type": "string"}},
]
_OPTIONS: dict[str, Any] = {
    "top_k": {"type": "integer", "minimum": 1, "default": 5},
    "level": {"type": "string", "description": "answer with groups at this level"},
    "among": {
        "description": "answer within these: names, ids or positions of classes, a group, or {level: group}",
        "anyOf": [
            {"type": "array", "items": {"anyOf": _ONE_AMONG}},
            *_ONE_AMONG,
        ],
    },
    "language": {"type": "string", "description": "call the classes by their names in it"},
}
_ERRORS: dict[int | str, Any] = {
    401: {"description": "The token is missing or wrong, where the service has one."},
    413: {"description": "Too many bytes or pictures."},
    415: {"description": "Neither JSON nor a form."},
    422: {"description": "What is wrong with the request, in words."},
    503: {"description": "Too much waits already; `Retry-After` says for how many seconds to wait."},
}


def _body(options: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    texts = {
        "type": "array",
        "items": {"type": "string"},
        "description": "base64 of the files, also as data URIs, or addresses where those are allowed",
    }
    rows = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    pictures = {"images": [_PNG], **example}
    vectors = {"embeddings": [[0.1, -0.2, 0.3]], **example}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {"images": texts, "embeddings": rows, **options},
                    },
                    "examples": {
                        "pictures": {"summary": "One picture, as base64", "value": pictures},
                        "embeddings": {"summary": "An embedding computed before", "value": vectors},
                    },
                },
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["images"],
                        "properties": {"images": files, **options},
                    }
                },
            },
        }
    }


def _answer(example: Any) -> dict[int | str, Any]:
    return {200: {"description": "The answer.", "content": {"application/json": {"example": example}}}}


_DOG = {
    "label": "dog",
    "score": 0.93,
    "class_index": 1,
    "class_id": None,
    "text": "hound",
    "accepted": True,
    "because": "hound",
    "groups": {"kingdom": "animals"},
}
_NO_NAME = "language: 1 of 2 classes have no name in 'de' and are called what they are; there are names in de"
PREDICT: dict[str, Any] = {
    "openapi_extra": _body(_OPTIONS, {"top_k": 1}),
    "responses": _answer(
        {
            "results": [{"predictions": [_DOG], "accepted": True, "error": None}],
            "warnings": [_NO_NAME],
            "head": _HEAD,
        }
    )
    | _ERRORS,
}
EMBED: dict[str, Any] = {
    "openapi_extra": _body({}, {}),
    "responses": _answer({"results": [{"embedding": [0.6, -0.8], "error": None}], "head": _HEAD}) | _ERRORS,
}
CLASSES: dict[str, Any] = {
    "responses": _answer(
        {
            "classes": [{"index": 0, "name": "cat", "id": None, "texts": ["cat", "feline"], "groups": {}}],
            "head": _HEAD,
        }
    )
    | {401: _ERRORS[401]},
}
HEALTH: dict[str, Any] = {"responses": _answer({"status": "ok"})}
