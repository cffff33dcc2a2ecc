"""kcat against the Kafka door: metadata, produce with every codec that it has, fetch from both ends and by offset, a balanced group.

Takes HOST and the Kafka door's PORT. Topics are named after the process, and stay.
"""

import json
import os
import shutil
import subprocess
import sys

from common import arguments, equal

HOST, PORT = arguments()
KCAT = shutil.which("kcat")
if KCAT is None:
    print("kcat is not installed")
    sys.exit(77)
TOPIC = f"kcat-{os.getpid()}"


def kcat(*words, text=""):
    done = subprocess.run([KCAT, "-b", f"{HOST}:{PORT}", *words], input=text, capture_output=True, text=True, timeout=40)
    if done.returncode != 0:
        raise AssertionError(f"kcat {words}: {done.stderr}")
    return done.stdout


def main():
    # The first look makes the topic.
    kcat("-P", "-t", TOPIC, "-k", "k", text="one\ntwo\nthree\n")
    seen = json.loads(kcat("-L", "-J"))
    assert TOPIC in [topic["topic"] for topic in seen["topics"]], seen
    equal(kcat("-C", "-t", TOPIC, "-e", "-q"), "one\ntwo\nthree\n", "all of it")
    equal(kcat("-C", "-t", TOPIC, "-o", "1", "-c", "1", "-e", "-q"), "two\n", "from the middle of a batch")
    equal(kcat("-C", "-t", TOPIC, "-o", "-1", "-e", "-q"), "three\n", "the last one")
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        lines = "".join(f"{codec} {number} {'x' * 50}\n" for number in range(2000))
        kcat("-P", "-t", f"{TOPIC}-{codec}", "-z", codec, "-X", "acks=all", text=lines)
        equal(kcat("-C", "-t", f"{TOPIC}-{codec}", "-e", "-q"), lines, codec)
    found = kcat("-Q", "-t", f"{TOPIC}:0:-1")
    assert "offset 3" in found, found
    group = kcat("-G", f"{TOPIC}-group", "-X", "auto.offset.reset=earliest", "-e", "-q", "-c", "3", TOPIC)
    equal(group, "one\ntwo\nthree\n", "a group of one")
    print("kcat: ok")


main()
