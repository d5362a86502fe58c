"""Google Cloud Pub/Sub's `ThreadScheduler` on this pool: it empties `_work_queue` to hand back what has not begun."""

from __future__ import annotations

import threading

import pytest
from inside import inside
from threads import beside, until

from stateful_executor import StatefulThreadPoolExecutor

scheduler = pytest.importorskip(
    "google.cloud.pubsub_v1.subscriber.scheduler",
    reason="google-cloud-pubsub is not installed: pip install 'stateful-executor[wild]'",
)

PATIENCE = 20  # seconds


@pytest.mark.parametrize("copy_context", [False, True])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("max_backlog", [None, 100])
def test_shutdown_while_messages_wait(copy_context: bool, waits: bool, max_backlog: int | None) -> None:
    """It ends, and hands back, in order, the messages that nobody was called with."""
    begun, go_on = threading.Barrier(3), threading.Event()
    received: list[str] = []

    def callback(message: str, *, held: bool = False) -> None:
        received.append(message)
        if held:
            begun.wait(PATIENCE)
            go_on.wait(PATIENCE)

    pool = StatefulThreadPoolExecutor(2, max_backlog=max_backlog, copy_context=copy_context)
    thread_scheduler = scheduler.ThreadScheduler(executor=pool)
    for name in ("first", "second"):
        thread_scheduler.schedule(callback, name, held=True)
    begun.wait(PATIENCE)
    for number in range(100):
        thread_scheduler.schedule(callback, f"message {number}")
    dropped: list[str] = []
    with beside(lambda: dropped.extend(thread_scheduler.shutdown(await_msg_callbacks=waits))):
        until(lambda: pool._shutdown)  # after it has emptied the queue
        go_on.set()
    pool.shutdown()
    assert dropped == [f"message {number}" for number in range(100)]
    assert sorted(received) == ["first", "second"]
    assert pool.stats().cancelled == 100
    assert inside(pool).permits_left() == (max_backlog or 0)
    with pytest.warns(RuntimeWarning, match="Scheduling a callback after executor shutdown"):
        thread_scheduler.schedule(callback, "late")
