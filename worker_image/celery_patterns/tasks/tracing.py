"""OpenTelemetry traces from the publisher to the task, with no span lost when a pool's process ends.

    tracing.enable()            # in the module of the application; needs celery-operator[otel]

The instrumentation of Celery makes the spans. What is added here: the exporter is made in each process (one that was
made before a fork sends nothing), and sends what it has before the process ends, also when Celery replaces processes
after some number of tasks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery import signals

FLUSH_MS = 5_000
"""How long an ending process waits for the collector."""

_providers: dict[int, Any] = {}
"""By process id: a forked child finds its parent's, and must not use it."""


def enable(
    *,
    exporter: Callable[[], Any] | None = None,
    service: str | None = None,
    span_links: bool = False,
    in_this_process: bool = False,
) -> None:
    """Trace the tasks of this application's workers.

    Args:
        exporter: Makes a span exporter, in each process. Default: OTLP over HTTP, configured by OpenTelemetry's own
            variables (OTEL_EXPORTER_OTLP_ENDPOINT, ...).
        service: The service's name; None: OTEL_SERVICE_NAME, else ``celery``.
        span_links: Tasks get traces of their own, linked to the publisher's; for fan-outs too large for one trace.
        in_this_process: Begin here as well, as a publisher.

    Raises:
        ModuleNotFoundError: If the OpenTelemetry packages are not installed.
    """
    import opentelemetry.instrumentation.celery  # noqa: PLC0415 - optional; say at once that it is missing
    import opentelemetry.sdk.trace  # noqa: F401, PLC0415 - see above

    make = exporter or _otlp

    def begin(**_: Any) -> None:
        _begin(make, service, span_links=span_links)

    def begin_in_main(sender: Any = None, **_: Any) -> None:
        # Pools without processes of their own run their tasks in this one.
        if "prefork" not in str(getattr(sender, "pool_cls", "")):
            begin()

    signals.worker_process_init.connect(begin, weak=False, dispatch_uid="celery-patterns-tracing-begin")
    signals.worker_process_shutdown.connect(flush, weak=False, dispatch_uid="celery-patterns-tracing-end")
    signals.worker_init.connect(begin_in_main, weak=False, dispatch_uid="celery-patterns-tracing-main")
    signals.worker_shutdown.connect(flush, weak=False, dispatch_uid="celery-patterns-tracing-main-end")
    if in_this_process:
        begin()


def flush(**_: Any) -> None:
    """Send what this process has; its exporter ends with it."""
    provider = _providers.get(os.getpid())
    if provider is not None:
        provider.force_flush(FLUSH_MS)


def _begin(make: Callable[[], Any], service: str | None, *, span_links: bool) -> None:
    if os.getpid() in _providers:
        return
    from opentelemetry.instrumentation.celery import CeleryInstrumentor  # noqa: PLC0415 - see enable
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see enable
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - see enable
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - see enable

    name = service or os.environ.get("OTEL_SERVICE_NAME") or "celery"
    provider = TracerProvider(resource=Resource.create({"service.name": name, "process.pid": os.getpid()}))
    provider.add_span_processor(BatchSpanProcessor(make()))
    _providers[os.getpid()] = provider
    instrumentor: Any = CeleryInstrumentor()  # type: ignore[no-untyped-call]
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    instrumentor.instrument(tracer_provider=provider, use_span_links=span_links)


def _otlp() -> Any:
    # HTTP rather than gRPC, whose channels do not survive a fork.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - see enable

    return OTLPSpanExporter()
