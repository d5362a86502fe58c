#!/usr/bin/env bash
# Ray 2.60.0 (CPython 3.11.7 and 3.13.0).
#
# A method of an actor's handle is called after `ray.shutdown()`: Ray starts a new cluster on this machine without being
# asked, looks for the actor in there, and raises a plain `Exception`. The new cluster stays until the next shutdown.
#
# That `remote()` of a function starts one by default is documented. But an actor lives in the cluster that is gone, so a
# good guess would be an error about the lost connection, and nothing started. Code that may meet a shutdown (a thread of
# a pool, a destructor) has to ask `ray.is_initialized()` before each call of a handle.
#
# Runs without any network but the loopback where the machine allows that: Ray listens on all interfaces.
set -euo pipefail
folder=$(mktemp -d /tmp/ray-XXXX)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ray==2.60.0
cat >"$folder/script.py" <<'PYTHON'
import ray


@ray.remote
class Counter:
    def number(self):
        return 1


ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
counter = Counter.remote()
print(ray.get(counter.number.remote()))
ray.shutdown()
print("connected:", ray.is_initialized())
try:
    counter.number.remote()
except Exception as error:
    print(type(error).__name__, "different cluster" in str(error))
print("connected:", ray.is_initialized(), len(ray.nodes()))
ray.shutdown()
PYTHON

alone=()
unshare -n sh -c 'ip link set lo up' 2>/dev/null && alone=(unshare -n sh -c 'ip link set lo up; exec "$@"' sh)
output=$(env -u RAY_ADDRESS RAY_TMPDIR="$folder" RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 \
    "${alone[@]}" "$folder/venv/bin/python" "$folder/script.py" 2>/dev/null)
printf '%s\n' "$output"
[[ $output == $'1\nconnected: False\nException True\nconnected: True 1' ]]
