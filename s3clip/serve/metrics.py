"""What Prometheus is told of a service."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one service, apart from those of the process."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "s3clip_requests", "Requests answered.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "s3clip_request_seconds",
            "From a request to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.waiting = Gauge(
            "s3clip_waiting", "Pictures and embeddings that are not answered yet.", registry=registry
        )
        self.pictures = Counter("s3clip_pictures", "Pictures and embeddings computed.", registry=registry)
        self.batches = Histogram(
            "s3clip_batch_size",
            "Pictures and embeddings computed at once.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.busy = Counter(
            "s3clip_busy_seconds", "For which the image tower and the head computed.", registry=registry
        )
        self.takeovers = Counter(
            "s3clip_head_loads",
            "Heads that took the place of another one, and that could not.",
            ["outcome"],
            registry=registry,
        )

    def observe(self, pictures: int, seconds: float) -> None:
        """Count a batch."""
        self.pictures.inc(pictures)
        self.batches.observe(pictures)
        self.busy.inc(seconds)

    def text(self) -> bytes:
        """Return all of it, as Prometheus reads it."""
        return generate_latest(self._registry)
