#!/usr/bin/env bash
# ddtrace 4.16.0, CPython 3.11.7 and 3.13.0 (GIL builds); opentelemetry-sdk 1.45.1 beside it.
#
# Code that runs in a copy of the context in which a span was open, but begins when that span has ended, is no part of
# its trace: ddtrace starts a new trace, without a parent. So it is with a function run by `contextvars.copy_context()`
# and with an asyncio task, unless `patch(asyncio=True)` was called; that is what work that outlives its request does.
#
# A good guess would be that a copied context carries the span over, as it does for OpenTelemetry: there the child has its
# parent, ended or not. In ddtrace the context holds the span, and whoever asks for the active one passes by those that
# have ended. What ddtrace's own patch of `ThreadPoolExecutor.submit` carries over is not the span but the span's
# `Context`, which never ends; so does the last line here, with public names.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ddtrace==4.16.0 opentelemetry-sdk==1.45.1
export DD_TRACE_AGENT_URL=unix:///nowhere/agent.sock DD_INSTRUMENTATION_TELEMETRY_ENABLED=false DD_REMOTE_CONFIGURATION_ENABLED=false

output=$("$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import contextvars

from ddtrace.trace import TraceFilter, tracer
from opentelemetry.sdk.trace import TracerProvider


class Drop(TraceFilter):
    def process_trace(self, trace):
        return None


tracer.configure(trace_processors=[Drop()])
otel = TracerProvider().get_tracer("finding")


def theirs():
    with tracer.trace("child") as child:
        return child.parent_id


def others():
    with otel.start_as_current_span("child") as child:
        return child.parent and child.parent.span_id


def activated(context):
    tracer.context_provider.activate(context)
    return theirs()


def tell(what, parent, span_id):
    print(f"{what}: {'child of the span' if parent == span_id else 'no parent' if parent is None else 'another parent'}")


with tracer.trace("request") as span:
    tell("ddtrace, the span is open", contextvars.copy_context().run(theirs), span.span_id)
    copy, other_copy, context = contextvars.copy_context(), contextvars.copy_context(), tracer.current_trace_context()
with otel.start_as_current_span("request") as otel_span:
    otel_copy = contextvars.copy_context()
tell("ddtrace, the span has ended", copy.run(theirs), span.span_id)
tell("OpenTelemetry, the span has ended", otel_copy.run(others), otel_span.context.span_id)


async def main():
    ended = asyncio.Event()

    async def later():
        await ended.wait()
        return theirs()

    with tracer.trace("request") as span:
        task = asyncio.create_task(later())
    ended.set()
    tell("ddtrace, asyncio task, the span has ended", await task, span.span_id)


asyncio.run(main())
tell("ddtrace, its context activated", other_copy.run(activated, context), span.span_id)
PYTHON
)
printf '%s\n' "$output"
[[ $output == "ddtrace, the span is open: child of the span
ddtrace, the span has ended: no parent
OpenTelemetry, the span has ended: child of the span
ddtrace, asyncio task, the span has ended: no parent
ddtrace, its context activated: child of the span" ]]
