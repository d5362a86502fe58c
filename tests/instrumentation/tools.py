"""The tools, set up as their users do, but that what they would send stays here. They patch the process they are in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


class Tool:
    """One tool in this process. Spans have the names that they were opened with, wherever the tool has only numbers."""

    needs: tuple[str, ...]  # what is to be installed
    after_the_span: Any  # what a task sees that begins when its submitter's span and request have ended

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}

    def request(self, name: str) -> AbstractContextManager[None]:
        """The handling of a request, with all that the tool knows of one."""
        return self.span(name)

    def span(self, name: str) -> AbstractContextManager[None]:
        """A piece of work in a request."""
        raise NotImplementedError

    def seen(self) -> Any:
        """The name of the request, or of the span in it, that the tool thinks this code belongs to; None without."""
        raise NotImplementedError

    def parents(self) -> dict[str, str | None]:
        """What was sent: the name of each span's parent."""
        raise NotImplementedError


class OpenTelemetry(Tool):
    needs = ("opentelemetry-instrumentation-threading", "opentelemetry-sdk")
    after_the_span = "first"

    def __init__(self) -> None:
        super().__init__()
        from opentelemetry import trace
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.trace = trace
        self.sent = InMemorySpanExporter()
        self.open = self.set_up(SimpleSpanProcessor(self.sent))

    def set_up(self, processor: Any) -> Callable[[str], AbstractContextManager[Any]]:
        from opentelemetry.instrumentation.threading import ThreadingInstrumentor
        from opentelemetry.sdk.trace import TracerProvider

        provider = TracerProvider()
        provider.add_span_processor(processor)
        self.trace.set_tracer_provider(provider)
        ThreadingInstrumentor().instrument()
        return self.trace.get_tracer(__name__).start_as_current_span

    def span_id(self) -> int:
        return self.trace.get_current_span().get_span_context().span_id

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        with self.open(name):
            self.names[self.span_id()] = name
            yield

    def seen(self) -> Any:
        return self.names.get(self.span_id())

    def parents(self) -> dict[str, str | None]:
        spans = self.sent.get_finished_spans()
        return {span.name: span.parent and self.names.get(span.parent.span_id) for span in spans}


class Logfire(OpenTelemetry):
    needs = ("logfire",)

    def set_up(self, processor: Any) -> Callable[[str], AbstractContextManager[Any]]:
        import logfire

        logfire.configure(send_to_logfire=False, console=False, additional_span_processors=[processor])
        return logfire.span


class Datadog(Tool):
    needs = ("ddtrace",)
    after_the_span = None

    def __init__(self) -> None:
        super().__init__()
        os.environ |= {
            "DD_TRACE_AGENT_URL": "unix:///nowhere/agent.sock",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        }
        self.patch()
        from ddtrace.trace import TraceFilter, tracer

        sent = self.sent = []

        class Keep(TraceFilter):
            def process_trace(self, trace: list[Any]) -> None:
                sent.extend(trace)

        self.tracer = tracer
        tracer.configure(trace_processors=[Keep()])

    def patch(self) -> None:
        from ddtrace import patch

        patch(futures=True)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        with self.tracer.trace(name) as span:
            self.names[span.span_id] = name
            yield

    def seen(self) -> Any:
        context = self.tracer.current_trace_context()
        return context and self.names.get(context.span_id)

    def parents(self) -> dict[str, str | None]:
        return {span.name: self.names.get(span.parent_id) for span in self.sent}


class DatadogAuto(Datadog):
    """With all that it patches in a process that is run by `ddtrace-run`."""

    def patch(self) -> None:
        import ddtrace.auto  # noqa: F401


class Sentry(Tool):
    needs = ("sentry-sdk",)
    after_the_span = ("first", None)

    def __init__(self) -> None:
        super().__init__()
        import sentry_sdk
        from sentry_sdk.transport import Transport

        sent = self.sent = []

        class Keep(Transport):
            def capture_envelope(self, envelope: Any) -> None:
                sent.extend(item.payload.json for item in envelope.items)

        self.sdk = sentry_sdk
        sentry_sdk.init(dsn="https://key@localhost/1", transport=Keep(), traces_sample_rate=1.0)

    @contextmanager
    def request(self, name: str) -> Iterator[None]:
        with self.sdk.isolation_scope(), self.sdk.start_transaction(name=name) as span:
            self.names[span.span_id] = name
            self.sdk.set_tag("request", name)
            yield

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        with self.sdk.start_span(name=name) as span:
            self.names[span.span_id] = name
            yield

    def event(self) -> dict[str, Any]:
        """One that is sent from here."""
        event_id = self.sdk.capture_message("here")
        (event,) = [event for event in self.sent if event.get("event_id") == event_id]
        return event

    def seen(self) -> Any:
        """The tag and the span, or one for both when they are the same."""
        event = self.event()
        tag, span = event.get("tags", {}).get("request"), self.names.get(event["contexts"]["trace"]["span_id"])
        return tag if tag == span else (tag, span)

    def parents(self) -> dict[str, str | None]:
        spans = [span for event in self.sent for span in event.get("spans", ())]
        return {span["description"]: self.names.get(span["parent_span_id"]) for span in spans}


TOOLS = {
    "opentelemetry": OpenTelemetry,
    "logfire": Logfire,
    "ddtrace": Datadog,
    "ddtrace.auto": DatadogAuto,
    "sentry": Sentry,
}
