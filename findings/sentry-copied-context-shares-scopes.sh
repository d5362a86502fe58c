#!/usr/bin/env bash
# sentry-sdk 2.75.0, CPython 3.11.7 and 3.13.0 (GIL builds).
#
# What a function sets while it runs in `contextvars.copy_context()` is seen outside of that copy: Sentry's tags, and the
# span that it has open. Two functions that run at once in copies of one request's context take each other's spans for
# the parents of their own, and so does the request itself.
#
# A good guess would be that a copy of the context keeps such changes in, as it does for OpenTelemetry. But Sentry's
# context variables hold scopes, which are changed in place, and a copy holds the same ones. What Sentry patches
# (`ThreadPoolExecutor.submit`, `Thread.start`) forks the scopes besides; `sentry_sdk.isolation_scope()` does so by hand.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check sentry-sdk==2.75.0

output=$("$folder/venv/bin/python" - <<'PYTHON'
import contextvars

import sentry_sdk
from sentry_sdk.transport import Transport

sent = []


class Keep(Transport):
    def capture_envelope(self, envelope):
        sent.extend(item.payload.json for item in envelope.items)


sentry_sdk.init(dsn="https://key@localhost/1", transport=Keep(), traces_sample_rate=1.0)


def work(meanwhile):
    sentry_sdk.set_tag("by", "work")
    with sentry_sdk.start_span(name="work"):
        meanwhile()


def tell(what):
    sentry_sdk.capture_message("here")
    span = sentry_sdk.get_current_span()
    print(f"{what}: tag {sent[-1].get('tags', {}).get('by')}, span {span.description or 'of the request'}")


for how, decorated in ("copied", work), ("isolated", sentry_sdk.isolation_scope()(work)):
    with sentry_sdk.isolation_scope(), sentry_sdk.start_transaction(name="request"):
        other = contextvars.copy_context()
        contextvars.copy_context().run(decorated, lambda: other.run(tell, f"{how}, another copy"))
        tell(f"{how}, the request afterwards")
PYTHON
)
printf '%s\n' "$output"
[[ $output == "copied, another copy: tag work, span work
copied, the request afterwards: tag work, span of the request
isolated, another copy: tag None, span of the request
isolated, the request afterwards: tag None, span of the request" ]]
