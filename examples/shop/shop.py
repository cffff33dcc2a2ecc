"""The shop: what happens to an order, and who makes it happen. Started by `run`.

    web ── row + event ──► orders ──► payment ──► payments ──► inventory ──► outcomes ──► mail (a Kafka consumer)
                                                                  └── sold out: the money goes back (compensation)

Every arrow is one commit: a worker's effect on the rows, the event that tells of it, and the acknowledgement of the event
that caused it. So a worker may be killed at any moment and started again: what it had not committed has not happened, and what
it had is not done twice.
"""

import json

import redis
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

# Rows and topics with one tag lie in one shard, however many there are: each commit is one entry of one log.
TAG, TOPICS = "shop", ["orders", "payments", "outcomes"]


def row(name):
    return "{%s}:%s" % (TAG, name)


def connect(address):
    host, port = address.rsplit(":", 1)
    return redis.Redis(host, int(port), decode_responses=True)


def declare_topics(kafka):
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.create_topics([NewTopic(name, 1, config={"quorate.tag": TAG}) for name in TOPICS]).values():
        future.result(30)


def tell(commit, topic, event):
    commit.xadd(f"topic:{topic}", {"K": event["customer"], "V": json.dumps(event)})


def place_order(client, event):
    """The row and the event: there is never one without the other."""
    with client.pipeline(transaction=True) as commit:
        commit.hset(row(f"order:{event['order']}"), mapping={**event, "state": "placed"})
        tell(commit, "orders", event)
        commit.execute()


# ---- workers ---------------------------------------------------------------------------------------------------------


def pay(commit, event):
    """Takes the customer's money, or refuses the order."""
    wallet, price = row(f"wallet:{event['customer']}"), event["price"]
    commit.watch(wallet)
    can_pay = int(commit.get(wallet)) >= price
    commit.multi()
    if can_pay:
        commit.decrby(wallet, price)
        commit.incrby(row("till"), price)
    commit.hset(row(f"order:{event['order']}"), "state", "paid" if can_pay else "refused")
    tell(commit, "payments" if can_pay else "outcomes", {**event, "state": "paid" if can_pay else "refused"})


def ship(commit, event):
    """Takes the goods from the shelf; where there are none left, the saga is undone: the money goes back."""
    shelf = row(f"stock:{event['product']}")
    commit.watch(shelf)
    in_stock = int(commit.get(shelf)) > 0
    commit.multi()
    if in_stock:
        commit.decr(shelf)
    else:
        commit.decrby(row("till"), event["price"])
        commit.incrby(row(f"wallet:{event['customer']}"), event["price"])
    state = "shipped" if in_stock else "refunded"
    commit.hset(row(f"order:{event['order']}"), "state", state)
    tell(commit, "outcomes", {**event, "state": state})


def work(client, topic, name, effect):
    """Reads a topic as a group: first what an earlier life was given and has not acknowledged, then what is new."""
    ids, key = "0", f"topic:{topic}"
    while True:
        answer = client.xreadgroup(name, name, {key: ids}, count=10, block=1000)
        entries = answer[0][1] if answer else []
        if not entries:
            ids = ">"
        for entry, fields in entries:
            with client.pipeline(transaction=True) as commit:
                while not commit_once(commit, key, name, entry, json.loads(fields["V"]), effect):
                    pass


def commit_once(commit, key, name, entry, event, effect):
    """Effect, event and acknowledgement, or nothing. False where a row changed between reading and writing it."""
    try:
        effect(commit, event)
        commit.execute_command("Q.XACK", key, name, name, entry)
        commit.execute()
    except redis.WatchError:
        return False
    except redis.exceptions.ExecAbortError as error:
        if "FENCED" not in str(error):
            raise  # Else the last words of a life before came late: they have done it, and this did nothing.
    return True


def mail(client, kafka):
    """A consumer of Kafka's protocol: the letter and the offset behind the event are one commit."""
    group, topic = row("mail"), "outcomes"
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group, "enable.auto.commit": False})
    offset = max(consumer.committed([TopicPartition(topic, 0)], 30)[0].offset, 0)
    consumer.assign([TopicPartition(topic, 0, offset)])
    while True:
        message = consumer.poll(1)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        event = json.loads(message.value())
        with client.pipeline(transaction=True) as commit:
            commit.rpush(row(f"mailbox:{event['customer']}"), f"order {event['order']}: {event['state']}")
            commit.hincrby(row("mails"), event["order"], 1)
            commit.execute_command("Q.COMMITOFFSET", group, topic, 0, message.offset() + 1)
            commit.execute()


# ---- the books -------------------------------------------------------------------------------------------------------


def audit(client, orders, money, goods):
    """Counts everything. Gives back how many orders came to which end; fails where a single thing is missing or there twice."""
    ends = {"shipped": 0, "refunded": 0, "refused": 0}
    earned = 0
    for order in range(orders):
        own = client.hgetall(row(f"order:{order}"))
        ends[own["state"]] += 1
        earned += int(own["price"]) if own["state"] == "shipped" else 0
    count = lambda kind: sum(int(client.get(key)) for key in client.scan_iter(row(f"{kind}:*")))
    till, wallets, stock = int(client.get(row("till"))), count("wallet"), count("stock")
    mails = client.hgetall(row("mails"))
    letters = sum(client.llen(key) for key in client.scan_iter(row("mailbox:*")))
    books = [
        ("money in wallets and till", wallets + till, money),
        ("the till holds the price of what was shipped", till, earned),
        ("goods on the shelves and shipped", stock + ends["shipped"], goods),
        ("orders that came to an end", sum(ends.values()), orders),
        ("orders that were written about once", sum(1 for sent in mails.values() if sent == "1"), orders),
        ("letters in the mailboxes", letters, orders),
        ("events in the topic outcomes", client.xlen("topic:outcomes"), orders),
    ]
    for what, found, wanted in books:
        print(f"  {what:48} {found:8} {'=' if found == wanted else 'IS NOT'} {wanted}")
    return ends, all(found == wanted for _, found, wanted in books)
