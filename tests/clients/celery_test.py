"""celery against a running server: two workers, groups, chains, chords, retries, ETA, and one worker killed under way.

Every result must be exact. A worker that is killed with unacknowledged tasks loses none of them.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone

from common import arguments, equal, until

HOST, PORT = arguments()
os.environ["QUORATE_TEST_ADDR"] = f"{HOST}:{PORT}"
os.environ.setdefault("C_FORCE_ROOT", "1")

import redis  # noqa: E402
from celery import chain, chord, group  # noqa: E402
from celery_app import VISIBILITY_S, add, app, fails, flaky, held, stamp, store, total  # noqa: E402

WAIT = 40


class Worker:
    """One worker with two processes, in a process group of its own."""

    def __init__(self, name):
        self.name = name
        self.log = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-P", "prefork", "-c", "2", "-n", f"{name}@test"]
        command += ["-l", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        here = os.path.dirname(os.path.abspath(__file__))
        self.process = subprocess.Popen(command, cwd=here, stdout=self.log, stderr=self.log, start_new_session=True)

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"worker {self.name} ended: {self.text()}")
        return f"{self.name}@test" in (app.control.inspect(timeout=0.5, destination=[f"{self.name}@test"]).ping() or {})

    def kill(self):
        """kill -9 of the worker and its two processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(8)
            except subprocess.TimeoutExpired:
                self.kill()

    def text(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-3000:]


def say(what, started):
    print(f"  celery {what}: {time.monotonic() - started:.1f} s", flush=True)


def begun_by(name):
    """The tasks that worker `name` has begun, once it has both hands full."""
    tasks = store().smembers(f"began:{name}@test")
    return tasks if len(tasks) == 2 else None


def unacknowledged_old():
    """Whether what is unacknowledged is past the visibility timeout (kombu keeps the times in a sorted set of its own)."""
    host, port = os.environ["QUORATE_TEST_ADDR"].rsplit(":", 1)
    times = [score for _, score in redis.Redis(host=host, port=int(port)).zrange("unacked_index", 0, -1, withscores=True)]
    return len(times) == 2 and max(times) < time.time() - VISIBILITY_S


def main():
    store().flushall()
    begun = time.monotonic()
    first, second, third = Worker("first"), Worker("second"), None
    try:
        until(first.answers, "the first worker answers", 30)
        until(second.answers, "the second worker answers", 30)
        say("workers up", begun)

        started = time.monotonic()
        equal(add.delay(2, 3).get(WAIT), 5)
        equal(group(add.s(n, n) for n in range(40))().get(WAIT), [2 * n for n in range(40)])
        equal(chain(add.s(1, 2), add.s(3), add.s(4))().get(WAIT), 10)
        equal(chord((add.s(n, 1) for n in range(30)), total.s())().get(WAIT), sum(range(30)) + 30)
        nested = chain(group(add.s(n, 0) for n in range(10)), total.s(), add.s(100))
        equal(nested().get(WAIT), 145)
        try:
            fails.delay().get(WAIT)
            raise AssertionError("a failing task succeeded")
        except ValueError as error:
            equal(str(error), "on purpose")
        say("groups, chains, chords", started)

        started = time.monotonic()
        retried = [flaky.delay(f"f{n}", n % 4) for n in range(8)]
        equal([result.get(WAIT) for result in retried], [n % 4 + 1 for n in range(8)])
        say("retries", started)

        started = time.monotonic()
        eta = datetime.now(timezone.utc) + timedelta(seconds=1)
        ran = [stamp.apply_async(eta=eta), stamp.apply_async(countdown=1.5)]
        early = [result.get(WAIT) - eta.timestamp() for result in ran]
        assert early[0] >= 0 and early[1] >= 0.4, f"ran before its time: {early}"
        say("ETA", started)

        started = time.monotonic()
        results = chord((held.s(n) for n in range(6)), total.s())()
        until(lambda: begun_by("first") and begun_by("second"), "both workers have two tasks in hand")
        victims = begun_by("first")
        first.kill()
        store().set("gate", "open")
        until(unacknowledged_old, "only the killed worker's messages are left, and old enough to be handed out again", 30)
        # A worker looks for such messages when it starts (and then every hundred seconds).
        third = Worker("third")
        equal(results.get(WAIT), sum(n * n for n in range(6)), "the chord over the killed worker's tasks")
        for n in range(6):
            equal(store().get(f"runs:{n}"), "2" if str(n) in victims else "1", f"runs of task {n}")
        say("a worker killed under way", started)
        until(lambda: store().execute_command("LLEN", "celery") == 0, "the queue is empty")
    except BaseException:
        for worker in (first, second, third):
            if worker:
                print(f"--- worker {worker.name}\n{worker.text()}", file=sys.stderr)
        raise
    finally:
        for worker in (first, second, third):
            if worker:
                worker.stop()
    print(f"  celery whole: {time.monotonic() - begun:.1f} s")


main()
