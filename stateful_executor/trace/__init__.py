"""What each worker did when: recorded, saved for Perfetto, drawn as a picture or as a page.

    from stateful_executor import trace

    with trace.record(pool) as recording:
        ...
    recording.save("trace.json")

The core imports nothing of this.
"""

from ._recording import Recording, record
from ._timeline import Span

__all__ = ["Recording", "Span", "record"]
