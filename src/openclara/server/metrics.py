"""Figures for Prometheus: requests, answers, the engine, jobs, indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from openclara.errors import OpenClaraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric

    from openclara.server.asking import Engine
    from openclara.server.library import Library
    from openclara.types import Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
OTHER = "other"
"""Route of what no route matches: addresses that clients make up must not become series."""


class Metrics:
    """The figures of one service, in a registry of its own."""

    def __init__(self, engine: Engine, library: Library) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "openclara_http_requests",
            "Requests.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "openclara_http_request_seconds",
            "From the head of a request to the end of its response.",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "openclara_answer_tokens", "Tokens of answers.", ["kind"], registry=self._registry
        )
        self._first_token = Histogram(
            "openclara_first_token_seconds",
            "From a question to the first token of its answer.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self._registry.register(_EngineFigures(engine))
        self._registry.register(_IndexFigures(library))

    def watch_jobs(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Show the jobs of each status as well."""
        self._registry.register(_JobFigures(counts))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def answered(self, usage: Usage) -> None:
        """Count an answer that was written to its end."""
        self._tokens.labels("prompt").inc(usage.prompt_tokens)
        self._tokens.labels("completion").inc(usage.completion_tokens)
        self._first_token.observe(usage.first_token_ms / 1000)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)


class _EngineFigures(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        load = self._engine.load
        yield _gauge("openclara_questions_waiting", "Questions in the queue.", load.waiting)
        yield _gauge("openclara_questions_running", "Questions being answered.", load.running)
        yield _gauge(
            "openclara_batch_size",
            "Mean number of answers that a decoding step went on with.",
            load.tokens / load.steps if load.steps else 0.0,
        )
        for name in ("answered", "refused", "cancelled"):
            yield CounterMetricFamily(
                f"openclara_questions_{name}", f"Questions {name}.", value=getattr(load, name)
            )
        yield CounterMetricFamily("openclara_tokens", "Tokens written.", value=load.tokens)
        yield CounterMetricFamily("openclara_decoding_steps", "Decoding steps.", value=load.steps)


class _IndexFigures(Collector):
    def __init__(self, library: Library) -> None:
        self._library = library

    def collect(self) -> Iterator[Metric]:
        documents = _indexed("openclara_index_documents", "Documents of an index.")
        chunks = _indexed("openclara_index_chunks", "Stretches of an index.")
        size = _indexed("openclara_index_bytes", "Bytes of an index on the disk.")
        for served in self._library.all():
            try:
                about = served.index.info()
            except OpenClaraError:
                continue  # removed or damaged this moment
            documents.add_metric([served.name], about.documents)
            chunks.add_metric([served.name], about.chunks)
            size.add_metric([served.name], about.total_bytes)
        yield from (documents, chunks, size)

    def describe(self) -> list[Metric]:
        """Nothing: the registry would else read every index when the service starts."""
        return []


class _JobFigures(Collector):
    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("openclara_jobs", "Jobs by status.", labels=["status"])
        for status, count in self._counts().items():
            jobs.add_metric([status], count)
        yield jobs


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _indexed(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["index"])
