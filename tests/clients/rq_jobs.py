"""What the workers of rq_test.py are to do."""


def add(one, other):
    return one + other


def fail():
    raise ValueError("it was to fail")
