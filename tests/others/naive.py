"""A pool with the classic mistakes: a stand-in for those that hang, since no test runs a program that hangs others.

One lock for all pools, held while `submit` blocks, and not re-entrant; a permit taken before anything is looked at; a
worker that dies of its initializer, and of a task's SystemExit, without a word; a `cancel` that waits for a worker to
tell of it; a child that goes on as if its workers had come along.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

LOCK = threading.Lock()


class Pool:
    """See the module."""

    def __init__(self, workers: int, bound: int = 4, initializer: Callable[[], object] | None = None) -> None:
        self.workers = workers
        self.initializer = initializer
        self.permits = threading.Semaphore(bound)
        self.tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.ended = False

    def submit(self, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        with LOCK:
            self.permits.acquire()
            if self.ended:
                raise RuntimeError("cannot schedule new futures after shutdown")
            future: Future[Any] = Future()
            self.tasks.put((future, fn, args))
            if len(self.threads) < self.workers:
                self.threads.append(threading.Thread(target=self._work, daemon=True))
                self.threads[-1].start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with LOCK:
            self.ended = True
            with suppress(queue.Empty):
                while cancel_futures:
                    self.tasks.get_nowait()[0].cancel()
            for _ in self.threads:
                self.tasks.put(None)
        if wait:
            for thread in self.threads:
                thread.join()

    def _work(self) -> None:
        if self.initializer is not None:
            try:
                self.initializer()
            except Exception:
                return
        while task := self.tasks.get():
            self.permits.release()
            future, fn, args = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args))
                except Exception as exc:
                    future.set_exception(exc)
                except SystemExit:
                    return
