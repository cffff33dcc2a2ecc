"""The tasks of the celery test. HOST and PORT come from QUORATE_TEST_ADDR."""

import os
import time

import redis
from celery import Celery

ADDR = os.environ.get("QUORATE_TEST_ADDR", "127.0.0.1:6379")
# A message whose worker died is handed out again after so many seconds (longer than any ETA here).
VISIBILITY_S = 4

app = Celery("tests", broker=f"redis://{ADDR}/0", backend=f"redis://{ADDR}/1")
app.conf.update(
    broker_transport_options={"visibility_timeout": VISIBILITY_S},
    result_backend_transport_options={"visibility_timeout": VISIBILITY_S},
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    result_expires=600,
)


def store():
    host, port = ADDR.rsplit(":", 1)
    return redis.Redis(host=host, port=int(port), db=2, decode_responses=True)


@app.task
def add(x, y):
    return x + y


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=5)
def flaky(self, name, failures):
    """Fails so many times, then tells how often it was tried."""
    tries = store().incr(f"tries:{name}")
    if tries <= failures:
        raise self.retry(countdown=0.1)
    return tries


@app.task
def stamp():
    """When it ran."""
    return time.time()


@app.task
def fails():
    raise ValueError("on purpose")


@app.task(bind=True)
def held(self, n):
    """Says that it began, waits until the gate opens, then gives n squared: the one to be killed meanwhile."""
    r = store()
    r.sadd(f"began:{self.request.hostname}", n)
    r.incr(f"runs:{n}")
    while not r.exists("gate"):
        time.sleep(0.02)
    return n * n
