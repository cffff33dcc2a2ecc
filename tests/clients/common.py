"""What the client tests share: arguments, waiting for conditions, and one way to report.

Every script takes HOST PORT, owns the database it talks to (it calls FLUSHALL), prints one line per part and exits non-zero
on the first failure.
"""

import sys
import threading
import time


def arguments():
    """HOST and PORT from the command line."""
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} HOST PORT")
    return sys.argv[1], int(sys.argv[2])


def until(condition, what, seconds=10.0):
    """Waits until condition() is true and gives its value back; fails after so many seconds, naming what was waited for."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.005)


def equal(got, wanted, what=""):
    """Fails unless the two are equal, showing both."""
    if got != wanted:
        raise AssertionError(f"{what or 'value'}: wanted {wanted!r}, got {got!r}")


def raises(kind, text, call):
    """Fails unless call() raises `kind` with `text` in its message."""
    try:
        got = call()
    except kind as error:
        if text not in str(error):
            raise AssertionError(f"wanted an error with {text!r}, got {error!r}") from error
        return
    raise AssertionError(f"wanted {kind.__name__} {text!r}, got the reply {got!r}")


class Background(threading.Thread):
    """A thread whose result, or failure, join() hands back."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call, self.value, self.error = call, None, None
        self.start()

    def run(self):
        try:
            self.value = self.call()
        except BaseException as error:  # handed to the thread that waits
            self.error = error

    def result(self, seconds=15.0):
        self.join(seconds)
        if self.is_alive():
            raise AssertionError("a background call did not return")
        if self.error:
            raise self.error
        return self.value
