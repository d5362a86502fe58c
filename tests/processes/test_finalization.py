"""The last moments of an interpreter: threads of the user's that go on, objects that go late, and odd ways to end."""

import os
import subprocess
import sys
from pathlib import Path

import inside
import pytest
from child import LATE, PATHS, PATIENCE, PRELUDE, TOO_LATE, needs_signals, run, run_well

import stateful_executor

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
TORN = "torn down in its thread"

# Threads of the user's

ENTRY_POINTS = {
    "submit": "pool.submit(say, 'never')",
    "map": "pool.map(say, ['never'])",
    "map_unordered": "pool.map_unordered(say, ['never'], chunksize=2)",
    "view": "pool.with_state().submit(say, 'never')",
    "broadcast": "pool.broadcast(say, 'never')",
    "new pool": "StatefulThreadPoolExecutor(1).submit(say, 'never')",
    "asubmit": "asyncio.run(pool.asubmit(say, 'never'))",
    "run_in_executor": "asyncio.run(in_executor())",
}


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_a_thread_submits_when_the_main_thread_has_returned(entry_point: str) -> None:
    """Each time, and through each entry point, it gets the error of the standard library (cpython#148280)."""
    lines = run_well(f"""
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down, max_backlog=1)
        pool.submit(int).result()
        theirs = ThreadPoolExecutor(1)

        async def in_executor():
            return await asyncio.get_running_loop().run_in_executor(pool, say, "never")

        def thread():
            until(lambda: inside(pool).close_reason is not None and not pool.stats().workers)
            until(lambda: refuses(theirs))
            for _ in range(2):
                raised(lambda: {ENTRY_POINTS[entry_point]})
            pool.shutdown()

        def refuses(executor):
            try:
                executor.submit(int)
            except RuntimeError as exc:
                return str(exc).startswith("cannot schedule new futures after")

        threading.Thread(target=thread).start()
    """)
    assert lines == [TORN, *[TOO_LATE] * 2]


def test_a_scope_when_the_main_thread_has_returned() -> None:
    """Its block is entered, refuses tasks and ends, also with a timeout."""
    lines = run_well("""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        pool.submit(int).result()

        def thread():
            until(lambda: inside(pool).close_reason is not None and not pool.stats().workers)
            for options in {}, {"timeout": 3600}, {"fail_fast": True}, {"timeout": 0}:
                try:
                    with pool.scope(**options) as scope:
                        raised(scope.submit, say, "never")
                        raised(scope.with_state().submit, say, "never")
                except TimeoutError:
                    say("TimeoutError")

        threading.Thread(target=thread).start()
    """)
    assert lines == [TORN, *[TOO_LATE] * 8, "TimeoutError"]


WAITS = {
    "result": "say(last.result())",
    "exception": "say(last.exception())",
    "scope's end": "scope.__exit__(None, None, None); say(last.result())",
    "map": "say(*pool_map)",
    "map_unordered": "say(*pool_map_unordered)",
    "wait": "concurrent.futures.wait([last]); say(last.result())",
    "as_completed": "say(*[future.result() for future in concurrent.futures.as_completed([last])])",
    "shutdown": "pool.shutdown(); say(last.result())",
    "asyncio": "say(asyncio.run(awaited()))",
}


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "non-daemon"])
@pytest.mark.parametrize("wait", WAITS)
def test_a_thread_waits_while_the_interpreter_exits(wait: str, daemon: bool) -> None:
    """What was accepted runs, and whoever waits for it hears of it."""
    lines = run_well(f"""
        import asyncio, concurrent.futures

        async def awaited():
            return await asyncio.wrap_future(last)

        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        other = StatefulThreadPoolExecutor(1)  # so that a daemon lives long enough to tell
        told, waiting = threading.Event(), threading.Event()
        other.submit(told.wait)
        pool.submit(waiting.wait)
        pool.submit(until_main_sleeps)
        scope = pool.scope().__enter__()
        pool_map, pool_map_unordered = pool.map(lambda _: None, [1]), pool.map_unordered(lambda _: None, [1])
        last = scope.submit(lambda: None)

        def thread():
            waiting.set()
            {WAITS[wait]}
            told.set()

        threading.Thread(target=thread, daemon={daemon}).start()
        ready.set()
    """)
    assert sorted(lines) == ["None", TORN]


WORK = {
    "result": "taken_over.result()",
    "exception": "taken_over.exception()",
    "wait": "concurrent.futures.wait([taken_over])",
    "as_completed": "list(concurrent.futures.as_completed([taken_over]))",
    "scope's end": "with_scope()",
    "submits": "pool.submit(int)",
    "maps": "list(pool.map(abs, [1], chunksize=2))",
    "scopes": "open_scope()",
    "stats": "repr(pool)",
    "shutdowns": "another.shutdown()",
    "new pools": "new_pool()",
    "futures": "concurrent.futures.wait([pool.submit(int)])",
}


@pytest.mark.parametrize("daemon", ["thread", "worker"])
@pytest.mark.parametrize("work", WORK)
def test_a_daemon_is_stopped_wherever_it_is(work: str, daemon: str) -> None:
    """One that sleeps or works in the library for ever holds up no exit, nor what goes after it was stopped.

    Be it the user's, or a worker of a pool with an `exit_timeout`.
    """
    lines = run_well(
        f"""
        import concurrent.futures, logging

        def with_scope():
            with pool.scope() as scope:
                scope.submit(int).set_running_or_notify_cancel()  # and nobody ends it

        def open_scope():
            with pool.scope(timeout=3600) as scope:
                scope.submit(int)

        def new_pool():
            with StatefulThreadPoolExecutor(1) as new:
                new.submit(int)

        def thread():
            while True:
                with suppress(RuntimeError):
                    begun.set()
                    {WORK[work]}

        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down, max_backlog=10)
        pool.submit(int).result()
        running, go_on, begun = threading.Event(), threading.Event(), threading.Event()
        blocker = pool.submit(lambda: running.set() or go_on.wait())
        running.wait()
        another = StatefulThreadPoolExecutor(1)
        taken_over = pool.submit(int)
        taken_over.set_running_or_notify_cancel()
        keep(Late(pool, taken_over))
        if {daemon!r} == "thread":
            threading.Thread(target=thread, daemon=True).start()
        else:
            logging.getLogger("stateful_executor").disabled = True
            StatefulThreadPoolExecutor(1, exit_timeout=0).submit(thread)
        begun.wait()
        if not {work == "scope's end"}:
            go_on.set()
        else:
            until(lambda: pool.stats().backlog == 0 and not go_on.set())
    """,
        PRELUDE + LATE,
    )
    assert lines == [TORN, TOO_LATE, "gone"]


@pytest.mark.parametrize("lock", ["inside(pool).workers_lock", "inside(pool).permits_lock", "getattr(*hook('making'))"])
def test_a_daemon_is_stopped_with_a_lock(lock: str) -> None:
    """Whoever comes later, a destructor say, waits for nothing: there is nobody left to guard anything from."""
    lines = run_well(
        f"""
        from inside import hook

        def thread():
            with {lock}:  # as in the middle of `stats()`, or of starting a worker
                locked.set()
                threading.Event().wait()

        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down, max_backlog=1)
        pool.submit(ready.wait)
        taken_over = pool.submit(int)
        taken_over.set_running_or_notify_cancel()
        ready.set()
        keep(Late(pool, taken_over))
        locked = threading.Event()
        atexit.register(lambda: (go_on.set(), locked.wait()))  # when the pool's workers have been joined
        go_on = threading.Event()
        threading.Thread(target=lambda: (go_on.wait(), thread()), daemon=True).start()
    """,
        PRELUDE + LATE,
    )
    assert lines == [TORN, TOO_LATE, "gone"]


# Other executors' exits


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_order_of_exits(first: str) -> None:
    """Whichever module came first: queued tasks may use the standard library's pool, which is closed after ours."""
    imports = ["import concurrent.futures.thread", "import stateful_executor"]
    lines = run_well(
        PRELUDE.replace("import atexit", "\n".join(imports if first == "theirs" else imports[::-1]) + "\nimport atexit")
        + """
theirs = concurrent.futures.ThreadPoolExecutor(1)
theirs.submit(int).result()  # Python 3.12 starts no thread while it exits
ours = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)


def task():
    until_main_sleeps()
    say(theirs.submit(len, "abc").result())
    raised(ours.submit, int)


ours.submit(task)
ready.set()
""",
        "",
    )
    assert lines == ["3", TOO_LATE, TORN]


def test_a_hook_of_threading_that_raises() -> None:
    """`threading` calls no other hook then, and joins nobody: queues are run, and states torn down, all the same.

    That of CPython 3.12.1 for process pools raises at times.
    """
    code, lines, errors = run("""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        go_on = threading.Event()
        pool.submit(go_on.wait)
        pool.submit(say, "ran")

        def fails():
            go_on.set()
            raise LookupError

        threading._register_atexit(fails)
    """)
    assert (code, lines) == (0, ["ran", TORN])
    assert errors.count("LookupError") == (1 if sys.version_info < (3, 15) else 2)  # 3.15 calls the hook again


@pytest.mark.parametrize("registered", ["before", "after"])
def test_order_among_the_hooks_of_threading(registered: str) -> None:
    """A hook registered before ours runs after it, and finds pools closed; one registered later can still submit."""
    hook = "threading._register_atexit(lambda: raised(lambda: pool.submit(len, 'abc').result()))"
    imports = f"import threading\n{hook}\n" if registered == "before" else ""
    lines = run_well(
        imports
        + PRELUDE
        + f"""
pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
pool.submit(int).result()
{hook if registered == "after" else ""}
""",
        "",
    )
    assert lines == ([TORN, TOO_LATE] if registered == "before" else ["returned 3", TORN])


def test_asyncio_with_the_pool_as_its_default_executor() -> None:
    """`asyncio.run` shuts it down at its end, and waits for its teardown."""
    lines = run_well("""
        import asyncio

        async def main():
            pool = StatefulThreadPoolExecutor(2, initializer=make, finalizer=tear_down)
            view = pool.with_state()
            loop = asyncio.get_running_loop()
            loop.set_default_executor(pool)
            say(await asyncio.to_thread(len, "abc"))
            say(await loop.run_in_executor(None, view.bind(lambda state, word: len(word)), "abcd"))
            say(await (await view.asubmit(lambda state: 5)))
            await loop.shutdown_default_executor()
            raised(pool.submit, int)
            return pool

        pool = asyncio.run(main())
        say(pool.stats().workers)
    """)
    assert [line for line in lines if line != TORN] == [
        "3", "4", "5", "RuntimeError: cannot schedule new futures after shutdown", "0",
    ]  # fmt: skip
    assert lines[-1] == "0"
    assert TORN in lines


@pytest.mark.parametrize("ending", ["loop.close()", "pass", "loop.stop(); loop.run_forever(); loop.close()"])
def test_asubmit_waits_while_the_interpreter_exits(ending: str) -> None:
    """A coroutine that waits for a place when its loop is closed, or left: exit wakes nobody in vain."""
    code, lines, errors = run(f"""
        import asyncio

        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down, max_backlog=1)
        loop = asyncio.new_event_loop()

        async def main():
            pool.submit(until_main_sleeps)
            until(lambda: not pool.stats().backlog)
            pool.submit(say, "ran")
            global waiting
            waiting = asyncio.ensure_future(pool.asubmit(say, "never"))
            while not inside(pool).waiters:
                await asyncio.sleep(0)

        loop.run_until_complete(main())
        {ending}
        ready.set()
    """)
    assert lines == ["ran", TORN]
    assert code == 0
    # What asyncio says about its own.
    assert all("Traceback" not in line or "destroyed" in errors or "closed" in errors for line in errors.splitlines())


# Where the pool is kept, and when it goes


@pytest.mark.parametrize(
    "keep",
    [
        "pool.me = pool",
        "pool.future = pool.submit(int); pool.future.pool = pool",
        "pool.submit(lambda: pool).result().me = pool",
        "pool.view = pool.with_state(lambda: pool); pool.view.submit(lambda state: None).result()",
        "pool.view = pool.with_state(id, (pool,)); pool.view.submit(lambda state: None).result()",
        "pool.scope_ = pool.scope().__enter__(); pool.scope_.submit(int)",
        "pool.results = pool.map(abs, range(3), buffersize=1); next(pool.results)",
        "pool.bound = pool.with_state().bind(id); pool.submit(pool.bound)",
        "sys.modules['kept'] = pool",
        "threading.current_thread().pool = pool",
        "builtins = __import__('builtins'); builtins.pool = pool",
        "sys.exit.__self__.pool = pool",
    ],
)
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
def test_exit_with_a_pool_in_a_cycle(keep: str, kept: bool) -> None:
    """Whatever refers to what: the queue is finished, and the state torn down, once."""
    lines = run_well(f"""
        def use():
            pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
            {keep}
            pool.submit(until_main_sleeps)
            pool.submit(say, "ran")
            return pool

        pool = use()
        {"" if kept else "del pool; gc.collect()"}
        ready.set()
    """)
    assert lines == ["ran", TORN]


@pytest.mark.parametrize("alone", [True, False], ids=["last-task", "more-queued"])
def test_exit_while_a_worker_drops_its_pool(alone: bool) -> None:
    """The last reference goes in a task, while the interpreter joins its worker."""
    lines = run_well(f"""
        holder = [StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)]

        def task():
            until_main_sleeps()
            holder.clear()
            gc.collect()
            say("dropped")

        holder[0].submit(task)
        if not {alone}:
            holder[0].submit(say, "ran")
        ready.set()
    """)
    assert lines == ["dropped"] + ["ran"] * (not alone) + [TORN]


@pytest.mark.parametrize("where", ["module", "cycle", "atexit", "other module", "worker"])
@pytest.mark.parametrize(
    ("use", "says"),
    [
        ("raised(self.pool.submit, int)", [TOO_LATE]),
        ("raised(lambda: StatefulThreadPoolExecutor(1).submit(int))", [TOO_LATE]),
        ("self.pool.shutdown(); say(self.pool.stats().workers)", None),
        ("say(self.future.result(), self.future.cancel())", ["0 False"]),
        ("repr(self.pool); self.pool.with_state(list); self.pool = None; say('dropped')", ["dropped"]),
        ("self.future.add_done_callback(lambda _: say('called'))", ["called"]),
        ("self.open_scope()", [TOO_LATE]),
    ],
    ids=["submit", "new pool", "shutdown", "future", "looks", "callback", "scope"],
)
def test_a_destructor_uses_the_pool_at_exit(where: str, use: str, says: list[str] | None) -> None:
    """In `__del__`, however late: a clear error, and no hang, whatever of the interpreter has gone already."""
    if says is None:
        if where == "worker":
            pytest.skip("a task can't wait for its own pool to end")
        says = ["0"]
    code, lines, errors = run(f"""
        import types

        class Late:
            def __init__(self):
                self.pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down, max_backlog=2)
                self.future = self.pool.submit(int)
                self.future.result()

            def open_scope(self):
                with self.pool.scope(timeout=3600) as scope:
                    raised(scope.submit, int)

            def __del__(self, StatefulThreadPoolExecutor=StatefulThreadPoolExecutor, raised=raised, say=say):
                {use}

        late = Late()
        match {where!r}:
            case "cycle":
                late.me = late
            case "atexit":
                atexit.register(lambda late: None, late)
                del late
            case "other module":
                sys.modules["other"] = types.ModuleType("other")
                sys.modules["other"].late = late
                del late
            case "worker":
                holder = [late]
                late.pool.submit(lambda: (until_main_sleeps(), holder.clear()))
                del late
                ready.set()
    """)
    assert code == 0
    if not GIL and where in ("module", "cycle"):
        # There the modules have gone before, the library's and the standard library's, and all that can be is an error.
        assert TORN in lines
        return
    assert errors == ""
    assert sorted(lines) == sorted([*says, TORN])


# Moments


def test_exit_during_an_initializer() -> None:
    """The worker makes its state, runs what is queued and tears down."""
    lines = run_well("""
        def slow():
            until_main_sleeps()
            return make()

        pool = StatefulThreadPoolExecutor(1, initializer=slow, finalizer=tear_down)
        pool.submit(say, "ran")
        ready.set()
    """)
    assert lines == ["ran", TORN]


def test_exit_during_an_initializer_that_fails() -> None:
    """The pool breaks: its tasks fail, the log has the cause, and the interpreter exits."""
    code, lines, errors = run("""
        def fails():
            until_main_sleeps()
            raise LookupError("no state")

        pool = StatefulThreadPoolExecutor(2, initializer=fails)
        for _ in range(2):
            pool.submit(say, "never").add_done_callback(lambda future: say(type(future.exception()).__name__))
        ready.set()
    """)
    assert lines == ["BrokenThreadPool"] * 2
    assert code == 0
    assert "Exception in initializer:" in errors
    assert "LookupError: no state" in errors


@pytest.mark.parametrize("submits", [True, False], ids=["submits", "idle"])
def test_exit_during_retirement(submits: bool) -> None:
    """An idle worker is in the middle of its teardown: that is finished, and happens once."""
    lines = run_well(f"""
        def slow(state):
            tearing.set()
            until_main_sleeps()
            tear_down(state)

        tearing = threading.Event()
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=slow, idle_timeout=0)
        pool.submit(int).result()
        tearing.wait()
        if {submits}:
            pool.submit(say, "ran")
        ready.set()
    """)
    assert lines == [TORN, *["ran", TORN] * submits]


@pytest.mark.parametrize("where", ["main", "thread", "daemon"])
def test_exit_with_a_deadline_pending(where: str) -> None:
    """A scope that was left open with an hour to go holds up nothing."""
    lines = run_well(f"""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        scope = None

        def open_scope():
            global scope
            scope = pool.scope(timeout=3600).__enter__()
            scope.submit(say, "ran").result()

        if {where!r} == "main":
            open_scope()
        else:
            thread = threading.Thread(target=open_scope, daemon={where == "daemon"})
            thread.start()
            thread.join()
    """)
    assert lines == ["ran", TORN]


def test_a_deadline_passes_while_the_interpreter_exits() -> None:
    """Tasks that have not begun are cancelled, although the main thread has returned, and the block says so."""
    lines = run_well("""
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)

        def thread():
            try:
                with pool.scope(timeout=0.1) as scope:
                    scope.submit(lambda: (until_main_sleeps(), until(lambda: queued and queued[0].cancelled())))
                    queued.append(scope.submit(say, "never"))
                    inside.set()
            except TimeoutError:
                say("TimeoutError", queued[0].cancelled())

        queued, inside = [], threading.Event()
        threading.Thread(target=thread).start()
        inside.wait()
        ready.set()
    """)
    assert sorted(lines) == sorted([TORN, "TimeoutError True"])


@needs_signals
@pytest.mark.parametrize("executor", ["StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)", "theirs"])
def test_sigterm(executor: str) -> None:
    """Without a handler it ends the process at once, as with the standard library: there is no teardown."""
    code, lines, errors = run(f"""
        from concurrent.futures import ThreadPoolExecutor
        theirs = ThreadPoolExecutor(1)
        pool = {executor}
        pool.submit(say, "ran").result()
        pool.submit(threading.Event().wait)
        pool.submit(say, "never")
        os.kill(parent, signal.SIGTERM)
        threading.Event().wait()
    """)
    assert (code, lines, errors) == (-15, ["ran"], "")


@needs_signals
def test_sigterm_with_a_handler_that_exits() -> None:
    """`sys.exit` in the handler ends `with` blocks and the interpreter in order: tasks finish, states are torn down."""
    code, lines, errors = run("""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        with StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down) as pool:
            with pool.scope() as scope:
                begun, go_on = threading.Event(), threading.Event()
                scope.submit(lambda: begun.set() or go_on.wait())
                scope.submit(say, "never").add_done_callback(lambda _: go_on.set())
                begun.wait()
                os.kill(parent, signal.SIGTERM)
                threading.Event().wait(PATIENCE)
    """)
    assert (code, lines, errors) == (3, [TORN], "")


@pytest.mark.parametrize("at", ["shutdown", "exit", "retirement"])
def test_os_exit_in_a_finalizer(at: str) -> None:
    """The process ends there and then."""
    code, lines, errors = run(f"""
        def ends(state):
            say("ends")
            os._exit(5)

        timeout = 0 if {at!r} == "retirement" else None
        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=ends, idle_timeout=timeout)
        pool.submit(int).result()
        if {at!r} == "shutdown":
            pool.shutdown()
        elif {at!r} == "retirement":
            threading.Event().wait(PATIENCE)
    """)
    assert (code, lines, errors) == (5, ["ends"], "")


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt", "LookupError"])
def test_a_finalizer_raises_at_exit(error: str) -> None:
    """It is logged; the other states are torn down, and the exit code is that of the main thread."""
    code, lines, errors = run(f"""
        def fails(state):
            raise {error}

        pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)
        pool.with_state(int, finalizer=fails).submit(abs).result()
        sys.exit(7)
    """)
    assert (code, lines) == (7, [TORN])
    assert errors.count("Traceback") == 1
    assert "teardown of the state made by int failed" in errors


# How the interpreter was started

EVERYTHING = """
    from stateful_executor import BacklogFull, InitializerError, StatePolicy

    def generator():
        yield threading.get_ident()

    policy = StatePolicy(check=lambda state: True, reset=lambda state: None, discard_on=LookupError, max_tasks=2)
    options = dict(policy=policy, max_backlog=2, submit_timeout=PATIENCE, idle_timeout=60, copy_context=True)
    with StatefulThreadPoolExecutor(2, "name", generator, **options) as pool:
        view = pool.with_state()
        with pool.scope(timeout=60) as scope:
            say(*scope.map(abs, range(3)), *sorted(view.map_unordered(lambda state, n: n, range(3), chunksize=2)))
            scope.with_state(list).submit(lambda state: pool.submit(len, state).result())
            with suppress(ZeroDivisionError):
                scope.submit(divmod, 1, 0).result()
        view.discard_all()
        [future.result() for future in pool.broadcast(int)]
        repr(pool), pool.stats()
    kept = StatefulThreadPoolExecutor(2, initializer=make, finalizer=tear_down)
    kept.submit(say, "ran").result()
"""


@pytest.mark.parametrize(
    "options",
    ["-X dev", "-W error", "-X dev -W error", "-O", "-OO", "-b -bb", "-s -S -E", "-X utf8", "-X tracemalloc=5",
     "-X faulthandler", "-P", "-B -u", "-v", "-X importtime"],
)  # fmt: skip
def test_options_of_the_interpreter(options: str) -> None:
    """No warning, no resource left open, nothing that needs assertions or docstrings."""
    preludes = PRELUDE
    if "-E" in options:  # without PYTHONPATH, and without site-packages
        preludes = f"import sys\nsys.path[:0] = {PATHS!r}\n" + PRELUDE
    code, lines, errors = run(EVERYTHING, preludes, *options.split())
    assert lines == ["0 1 2 0 1 2", "ran", TORN]
    assert code == 0
    if "-v" in options or "importtime" in options:  # which talk there
        assert "Traceback" not in errors
    else:
        assert errors == ""


@pytest.mark.parametrize("ending", ["", "exit()\n", "exit(4)\n", "raise SystemExit(4)\n"])
def test_interactive(ending: str) -> None:
    """At the prompt a pool works as anywhere, and the end of the input is an exit as any other."""
    script = PRELUDE + "pool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)\n"
    typed = f"say(pool.submit(len, 'abc').result())\n_ = pool.submit(divmod, 1, 0)\nsay('typed')\n{ending}"
    done = subprocess.run(
        [sys.executable, "-i", "-q", "-c", script],
        input=typed,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert sorted(done.stdout.splitlines()) == ["3", TORN, "typed"]
    assert done.returncode == (4 if "4" in ending else 0)
    assert done.stderr.count("lost error: task divmod") == 1 or not GIL  # where it may go too late for the log
    assert "Traceback" not in done.stderr  # of a function in C there is none


def test_run_as_a_module_or_from_an_archive(tmp_path: Path) -> None:
    """A pool in the `__main__` of a zip archive, whose modules go with their loader, is finished as any other."""
    import zipfile

    archive = tmp_path / "program.zip"
    package = Path(stateful_executor.__file__).parent
    with zipfile.ZipFile(archive, "w") as file:
        for module in package.glob("*.py"):
            file.write(module, f"stateful_executor/{module.name}")
        file.write(inside.__file__, "inside.py")
        file.writestr(
            "__main__.py",
            f"{PRELUDE}\npool = StatefulThreadPoolExecutor(1, initializer=make, finalizer=tear_down)\n"
            "import stateful_executor\nassert '.zip' in stateful_executor.__file__\n"
            "pool.submit(say, 'ran').result()\n",
        )
    done = subprocess.run([sys.executable, str(archive)], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, ["ran", TORN], "")
