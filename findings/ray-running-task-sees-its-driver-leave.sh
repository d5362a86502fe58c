#!/usr/bin/env bash
# Ray 2.60.0 (CPython 3.11.7 and 3.13.0).
#
# A driver leaves a cluster by `ray.shutdown()` while a task of an actor of its runs on the main thread of that: Ray's own
# handler of SIGTERM raises `SystemExit(1)` in the middle of the task. `finally` and `except BaseException` blocks of the
# task run, and what it does then (here: it writes a file) is done after its driver has gone.
#
# A good guess would be that an actor without a driver is killed at once, as `ray.kill` does, or when its task has ended.
# Code that runs tasks for others in an actor, and reports what they raise, reports this `SystemExit` as the task's own,
# unless it has a handler of SIGTERM itself.
#
# Runs without any network but the loopback where the machine allows that: Ray listens on all interfaces.
set -euo pipefail
folder=$(mktemp -d /tmp/ray-XXXX)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ray==2.60.0
cat >"$folder/driver.py" <<'PYTHON'
import os
import sys
import time

import ray


@ray.remote
class Worker:
    def rest(self, folder):
        open(f"{folder}/began", "w").close()
        try:
            time.sleep(100)
        except BaseException as error:
            with open(f"{folder}/raised.new", "w") as file:
                print(repr(error), file=file)
            os.rename(f"{folder}/raised.new", f"{folder}/raised")
            raise


address, folder = sys.argv[1:]
ray.init(address, log_to_driver=False, logging_level="error")
worker = Worker.remote()
reference = worker.rest.remote(folder)
while not os.path.exists(f"{folder}/began"):
    time.sleep(0.01)
ray.shutdown()
PYTHON
cat >"$folder/cluster.py" <<'PYTHON'
import os
import subprocess
import sys
import time

import ray

folder = sys.argv[1]
cluster = ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
subprocess.run([sys.executable, f"{folder}/driver.py", cluster.address_info["address"], folder], check=True)
until = time.monotonic() + 30
while not os.path.exists(f"{folder}/raised") and time.monotonic() < until:
    time.sleep(0.01)
print(open(f"{folder}/raised").read().strip())
PYTHON

alone=()
unshare -n sh -c 'ip link set lo up' 2>/dev/null && alone=(unshare -n sh -c 'ip link set lo up; exec "$@"' sh)
output=$(env -u RAY_ADDRESS RAY_TMPDIR="$folder" RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 \
    "${alone[@]}" "$folder/venv/bin/python" "$folder/cluster.py" "$folder" 2>/dev/null)
printf '%s\n' "$output"
[[ $output == "SystemExit(1)" ]]
