"""The saved file against the description of its format, "Trace Event Format" by Google, field by field.

That says: an object with `traceEvents`, in which each event has a name, a phase `ph`, a process `pid` and a thread
`tid`; a time `ts` in microseconds, but for metadata. A complete event (`X`) has its `dur`, and those of one thread
nest. A nestable async event has a category and an `id`, and each beginning (`b`) one end (`e`) of the same category, id
and name. An instant (`i`) has a scope `s`: `g`, `p` or `t`. The `args` of a counter (`C`) are numbers. The metadata
used here (`M`) has a `name`, or a `sort_index`.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from recordings import everything, many
from threads import until

from stateful_executor import StatefulThreadPoolExecutor, trace
from stateful_executor.trace import Recording

Event = dict[str, Any]

FIELDS = {
    "M": {"args": dict},
    "X": {"ts": (int, float), "dur": (int, float), "cat": str},
    "b": {"ts": (int, float), "cat": str, "id": str},
    "e": {"ts": (int, float), "cat": str, "id": str},
    "i": {"ts": (int, float), "s": str},
    "C": {"ts": (int, float), "args": dict},
}
METADATA = {"process_name": {"name": str}, "thread_name": {"name": str}, "thread_sort_index": {"sort_index": int}}


def saved(recording: Recording, path: Path) -> list[Event]:
    recording.save(path)
    written = path.read_bytes()
    content = json.loads(gzip.decompress(written) if path.suffix == ".gz" else written)
    assert content["displayTimeUnit"] in ("ms", "ns")
    events: list[Event] = content["traceEvents"]
    return events


def check(event: Event) -> None:
    fields = {"name": str, "pid": int, "tid": int, **FIELDS[event["ph"]]}
    for field, kind in fields.items():
        assert isinstance(event[field], kind), (field, event)  # type: ignore[arg-type]  # a type, or several
    assert set(event) <= {*fields, "ph", "args", "cat"}, event
    assert event.get("ts", 0) >= 0
    assert event.get("dur", 0) >= 0
    if event["ph"] == "M":
        assert {name: type(value) for name, value in event["args"].items()} == METADATA[event["name"]]
    if event["ph"] == "C":
        assert all(isinstance(value, int) and value >= 0 for value in event["args"].values())
    assert event.get("s", "t") in ("g", "p", "t")


def check_nesting(events: list[Event]) -> None:
    """Of complete events in one thread, each ends before the one does that it began in."""
    ends: list[float] = []
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        while ends and ends[-1] <= event["ts"]:
            ends.pop()
        assert not ends or event["ts"] + event["dur"] <= ends[-1] + 0.001, event  # decimals of a microsecond
        ends.append(event["ts"] + event["dur"])


def check_all(events: list[Event]) -> None:
    for event in events:
        check(event)
    threads = {event["tid"] for event in events if event["ph"] == "X"}
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert threads <= named
    for thread in threads:
        check_nesting([event for event in events if event["ph"] == "X" and event["tid"] == thread])
    pairs: dict[tuple[str, str, str], list[Event]] = {}
    for event in events:
        if event["ph"] in "be":
            pairs.setdefault((event["cat"], event["id"], event["name"]), []).append(event)
    for begin, end in pairs.values():  # two of each
        assert (begin["ph"], end["ph"]) == ("b", "e")
        assert begin["ts"] <= end["ts"]


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_everything_there_is(name: str, tmp_path: Path) -> None:
    recording = everything()
    events = saved(recording, tmp_path / name)
    check_all(events)
    spans = Counter(span.kind for span in recording.spans())
    complete = Counter(event["name"] if event["cat"] == "state" else "task" for event in events if event["ph"] == "X")
    assert complete == {"task": spans["task"]} | {
        f"{kind} list": spans[kind] for kind in ("make", "check", "reset", "teardown")
    }
    assert [event["name"] for event in events if event["ph"] == "i"] == ["discard list"]
    assert Counter(event["cat"] for event in events if event["ph"] == "b") == {
        "scope": spans["scope"],
        "blocked": spans["blocked"],
    }
    assert sum(event["args"].get("in_place", False) for event in events if event["ph"] == "X") == 1
    assert {event["args"]["name"] for event in events if event["name"] == "thread_name"} == {"w_0", "w_1"}


def test_the_backlog_never_exceeds_its_bound(tmp_path: Path) -> None:
    events = saved(everything(), tmp_path / "trace.json")
    figures = [event["args"]["tasks"] for event in events if event["name"] == "backlog"]
    assert max(figures) == 2
    assert figures[-1] == 0


def test_while_it_goes_on(tmp_path: Path) -> None:
    """What has not ended is there, and said to be so."""
    go_on = threading.Event()
    with StatefulThreadPoolExecutor(1) as pool, trace.record(pool) as recording:
        pool.submit(go_on.wait, 20)
        until(lambda: any(span.kind == "task" for span in recording.spans()))
        events = saved(recording, tmp_path / "trace.json")
        go_on.set()
    check_all(events)
    (task,) = [event for event in events if event["ph"] == "X"]
    assert task["args"]["has_not_ended"]


def test_many_tasks(tmp_path: Path) -> None:
    events = saved(many(8_000), tmp_path / "trace.json")
    check_all(events)
    assert sum(event["ph"] == "X" for event in events) == 8_000
    assert len(events) < 60_000  # counters are thinned out
