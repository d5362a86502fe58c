"""`exit_timeout`: what hangs at the interpreter's exit is named and abandoned; all else ends as ever."""

import pytest
from child import INTERRUPTS, LATE, PRELUDE, TOO_LATE, needs_signals, run, run_well

TORN = "torn down in its thread"
HANGS = """
import logging

hanging = []


def hang():
    hanging.append(None)
    threading.Event().wait()


def made(name, workers=1, timeout=None):
    # A pool whose workers have all started.
    pool = StatefulThreadPoolExecutor(workers, name, make, finalizer=tear_down, exit_timeout=timeout)
    barrier = threading.Barrier(workers)
    for _ in [pool.submit(barrier.wait) for _ in range(workers)]:
        _.result()
    return pool


def hung(name, workers=1, timeout=None):
    # One with a worker that never ends.
    pool, before = made(name, workers, timeout), len(hanging)
    pool.submit(hang)
    until(lambda: len(hanging) > before)
    return pool


class Told(logging.Handler):
    # Says what is logged, and calls `when` then.
    def __init__(self, when=lambda: None):
        super().__init__()
        self.when = when

    def emit(self, record):
        say(record.levelname, record.getMessage().split()[0])
        self.when()
"""


def abandoned(name: str, seconds: float, what: str) -> str:
    """What the log says."""
    return (
        f"{name} has not ended {seconds} seconds after the interpreter began to exit, and is not waited for any more: "
        f"{what}"
    )


def run_hanging(script: str, code: int = 0, preludes: str = "") -> tuple[list[str], list[str]]:
    """Run `script`, which leaves workers behind; its lines, and those on stderr."""
    returncode, lines, errors = run(script, PRELUDE + LATE + HANGS + preludes)
    assert returncode == code, errors
    return lines, errors.splitlines()


# What is abandoned, and what is not


@pytest.mark.parametrize(
    ("ending", "code", "error"),
    [
        pytest.param("pass", 0, [], id="pool-kept"),
        pytest.param("del pool, other", 0, [], id="pool-dropped"),
        pytest.param("pool.me = pool; del pool", 0, [], id="pool-in-a-cycle"),
        pytest.param("pool.shutdown(wait=False)", 0, [], id="shutdown-not-waited-for"),
        pytest.param("sys.exit(3)", 3, [], id="sys.exit"),
        pytest.param("raise LookupError", 1, ["LookupError"], id="error"),
    ],
)
def test_a_task_hangs(ending: str, code: int, error: list[str]) -> None:
    """Its worker is named, with the function. The pool's other workers, and other pools, are torn down as ever."""
    lines, errors = run_hanging(
        f"""
        pool, other = hung("pool", 3, 1), made("other", 2)
        other.submit(until_main_sleeps)
        other.submit(say, "ran")
        ready.set()
        {ending}
        """,
        code,
    )
    assert sorted(lines) == ["ran", *[TORN] * 4]
    name = errors.pop().removeprefix(abandoned("pool", 1, "pool_")).removesuffix(" runs hang")
    assert name in {"0", "1", "2"}
    assert errors[-1:] == error


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("pool.submit(hang)", "hang"),
        ("pool.submit(functools.partial(hang))", "hang"),
        ("pool.with_state().submit(lambda state: hang())", "<lambda>"),
        ("pool.broadcast(hang)", "hang"),
        ("pool.submit(lambda: hang_inside())", "hang"),
        ("pool.with_state(hang).submit(say)", "say"),
        ("pool.with_state(int, finalizer=lambda _: hang()).submit(abs).result(); pool.shutdown(wait=False)", "no task"),
    ],
)
def test_where_it_hangs(where: str, what: str) -> None:
    """In whatever a worker does."""
    lines, errors = run_hanging(f"""
        import functools

        def hang_inside():
            pool.submit(hang).result()

        pool = made("pool", 1, 0.05)
        {where}
        until(lambda: hanging)
    """)
    assert lines == []
    assert errors == [abandoned("pool", 0.05, f"pool_0 runs {what}")]


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_what_has_not_begun_is_cancelled(timeout: float) -> None:
    """At that moment, and who waits for it hears of it."""
    lines, errors = run_hanging(f"""
        pool = hung("pool", 1, {timeout})
        queued = [pool.submit(say, "never") for _ in range(3)]
        queued[0].add_done_callback(lambda future: say("called back"))

        def waits():
            raised(queued[-1].result)

        thread = threading.Thread(target=waits)
        thread.start()
        until(lambda: sys._current_frames()[thread.ident].f_code in SLEEPS_IN)
    """)
    assert sorted(lines) == ["CancelledError", "called back"]
    assert errors == [abandoned("pool", timeout, "pool_0 runs hang")]


def test_a_worker_that_does_not_hang() -> None:
    """It ends with its task, rather than go on with a long backlog; it tears down while the process is there."""
    lines, errors = run_hanging("""
        pool, other = made("pool", 1, 0), made("other")
        queued = []

        def busy():
            until(lambda: len(queued) == 100 and queued[-1].cancelled())
            say("task ended")

        running = pool.submit(busy)
        until(running.running)
        queued += [pool.submit(say, "never") for _ in range(100)]
        other.submit([*pool._threads][0].join)
    """)
    assert lines == ["task ended", TORN, TORN]
    assert errors in ([], *[[abandoned("pool", 0, f"pool_0 runs {what}")] for what in ("busy", "no task")])


@pytest.mark.parametrize("timeout", ["20", "1e300", "float('inf')", "10**400"])
def test_a_pool_that_ends_in_time(timeout: str) -> None:
    """Its queue is finished, its states are torn down, and nothing is logged."""
    lines = run_well(f"""
        pool = StatefulThreadPoolExecutor(2, initializer=make, finalizer=tear_down, exit_timeout={timeout})
        for _ in range(2):
            pool.submit(until_main_sleeps)
        for number in range(10):
            pool.submit(say, "ran")
        say(*{{thread.daemon for thread in pool._threads}})
        ready.set()
    """)
    assert sorted(lines) == ["True"] + ["ran"] * 10 + [TORN] * 2


@pytest.mark.parametrize("state", ["unused", "shut down", "idle"])
def test_no_time_at_all(state: str) -> None:
    """Of a pool without workers nothing is logged. Idle ones may tear down in time, or be named."""
    lines, errors = run_hanging(f"""
        pool = StatefulThreadPoolExecutor(1, "pool", make, finalizer=tear_down, exit_timeout=0)
        if {state!r} != "unused":
            pool.submit(int).result()
        if {state!r} == "shut down":
            pool.shutdown()
    """)
    if state == "idle":
        assert lines in ([], [TORN])
        assert errors in ([], [abandoned("pool", 0, "pool_0 runs no task")])
    else:
        assert lines == [TORN] * (state == "shut down")
        assert errors == []


# What comes later


@pytest.mark.parametrize(
    "then",
    [
        "pass",
        "inside(pool).can_grow = True",  # as when there was no thread to be had for another worker
        "pool.results = pool.map(abs, range(100), buffersize=2)",
        "pool.results = pool.map_unordered(abs, range(100), chunksize=2)",
        "pool.me = pool",
        "pool.open_scope = pool.scope(timeout=3600).__enter__(); pool.open_scope.submit(int)",
        "pool.submit(divmod, 1, 0)",
    ],
)
@pytest.mark.parametrize("hang", ["hang", "lambda: pool.submit(hang).result()", "lambda: pool.submit(hang) and hang()"])
def test_what_goes_after_a_worker_was_stopped(then: str, hang: str) -> None:
    """Destructors, iterators and the pool itself wait for nothing."""
    lines, errors = run_hanging(f"""
        pool = made("pool", 1, 0)
        pool.submit({hang})
        until(lambda: hanging)
        taken_over = [pool.submit(int) for _ in range(3)][0]
        taken_over.set_running_or_notify_cancel()
        keep(Late(pool, taken_over))
        {then}
        del pool
    """)
    assert lines == [TOO_LATE, "gone"]
    assert len(errors) == 1


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("raised(pool.submit, int)", [TOO_LATE]),
        ("say(pool.stats().workers)", ["1"]),
        ("pool.shutdown()", []),
        ("pool.__exit__(None, None, None)", []),
        ("raised(lambda: pool.shutdown(timeout=0))", ["TimeoutError"]),
    ],
)
def test_an_atexit_handler_uses_the_pool(use: str, said: list[str]) -> None:
    """Workers that were abandoned still run then. Nobody waits for them, but who says for how long is told."""
    lines, errors = run_hanging(f"""
        pool = hung("pool", 1, 0)

        @atexit.register
        def handler():
            {use}
    """)
    assert lines == said
    assert len(errors) == 1


# Several pools


def test_timeouts_run_at_the_same_time() -> None:
    """Two pools that hang take the longer of both, not the sum; the shortest is waited for first."""
    lines, errors = run_hanging("""
        from inside import hook

        pools = [hung("long", 1, 0.3), hung("short", 1, 0.1), hung("same", 1, 0.3), made("none"), hung("zero", 1, 0)]
        owner, name = hook("Registry.join")
        join = getattr(owner, name)

        def told(registry, timeout=None):
            ended = join(registry, timeout)
            waits.append((registry.name, timeout))
            return ended

        setattr(owner, name, told)
        waits = []

        @atexit.register
        def handler():
            say(*[f"{name}," for name, timeout in waits])
            first, second = [timeout for name, timeout in waits if name in ("long", "same")]
            say(0 < first <= 0.3, second <= 0)
    """)
    assert lines == [TORN, "zero, short, same, long, none,", "True True"] or lines == [
        TORN, "zero, short, long, same, none,", "True True"
    ]  # fmt: skip
    assert [line.partition(" has")[0] for line in errors] == lines[1].rstrip(",").split(", ")[:-1]


def test_a_pool_without_a_timeout_is_waited_for_last() -> None:
    """What hangs is logged, and its backlog cancelled, in its time, and not when all else has ended."""
    lines, errors = run_hanging("""
        told = threading.Event()
        logging.getLogger("stateful_executor").addHandler(Told(told.set))
        other, pool = made("other"), hung("pool", 1, 0.05)
        queued = pool.submit(say, "never")
        other.submit(lambda: (told.wait(), raised(queued.result)))
        other.submit(say, "ran")
    """)
    assert lines == ["ERROR pool", "CancelledError", "ran", TORN]
    assert errors == []


# Ctrl-C, and log handlers


@needs_signals
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit(3)", "TimeoutError('too long')"])
def test_interrupt_while_it_waits(error: str, times: int) -> None:
    """However often: all queues are cancelled, and the time goes on from where it was; then it is raised."""
    lines, errors = run_hanging(
        f"""
        pool, other = hung("pool", 1, 0.3), made("other")
        other.submit(interrupting, {times})
        queued += [each.submit(say, "never") for each in [pool, other] for _ in range(2)]
        ready.set()
        """,
        preludes=INTERRUPTS.replace("raise KeyboardInterrupt", f"raise {error}"),
    )
    assert lines == ["queued tasks were cancelled:" + " True" * 4, TORN]
    assert sum("has not ended 0.3 seconds" in line for line in errors) == 1
    assert sum("ignored" in line for line in errors) == 1
    assert error.partition("(")[0] in errors[-1]


@pytest.mark.parametrize("error", ["LookupError", "KeyboardInterrupt", "SystemExit"])
def test_a_log_handler_raises(error: str) -> None:
    """It is asked once, and its error is raised in the end; all else is joined."""
    lines, errors = run_hanging(f"""
        def fails():
            raise {error}

        logging.getLogger("stateful_executor").addHandler(Told(fails))
        pool, another, other = hung("pool", 1, 0), hung("another", 1, 0), made("other")
    """)
    assert sorted(lines) == ["ERROR another", "ERROR pool", TORN]
    assert sum("ignored" in line for line in errors) == 1
    assert error in errors[-1]
