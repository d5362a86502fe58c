#!/usr/bin/env bash
# Ray 2.60.0 (CPython 3.11.7 and 3.13.0).
#
# `ray.shutdown()` while another thread of the same process waits in `ray.get`: that thread gets a `SystemExit`. Nothing
# prints it, and no `except Exception` sees it: the thread of a `threading.Thread` ends without a word, and one that serves
# others (a worker of a pool, a request handler) leaves whoever waits for it without an answer.
#
# A good guess would be one of Ray's own errors, which derive from `ray.exceptions.RayError`. So code that waits for Ray
# in threads has to catch `BaseException`, and to ask `ray.is_initialized()`.
#
# Runs without any network but the loopback where the machine allows that: Ray listens on all interfaces.
set -euo pipefail
folder=$(mktemp -d /tmp/ray-XXXX)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ray==2.60.0
cat >"$folder/script.py" <<'PYTHON'
import threading
import time

import ray

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error", _temp_dir=TEMP)


@ray.remote
def rest():
    time.sleep(1000)


def wait(reference):
    begun.set()
    try:
        ray.get(reference)
    except BaseException as error:
        print(type(error).__name__, isinstance(error, ray.exceptions.RayError), flush=True)


begun = threading.Event()
thread = threading.Thread(target=wait, args=(rest.remote(),))
thread.start()
begun.wait()
time.sleep(1)
ray.shutdown()
thread.join()
PYTHON
sed -i "s|TEMP|'$folder/ray'|" "$folder/script.py"

alone=()
unshare -n sh -c 'ip link set lo up' 2>/dev/null && alone=(unshare -n sh -c 'ip link set lo up; exec "$@"' sh)
output=$(RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))') \
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 "${alone[@]}" "$folder/venv/bin/python" "$folder/script.py" 2>/dev/null)
printf '%s\n' "$output"
[[ $output == "SystemExit False" ]]
