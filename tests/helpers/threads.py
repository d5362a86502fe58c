"""What tests do with threads: wait for what another one is about to do, run something in another one."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 20  # seconds, for what happens at once unless something is broken


def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return when `condition()` holds, which another thread is about to bring about."""
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        assert waited < patience
        time.sleep(0 if waited < 0.05 else 0.001)  # what takes long most likely needs this core


def run_in_thread(fn: Callable[[], object]) -> None:
    """Run `fn` in another thread, to its end."""
    thread = threading.Thread(target=fn)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


@contextmanager
def beside(fn: Callable[..., object], *args: object) -> Iterator[None]:
    """Run `fn` in a thread of its own, beside the `with` block."""
    thread = threading.Thread(target=fn, args=args)
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def where(*_: object) -> str:
    """The name of the thread that calls this; a task."""
    return threading.current_thread().name


def settle() -> None:
    """Free-threaded builds may put off the end of what another thread has made; a collection there makes up for it."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        gc.collect()
