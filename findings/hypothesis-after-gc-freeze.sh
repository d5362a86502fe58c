#!/usr/bin/env bash
# hypothesis 6.139.2, trio 0.35.0, CPython 3.11.7 and 3.13.0 (GIL builds).
#
# After `gc.freeze()`, as pre-forking servers and test suites call it, the first import of hypothesis warns, where trio
# is installed and has been imported before, that "It looks like `register_random` was passed an object that could be
# garbage collected immediately". With warnings as errors `import hypothesis` fails, at whatever moment it comes; in
# pytest that is the summary, since the plugin imports hypothesis lazily: all tests have passed, and the run ends with a
# traceback.
#
# The object is a global of one of trio's modules, and is safe. hypothesis looks for what refers to it by
# `gc.get_referrers`, and that sees nothing that was frozen: the permanent generation is not looked through. A good guess
# would be that freezing changes nothing but the time of collections.
#
# Without `gc.freeze()`, or with hypothesis imported before it, there is no warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check hypothesis==6.139.2 trio==0.35.0
run() { "$folder/venv/bin/python" -W error -c "$1" 2>&1 | tail -1 || true; }

first=$(run 'import gc, trio; import hypothesis; gc.freeze(); print("no warning")')
frozen=$(run 'import gc, trio; gc.freeze(); import hypothesis; print("no warning")')
cause=$(run 'import gc; held = [[]]; before = len(gc.get_referrers(held[0])); gc.freeze()
print("referrers:", before, "then", len(gc.get_referrers(held[0])))')
printf 'hypothesis before gc.freeze(): %s\nhypothesis after gc.freeze():  %s\n%s\n' "$first" "$frozen" "$cause"
[[ $first == "no warning" ]]
[[ $frozen == *"HypothesisWarning: It looks like \`register_random\` was passed an object"* ]]
[[ $cause == "referrers: 1 then 0" ]]
