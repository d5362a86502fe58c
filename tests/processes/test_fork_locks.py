"""A lock that another thread held when the process was forked stays held in the child: the library renews its own."""

import pytest
from child import needs_fork, run_forks

BEFORE = """
from inside import SLEEPERS_LOCKS, {replaced}, inside
from locks import locks

{replace}
pool = StatefulThreadPoolExecutor(2, initializer=make, finalizer=tear_down, max_backlog=1, idle_timeout=60)
go_on, begun = threading.Event(), threading.Barrier(3)
scope = pool.scope(timeout=60)
scope.__enter__()
view = scope.with_state(list)
view.submit(len).result()
running = [pool.submit(lambda: (begun.wait(), go_on.wait())) for _ in range(2)]
begun.wait()
waiting = scope.submit(int)
blocked = threading.Thread(target=lambda: pool.submit(int))
blocked.start()
until(lambda: inside(pool).waiters)
roots = pool, scope, view, running, waiting, inside(pool).home, list(inside(pool).workers)
before = locks(*roots)
names = {{name for name, _ in before.values()}}
say("held:", *sorted(names))


def look():
    old = [name for number, (name, _) in locks(*roots).items() if number in before]
    say("not renewed:", *sorted(set(old) - SLEEPERS_LOCKS))


fork(look)
go_on.set()
blocked.join()
scope.__exit__(None, None, None)
pool.shutdown()
"""


def not_renewed(replaced: str = "Registry", replace: str = "") -> tuple[set[str], list[str]]:
    """The locks that a busy pool has, and those that a child inherits."""
    held, old = (line.partition(": ")[2].split() for line in _lines(replaced, replace))
    return set(held), old


def _lines(replaced: str, replace: str) -> list[str]:
    lines = run_forks(BEFORE.format(replaced=replaced, replace=replace))
    return [line for line in lines if line.startswith(("held:", "not renewed:"))]


@needs_fork
def test_every_lock_is_renewed() -> None:
    """All but those on which one thread of the parent sleeps, for which nobody else asks."""
    held, old = not_renewed()
    assert len(held) >= 5  # those of the workers, the permits, the tasks; and two kinds of sleepers
    assert old == []


@needs_fork
@pytest.mark.parametrize("part", ["Permits", "Workers"])
def test_one_that_is_not_is_found(part: str) -> None:
    """So that the test above means something."""
    _, old = not_renewed("hook", f'owner, _ = hook("{part}.after_fork"); owner.after_fork = lambda self: None')
    assert old == [f"{part}.lock"]


@needs_fork
def test_one_of_a_module_is_found() -> None:
    """The same for one that stands in a module."""
    replace = "module, _ = hook('making'); module.another = threading.Lock()"
    _, old = not_renewed("hook", replace)
    assert old == ["stateful_executor._task.another"]
