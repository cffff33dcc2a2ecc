"""redis-benchmark's default tests, quickly: every test must finish with a rate and no error. Not a measurement."""

import shutil
import subprocess
import sys

from common import arguments

HOST, PORT = arguments()
if not shutil.which("redis-benchmark"):
    print("skipped: redis-benchmark is not installed")
    sys.exit(77)

# What the default run prints, one line of CSV each.
TESTS = ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "LPUSH", "RPUSH", "LPOP", "RPOP", "SADD", "HSET", "SPOP", "ZADD", "ZPOPMIN", "LRANGE_100", "MSET"]


def run(*args):
    command = ["redis-benchmark", "-h", HOST, "-p", str(PORT), "--csv", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    if done.returncode != 0 or "rror" in done.stdout + done.stderr:
        raise AssertionError(f"{command}: exit {done.returncode}: {done.stdout} {done.stderr}")
    rows = {}
    for line in done.stdout.splitlines():
        cells = line.strip().split('","')
        if len(cells) > 1 and not line.startswith('"test"'):
            rows[cells[0].strip('"')] = float(cells[1].strip('"'))
    return rows


def main():
    rows = run("-n", "2000", "-c", "20")
    for test in TESTS:
        found = [rate for name, rate in rows.items() if name.split(" ")[0] == test]
        assert found and found[0] > 0, f"no rate for {test}: {sorted(rows)}"
    print(f"  redis-benchmark default: {len(rows)} tests")
    rows = run("-n", "5000", "-c", "20", "-P", "16", "-r", "1000", "-t", "set,get,incr,lpush,hset,zadd,xadd")
    print(f"  redis-benchmark -P 16: {len(rows)} tests")
    rows = run("-n", "2000", "-c", "5", "XADD", "stream", "*", "f", "v")
    print("  redis-benchmark XADD: ok")


main()
