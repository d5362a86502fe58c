"""All ways to have a pool call a function, for what is to hold on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from stateful_executor import StatefulThreadPoolExecutor

Pool = StatefulThreadPoolExecutor[list[int]]
EntryPoint = Callable[[Pool, Callable[[], Any]], Any]


def asubmit(submitter: Any, fn: Callable[..., Any]) -> Any:
    """Through the `asubmit` of a pool, a view or a scope, in an event loop of its own."""

    async def main() -> Any:
        return await (await submitter.asubmit(fn))

    return asyncio.run(main())


def _in_scope(pool: Pool, use: Callable[[Any], Any]) -> Any:
    with pool.scope() as scope:
        return use(scope)


def _stateless(fn: Callable[[], Any]) -> Callable[..., Any]:
    return lambda *_: fn()


ENTRY_POINTS: dict[str, EntryPoint] = {
    "submit": lambda pool, fn: pool.submit(fn).result(),
    "asubmit": asubmit,
    "map": lambda pool, fn: next(pool.map(_stateless(fn), [1])),
    "map, chunks": lambda pool, fn: next(pool.map(_stateless(fn), [1], chunksize=2)),
    "map, buffered": lambda pool, fn: list(pool.map(_stateless(fn), [1, 2, 3], buffersize=1))[-1],
    "map_unordered": lambda pool, fn: next(pool.map_unordered(_stateless(fn), [1])),
    "map_unordered, buffered": lambda pool, fn: list(pool.map_unordered(_stateless(fn), [1, 2, 3], buffersize=1))[-1],
    "broadcast": lambda pool, fn: pool.broadcast(fn)[0].result(),
    "bind": lambda pool, fn: pool.submit(pool.with_state().bind(_stateless(fn))).result(),
    "view": lambda pool, fn: pool.with_state().submit(_stateless(fn)).result(),
    "view, asubmit": lambda pool, fn: asubmit(pool.with_state(), _stateless(fn)),
    "view, map": lambda pool, fn: next(pool.with_state().map(_stateless(fn), [1], chunksize=2)),
    "view, map_unordered": lambda pool, fn: next(pool.with_state().map_unordered(_stateless(fn), [1])),
    "view, broadcast": lambda pool, fn: pool.with_state().broadcast(_stateless(fn))[0].result(),
    "scope": lambda pool, fn: _in_scope(pool, lambda scope: scope.submit(fn)).result(),
    "scope, asubmit": lambda pool, fn: _in_scope(pool, lambda scope: asubmit(scope, fn)),
    "scope, map": lambda pool, fn: _in_scope(pool, lambda scope: next(scope.map(_stateless(fn), [1]))),
    "scope, map_unordered": lambda pool, fn: _in_scope(
        pool, lambda scope: next(scope.map_unordered(_stateless(fn), [1]))
    ),
    "scope, view": lambda pool, fn: _in_scope(
        pool, lambda scope: scope.with_state(dict).submit(_stateless(fn))
    ).result(),
    "run_in_executor": lambda pool, fn: asyncio.run(_run_in_executor(pool, fn)),
}


async def _run_in_executor(pool: Pool, fn: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, fn)
