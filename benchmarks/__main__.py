"""Compare the executors side by side: one run, one table, and one picture if you like."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import sysconfig
from pathlib import Path
from time import perf_counter

from executors import ADAPTERS, RIVALS, missing, version
from questions import QUESTIONS, Plan
from race import Result
from table import columns, markdown, text

EXTRA = "pip install 'stateful-executor[bench]'"
READ = """\
Each cell is the median of the rounds, with its quartiles: stdlib (ThreadPoolExecutor) in its own unit, for one task
where nothing else is said; of the others, how many times as fast or as small they are: above 1 is better than stdlib.
"-": it can't, or is not asked. mp.pool: multiprocessing.pool.ThreadPool; floor: a queue to plain threads and one back.\
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tasks, for a first look")
    parser.add_argument("--rounds", type=positive, help="7 by default, of which slow questions do fewer")
    parser.add_argument("--tasks", type=positive, help="in a round: 5000 by default")
    parser.add_argument("--items", type=positive, help="in a stream whose memory is measured: 1000000 by default")
    parser.add_argument("--markdown", action="store_true", help="tables for a README")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures of each round")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the burst with 4 workers, as PNG or SVG")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    options = parser.parse_args()
    if options.plot and options.only and "burst" not in options.only:
        parser.error("--plot draws the question burst, which --only leaves out")
    return options


def positive(number: str) -> int:
    if int(number) < 1:
        raise ValueError(number)
    return int(number)


def planned(options: argparse.Namespace) -> Plan:
    quick = options.quick
    return Plan(
        tasks=options.tasks or (1_000 if quick else 5_000),
        streamed=options.items or (50_000 if quick else 1_000_000),
        crowd=100 if quick else 1_000,
        load_seconds=0.2 if quick else 0.8,
    )


def machine() -> str:
    free = sysconfig.get_config_var("Py_GIL_DISABLED")
    gil = "free-threaded" if free and not getattr(sys, "_is_gil_enabled", bool)() else "with the GIL"
    return (
        f"{platform.python_implementation()} {platform.python_version()} {gil}, {cores()} cores, "
        f"{platform.system()} {platform.machine()}"
    )


def cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def peers() -> str:
    return ", ".join(f"{rival.distribution} {version(rival)}" for rival in RIVALS if version(rival))


def main() -> int:
    options = arguments()
    if options.plot:
        from picture import draw  # which says what is missing before anything is measured
    plan, rounds = planned(options), options.rounds or (3 if options.quick else 7)
    lines = markdown if options.markdown else text
    shown = [name for name in columns() if ADAPTERS[name].distribution is None or version(ADAPTERS[name])]
    print(*filter(None, (machine(), peers())), sep="\n")
    if lacking := missing():
        print(f"Not installed: {', '.join(lacking)}. {EXTRA}")
    print(f"{rounds} rounds of {plan.tasks:,} tasks (of slow executors fewer), all in turn.\n{READ}")
    gc.freeze()  # what has been imported is not what is collected before each round
    results: list[Result] = []
    start = perf_counter()
    for question in options.only or QUESTIONS:
        for race in QUESTIONS[question](plan):
            results.append(race.run(rounds))
            print("", *lines(results[-1], shown), sep="\n", flush=True)
    print(f"\n{perf_counter() - start:.0f} s")
    verdicts = [verdict for result in results for verdict in result.verdicts()]
    missed = [verdict for verdict in verdicts if not verdict.reached]
    if verdicts:
        print(f"\nBars: {len(verdicts) - len(missed)} of {len(verdicts)} reached.")
        print(*(f"missed: {verdict.text}" for verdict in missed), sep="\n")
    if options.json:
        options.json.write_text(json.dumps([record for result in results for record in records(result)], indent=1))
    if options.plot:
        draw(results, options.plot, f"{machine()}; {rounds} rounds of {plan.tasks:,} tasks")
    return 1 if options.check and missed else 0


def records(result: Result) -> list[dict[str, object]]:
    return [
        {
            "question": result.race.question,
            "race": result.race.title,
            "row": row,
            "executor": who,
            "figure": figure.name or "time",
            "unit": figure.unit[-1][1] if figure.unit[-1][1] == "s" else "B",
            "rounds": [one[figure] for one in rounds],
        }
        for (row, who), rounds in result.rounds.items()
        for figure in rounds[0]
    ]


if __name__ == "__main__":
    sys.exit(main())
