"""rq and what Sidekiq does, against a running server: jobs, a failing one, a dependency, a schedule; unchanged scripts."""

import os
import sys
import time

from common import arguments, equal, until

HOST, PORT = arguments()

import redis  # noqa: E402
import rq  # noqa: E402
from rq.job import Job  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import rq_jobs  # noqa: E402

# What Sidekiq's poller runs to take what is due (lib/sidekiq/scheduled.rb), word for word.
TAKE_DUE = """
local key, now = KEYS[1], ARGV[1]
local jobs = redis.call("zrange", key, "-inf", now, "byscore", "limit", 0, 1)
if jobs[1] then
  redis.call("zrem", key, jobs[1])
  return jobs[1]
end
"""


def rq_part(connection):
    queue = rq.Queue("work", connection=connection)
    first = queue.enqueue(rq_jobs.add, 2, 3)
    failing = queue.enqueue(rq_jobs.fail)
    last = queue.enqueue(rq_jobs.add, 4, 5, depends_on=first)
    worker = rq.SimpleWorker([queue], connection=connection)
    worker.work(burst=True)
    equal(Job.fetch(first.id, connection=connection).return_value(), 5, "the first job")
    equal(Job.fetch(last.id, connection=connection).return_value(), 9, "the one that waited for it")
    equal(str(Job.fetch(failing.id, connection=connection).get_status()).rsplit(".", 1)[-1].lower(), "failed", "the failing one")
    equal(queue.count, 0, "what is left")
    print("rq: three jobs, one of them failing, one dependent")


def sidekiq_part(client):
    client.delete("queue:default", "schedule")
    client.sadd("queues", "default")
    now = time.time()
    client.zadd("schedule", {"due": now - 1, "later": now + 3600})
    take = client.register_script(TAKE_DUE)
    job = take(keys=["schedule"], args=[repr(now)])
    equal(job, b"due", "what is due")
    with client.pipeline(transaction=True) as pipe:
        pipe.sadd("queues", "default")
        pipe.lpush("queue:default", job)
        pipe.execute()
    equal(take(keys=["schedule"], args=[repr(now)]), None, "nothing more is due")
    equal(client.brpop(["queue:default"], timeout=2), (b"queue:default", b"due"), "BRPOP of the worker")
    with client.pipeline(transaction=False) as pipe:
        pipe.hset("worker:1", mapping={"busy": 1, "beat": now})
        pipe.expire("worker:1", 60)
        pipe.incrby("stat:processed", 1)
        pipe.expire("stat:processed", 157680000)
        equal(pipe.execute()[2:], [1, True], "the heartbeat")
    equal(client.zcard("schedule"), 1, "what is scheduled")
    print("sidekiq's commands: schedule, queue, heartbeat")


connection = redis.Redis(HOST, PORT)
connection.flushall()
until(connection.ping, "PONG")
rq_part(connection)
sidekiq_part(connection)
