"""What pools of every kind have in common: submit, scope, with_state, broadcast, resize, stats, shutdown."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from types import TracebackType

from . import _interpreter
from ._binding import Binding, find_binding
from ._broadcast import broadcast
from ._future import Future, current_helper, wrap_future
from ._naming import name_of
from ._options import checked_size
from ._policy import StatePolicy
from ._registry import Registry, dropped, shut_down
from ._resize import resize
from ._scope import Scope
from ._snapshot import snapshot
from ._startup import Startup
from ._stats import PoolStats
from ._submitter import StateOptions, Submitter
from ._task import NO_KEYWORDS, Watcher
from ._typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar
from ._view import StateView
from ._worker import Worker

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
S = TypeVar("S", default=Any, covariant=True)
T = TypeVar("T")


class StatefulExecutor(Submitter[S]):
    """Base of the pools: what they do is done by their registry, and by the workers that share it. Strictly private.

    Its fields are written once, by the constructors of the subclasses.
    """

    _registry: Registry
    _own: Binding | None  # how the pool's own state is made
    _bindings: dict[object, Binding]

    def _open(self, registry: Registry, own: Binding | None) -> None:
        """Let tasks come. `own` is what each worker makes as it starts."""
        self._registry = _opened(registry, own)
        # When the pool is collected its workers finish what is queued, tear down and end. Takes no lock, since a
        # collection can start anywhere. Not kept here: a weakref that is collected with its pool calls nobody.
        registry.pool = weakref.ref(self, dropped(registry))

    # Submitting

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a worker call `fn(*args, **kwargs)`, and return the future of it.

        Blocks while the backlog has `max_backlog` tasks. In a worker of this pool it runs the new task before it
        returns instead: hold no lock there that the task needs. In an event loop, where this and
        `loop.run_in_executor(pool, fn)` would block all else (for ever, if tasks wait for the loop), use `asubmit`.

        Raises:
            BacklogFull: No place came free within `submit_timeout` seconds.
            BrokenThreadPool: The initializer failed before it ever succeeded, or this is a forked child process.
            RuntimeError: After `shutdown`, also when that comes while this blocks; when the interpreter exits; or when
                no thread can be started and there is none.

        Whatever is raised, Ctrl-C included: the task was not accepted, and takes no place.
        """
        return self._registry.put(fn, args, kwargs)

    _own_submit = submit

    def _put(self, watchers: tuple[Watcher], fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """As `Submitter` has it."""
        return self._registry.put(fn, args, NO_KEYWORDS, None, None, None, watchers)

    async def asubmit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """As `submit`, but wait for a place in the backlog without blocking the event loop.

        `await pool.asubmit(fn)` returns when the task is accepted, with an `asyncio.Future` of it to await in turn.
        Cancelled while it waits for a place, the task is not accepted. In a worker of this pool the task is queued
        over the bound. Raises as `submit` does, and `RuntimeError` without a running asyncio event loop.
        """
        return wrap_future(await self._registry.aput(fn, args, kwargs))

    def broadcast(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> list[Future[T]]:
        """Have each worker there is call `fn(*args, **kwargs)`, once, and return the futures in the workers' order.

        A busy worker does so when the task that it runs has ended, before any other that waits; an idle one at once.
        The calls take no place in the backlog. None is made for a worker that is about to end, or that starts after
        this call: `initializer` is for what every worker needs. `shutdown` without `cancel_futures` lets them run.

        Raises `RuntimeError` in a worker of this pool, and after `shutdown`; `BrokenThreadPool` as `submit`. So does
        `result()` of such a future in the worker that is to run it.
        """
        return broadcast(self._registry, self._registry.maker(fn, args, kwargs), self._registry.workers.live)

    def resize(self, max_workers: int) -> None:
        """Let there be at most `max_workers` workers from now on; does not wait. From any thread, a worker's too.

        More start on demand, at once for tasks that wait already. Those too many tear down their states and end: idle
        ones now, others after their task, whoever ends its task first. Until their teardown has ended they count as
        workers, so that there are more than `max_workers`. To assign `_max_workers` does the same.

        Raises as the constructor does, `TypeError` for None too; and as `submit`, after `shutdown` say.

        .. versionadded:: 0.1
        """
        resize(self._registry, checked_size(max_workers))

    # Scopes and states

    def scope(self, *, fail_fast: bool = False, timeout: float | None = None) -> Scope[S]:
        """Return a scope: `with pool.scope() as scope:` ends only when every task started in it has ended.

        Parameters:
            fail_fast: The first task that raises cancels what has not begun, and later submits raise `RuntimeError`.
            timeout: Seconds from the beginning of the block, after which what has not begun is cancelled, later
                submits raise `RuntimeError`, and so the end of the block raises `TimeoutError`. 0 lets nothing begin.
        """
        return Scope(self, fail_fast, timeout)

    def _view(self, initializer: Callable[..., Any] | None, options: StateOptions) -> StateView[Any]:
        if initializer is None:
            return StateView(self, self._own_binding(*options))
        return StateView(self, find_binding(self._bindings, initializer, *options))

    def _own_binding(
        self, initargs: tuple[Any, ...], finalizer: Callable[[Any], object] | None, policy: StatePolicy[Any] | None
    ) -> Binding:
        if initargs or finalizer is not None or policy is not None:
            raise ValueError("with_state() takes initargs, finalizer and policy only together with an initializer")
        if self._own is None:
            raise ValueError(f"{self!r} has no initializer, hence no state: give one to the pool or to with_state()")
        return self._own

    # Looking

    def stats(self) -> PoolStats:
        """Return a snapshot of what this pool does and has done, also after `shutdown`. Takes no longer when busy."""
        return snapshot(self._registry)

    # Ending

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> None:
        """Accept no more tasks; workers finish what is queued, tear down their states and end.

        A `submit` that blocks raises `RuntimeError`. May be called more than once, from any thread.

        Parameters:
            wait: Return only when every worker has ended.
            cancel_futures: Cancel what has not begun.
            timeout: Wait for at most this many seconds; the shutdown itself goes on after that.

        Raises:
            TimeoutError: With the workers that have not ended, and what they run.
            RuntimeError: `wait` in a worker of this pool, which would wait for itself.
        """
        registry = self._registry
        registry.close(shut_down)
        if cancel_futures:
            registry.workers.settle()  # as if each submit had waited for the worker that it started
            registry.cancel_waiting()
        if not wait:
            return
        if current_helper(registry) is not None:
            raise RuntimeError(
                f"a task of {registry.name} can't wait for the pool to end: call shutdown(wait=False) there"
            )
        if not registry.join(timeout):
            raise TimeoutError(f"{registry.name} has not ended after {timeout} seconds: {registry.still_running()}")

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        """`shutdown()`; Ctrl-C, in the body or while this waits, cancels what has not begun. A second one leaves."""
        try:
            self.shutdown(cancel_futures=isinstance(exc, KeyboardInterrupt))
        except KeyboardInterrupt:
            self.shutdown(cancel_futures=True)
            raise
        return None

    def __enter__(self) -> Self:
        return self

    def __repr__(self) -> str:
        stats = self.stats()
        bound = "" if self._registry.permits is None else f" of {self._registry.permits.size}"
        blocked = f", {stats.blocked_submitters} submitters blocked" if stats.blocked_submitters else ""
        states = stats.states_made - stats.states_torn_down
        closed = "" if self._registry.close_reason is None else ", closed"
        most = self._registry.workers.max_workers
        return (
            f"<{type(self).__name__} {self._registry.name}: {stats.workers} of {most} workers, "
            f"{stats.idle} idle, {states} states; {stats.running} tasks running, {stats.backlog}{bound} in the backlog"
            f"{blocked}{closed}>"
        )


def own_binding(
    bindings: dict[object, Binding],
    initializer: Callable[..., Any] | None,
    initargs: tuple[Any, ...],
    finalizer: Callable[[Any], object] | None,
    policy: StatePolicy[Any] | None,
) -> Binding | None:
    """How a pool's own state is made, if it has one; for its constructor."""
    if initializer is not None:
        return find_binding(bindings, initializer, initargs, finalizer, policy)
    if finalizer is not None:
        raise ValueError(f"finalizer {name_of(finalizer)} has no state to tear down: give an initializer too")
    if policy is not None:
        raise ValueError(f"{policy!r} has no state to look after: give an initializer too")
    return None


def _opened(registry: Registry, own: Binding | None) -> Registry:
    """Tell `registry` how to make workers. Apart from the pool's class, so that nothing here refers to the pool."""
    registry.workers.new_worker = partial(_new_worker, weakref.ref(registry), Startup(own))
    _interpreter.register(registry)
    return registry


def _new_worker(of: weakref.ref[Registry], startup: Startup) -> Worker:
    registry = of()
    assert registry is not None  # it is what has this made
    return Worker(registry, startup)
