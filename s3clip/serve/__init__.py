"""A head behind an address: pictures in, `predict`'s answers out (extra `serve`)."""

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise ImportError("s3clip.serve needs FastAPI and uvicorn: pip install 's3clip[serve]'") from error

from s3clip.serve.api import create_app
from s3clip.serve.bounds import Bounds
from s3clip.serve.running import run
from s3clip.serve.source import HeadSource

__all__ = ["Bounds", "HeadSource", "create_app", "run"]
