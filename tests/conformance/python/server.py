"""The server under test, spoken to by hand: the client package has no admin calls."""
import json
import os
import socket
import struct
import subprocess
import time

NAMESRV = os.environ["NAMESRV_ADDR"]
BROKER = os.environ["BROKER_ADDR"]

UPDATE_TOPIC, UPDATE_BROKER_CONFIG, MAX_OFFSET, ROUTE, PULL = 17, 25, 30, 105, 11


class Wrong(Exception):
    """Something was not as expected."""


def check(condition, text):
    if not condition:
        raise Wrong(text)


def equal(what, expected, actual):
    check(expected == actual, "%s: expected %r, got %r" % (what, expected, actual))


def until(what, seconds, condition):
    """Asks again and again; for states that no event tells of."""
    end = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < end, "not within %s s: %s" % (seconds, what))
        time.sleep(0.03)


def ask(addr, code, fields, body=b""):
    """Sends one request and returns code, fields and body of the answer."""
    host, port = addr.rsplit(":", 1)
    header = json.dumps({
        "code": code, "flag": 0, "language": "PYTHON", "opaque": 1, "version": 0,
        "serializeTypeCurrentRPC": "JSON", "extFields": fields}).encode()
    with socket.create_connection((host, int(port)), 10) as s:
        size = 4 + len(header) + len(body)
        s.sendall(struct.pack(">II", size, len(header)) + header + body)
        stream = s.makefile("rb")
        size, head = struct.unpack(">II", stream.read(8))
        rest = stream.read(size - 4)
    head &= 0xFFFFFF
    answer = json.loads(rest[:head])
    return answer["code"], answer.get("extFields") or {}, rest[head:]


def make_topic(topic, queues, permission=6):
    code, _, _ = ask(BROKER, UPDATE_TOPIC, {
        "topic": topic, "defaultTopic": "TBW102", "readQueueNums": str(queues),
        "writeQueueNums": str(queues), "perm": str(permission), "topicFilterType": "SINGLE_TAG",
        "topicSysFlag": "0", "order": "false"})
    equal("answer to making " + topic, 0, code)
    until("route of " + topic, 10, lambda: ask(NAMESRV, ROUTE, {"topic": topic})[0] == 0)
    return topic


def max_offset(topic, queue):
    code, fields, _ = ask(BROKER, MAX_OFFSET, {"topic": topic, "queueId": str(queue)})
    equal("answer to the offset query", 0, code)
    return int(fields["offset"])


def stored(topic, queues):
    return sum(max_offset(topic, q) for q in range(queues))


def broker_setting(line):
    equal("answer to a change of settings", 0,
          ask(BROKER, UPDATE_BROKER_CONFIG, {}, (line + "\n").encode())[0])


def shell(variable):
    """Starts the command that stands in an environment variable."""
    return subprocess.Popen(["bash", "-c", os.environ[variable]],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
