#!/usr/bin/env python3
"""ACL users by redis-py at a running node, and what Debian's redis-server answers to the same.

    redis_users.py HOST PORT
"""
import socket
import subprocess
import sys
import time
import warnings

import redis

warnings.simplefilter("ignore", DeprecationWarning)

NODE = int(sys.argv[2])

# What an administrator sends, and what users then may: the answers of both servers must be the same.
SETUP = [
    ["ACL", "SETUSER", "app", "on", ">secret", "~app:*", "%R~shared:*", "&app.*", "+@all", "-@dangerous"],
    ["ACL", "SETUSER", "app", "+client|list"],
    ["ACL", "SETUSER", "two", "on", ">one", ">two", "+@read", "~a", "(~b +set)", "(%W~c +append &x)"],
    ["ACL", "SETUSER", "two", "<one"],
    ["ACL", "SETUSER", "two", "<one"],
    ["ACL", "SETUSER", "off", "off", "nopass", "allkeys", "allcommands", "allchannels"],
    ["ACL", "SETUSER", "bad", "~*", "~x"],
    ["ACL", "SETUSER", "bad", "&*", "&x"],
    ["ACL", "SETUSER", "bad", "+nosuch"],
    ["ACL", "SETUSER", "bad", "+@nosuch"],
    ["ACL", "SETUSER", "bad", "(~x"],
    ["ACL", "SETUSER", "bad", "(on)"],
    ["ACL", "SETUSER", "bad", "#12"],
    ["ACL", "SETUSER", "bad", "%Q~x"],
    ["ACL", "SETUSER", "bad", "what"],
    ["ACL", "SETUSER", "spaced name"],
    ["ACL", "SETUSER", "first", "+select|0", "-@all", "+client", "-client|kill"],
    ["ACL", "SETUSER", "gone", "on"],
    ["ACL", "DELUSER", "gone", "nobody"],
    ["ACL", "DELUSER", "default"],
    ["ACL", "USERS"],
    ["ACL", "LIST"],
    ["ACL", "WHOAMI"],
    ["ACL", "LOAD"],
    ["ACL", "SAVE"],
    ["ACL", "CAT"],
    ["ACL", "CAT", "nosuch"],
    ["ACL", "GENPASS", "0"],
    ["ACL", "GETUSER", "nobody"],
    ["ACL", "NOSUCH"],
    ["ACL", "GETUSER"],
] + [["ACL", "GETUSER", name] for name in ("app", "two", "off", "first", "default")]
DRY = [
    [name] + words.split()
    for name in ("app", "two", "off", "first", "default")
    for words in (
        "get app:x", "get shared:x", "set shared:x 1", "set a 1", "get a", "get b", "set b 1", "append c 1", "get c", "mget a b",
        "copy shared:a app:b", "copy app:a shared:b", "keys *", "flushall", "config get x", "config set x y", "client list",
        "client kill x", "client id", "select 0", "select 1", "select 2", "publish app.x 1", "publish x 1", "subscribe app.x y",
        "psubscribe app.*", "psubscribe app.x", "ping", "auth x", "hello", "multi", "eval x 1 app:x", "eval x 1 y",
        "set app:x 1 get", "bitfield shared:x get u8 0", "bitfield shared:x set u8 0 1", "exists shared:x", "lmove app:a shared:b left left",
        "sunionstore app:d shared:a shared:b", "sunionstore shared:d app:a", "xadd app:s * f v", "acl whoami", "acl list", "get", "nosuch",
        "zunionstore app:d 2 shared:a x", "pfmerge app:a shared:b", "object encoding shared:x", "smove app:a app:b m",
        "rename app:a app:b", "rename shared:a app:b", "getdel shared:a", "georadius shared:g 0 0 1 m store app:d", "watch a b",
    )
]
# As each user, with its password.
DO = {
    ("app", "secret"): [
        "SET app:a 1", "SET b 1", "GET shared:a", "SET shared:a 1", "KEYS *", "CONFIG GET maxmemory", "ACL WHOAMI", "ACL LIST",
        "PUBLISH app.x 1", "PUBLISH x 1", "MULTI", "SET app:a 2", "SET b 2", "EXEC", "GET app:a", "EVAL return(1) 0",
        "EVAL return(redis.call('set',KEYS[1],'x')) 1 app:e", "EVAL return(redis.call('set',KEYS[1],'x')) 1 e", "GET app:e",
        "EVAL return(redis.pcall('get','nope')['err']) 0", "EVAL return(redis.pcall('keys','*')['err']) 0",
        "EVAL return(redis.pcall('publish','x','1')['err']) 0", "EVAL_RO return(redis.call('get',KEYS[1])) 1 app:e",
        "SORT app:l", "NOSUCH", "GET", "CLIENT GETNAME", "DEL app:a app:e", "WATCH c",
    ],
    ("two", "two"): ["GET a", "GET b", "SET b 1", "APPEND c 1", "DEL a", "PING"],
    ("two", "one"): [],
    ("off", "x"): [],
    ("nobody", "x"): [],
}
# 7.0 said it otherwise than 7.2, whose words are ours.
SAME = [
    (" sanitize-payload", ""),
    ("The user executing the script can't access at least one of the keys mentioned in the command arguments", "ACL failure in script: No permissions to access a key"),
    ("The user executing the script can't publish to the channel mentioned in the command", "ACL failure in script: No permissions to access a channel"),
    ("The user executing the script can't run this command or subcommand", "ACL failure in script: User X has no permissions to run the 'keys' command"),
    ("this user has no permissions to access one of the keys used as arguments", "No permissions to access a key"),
    ("this user has no permissions to access one of the channels used as arguments", "No permissions to access a channel"),
    ("This user has no permissions", "User X has no permissions"),
    ("this user has no permissions", "User X has no permissions"),
]


def alike(answer, user):
    if isinstance(answer, (list, tuple, set)):
        return [alike(part, user) for part in answer if part != "sanitize-payload"]
    if isinstance(answer, dict):
        return {alike(key, user): alike(value, user) for key, value in answer.items()}
    if isinstance(answer, Exception):
        answer = str(answer)
    if isinstance(answer, str):
        for old, new in SAME:
            answer = answer.replace(old, new)
        answer = answer.replace(f"User {user} has", "User X has")
    return answer


def ask(connection, words, user=""):
    connection.send_command(*words)
    try:
        return alike(connection.read_response(disconnect_on_error=False), user)
    except redis.ResponseError as error:
        return alike(error, user)


def connection(port, **words):
    return redis.Connection(port=port, encoding="utf-8", decode_responses=True, protocol=2, lib_name=None, lib_version=None, **words)


def compare(port):
    answers = []
    first = connection(port)
    for words in SETUP:
        answers.append((words, ask(first, words)))
    for words in DRY:
        answers.append((["DRYRUN"] + words, ask(first, ["ACL", "DRYRUN"] + words, words[0])))
    for (name, password), lines in DO.items():
        try:
            own = connection(port, username=name, password=password)
            own.connect()
        except redis.AuthenticationError as error:
            answers.append(([name, password], alike(error, name)))
            continue
        for line in lines:
            answers.append(([name, line], ask(own, line.split(), name)))
        own.disconnect()
    for entry in ask(first, ["ACL", "LOG", "100"]):
        pairs = dict(zip(entry[::2], entry[1::2])) if isinstance(entry, list) else entry
        # What a script is refused is known where it runs, which is not where its client is: it is answered, not logged.
        if pairs["context"] != "lua":
            answers.append((["LOG"], [pairs[key] for key in ("count", "reason", "object", "username", "context")]))
    for name in ("app", "two", "off", "first"):
        ask(first, ["ACL", "DELUSER", name])
    return answers


def running_connections():
    """What happens to connections when their users change."""
    admin = redis.Redis(port=NODE, decode_responses=True)
    admin.execute_command("ACL SETUSER live on >x ~* &* +@all")
    live = connection(NODE, username="live", password="x")
    assert ask(live, ["SET", "k", "1"]) == "OK"
    assert [client["user"] for client in admin.client_list() if client["user"] == "live"] == ["live"]
    ask(live, ["MULTI"])
    ask(live, ["SET", "k", "2"])
    admin.execute_command("ACL SETUSER live -set")
    assert ask(live, ["EXEC"]).startswith("Transaction discarded because of"), "rights changed within a MULTI"
    assert "no permissions to run the 'set'" in ask(live, ["SET", "k", "1"])
    assert admin.get("k") == "1"
    # Off: who is in stays, nobody comes in.
    admin.execute_command("ACL SETUSER live off")
    assert ask(live, ["GET", "k"]) == "1"
    try:
        connection(NODE, username="live", password="x").connect()
        raise SystemExit("a user who is off came in")
    except redis.AuthenticationError:
        pass
    # A subscriber who may listen no more is closed, and so is everybody whose user is gone.
    admin.execute_command("ACL SETUSER live on")
    ears = connection(NODE, username="live", password="x")
    ask(ears, ["SUBSCRIBE", "c"])
    admin.execute_command("ACL SETUSER live resetchannels &d")
    for own, change in ((ears, None), (live, "ACL DELUSER live")):
        if change:
            admin.execute_command(change)
        try:
            own.read_response(timeout=10)
            raise SystemExit("a connection that may not be stayed")
        except (redis.ConnectionError, redis.TimeoutError) as error:
            assert not isinstance(error, redis.TimeoutError), "it was not closed"
    admin.delete("k")


def theirs():
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    server = subprocess.Popen(["redis-server", "--port", str(port), "--save", "", "--daemonize", "no"], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                connection(port).connect()
                return compare(port)
            except redis.ConnectionError:
                time.sleep(0.01)
        raise SystemExit("redis-server did not start")
    finally:
        server.kill()
        server.wait()


def main():
    ours = compare(NODE)
    running_connections()
    wrong = 0
    for (asked, our), (_, their) in zip(ours, theirs(), strict=True):
        if our != their:
            wrong += 1
            print(f"{asked}\n  redis:   {their}\n  quorate: {our}")
    print(f"{len(ours)} answers about users, {wrong} differ")
    sys.exit(wrong > 0)


main()
