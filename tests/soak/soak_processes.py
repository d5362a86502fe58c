"""Workers killed at random, for as long as is asked.

    python tests/soak/soak_processes.py --minutes 10 [--method forkserver]

Every future has to be done, no task may run twice, and each kill may cost one task at most.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from kills import storm

from stateful_executor import StatefulProcessPoolExecutor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument(
        "--method", choices=multiprocessing.get_all_start_methods(), help="one of them; else each in turn"
    )
    options = parser.parse_args()
    methods = [options.method] if options.method else multiprocessing.get_all_start_methods()
    deadline = time.monotonic() + 60 * options.minutes
    while time.monotonic() < deadline:
        for method in methods:
            with tempfile.TemporaryDirectory() as folder:
                report = storm(partial(StatefulProcessPoolExecutor, mp_context=method), Path(folder), 10)
            print(f"{method}: {report}", flush=True)


if __name__ == "__main__":
    main()
