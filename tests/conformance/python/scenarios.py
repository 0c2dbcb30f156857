"""The scenarios; as a program: runs the one named by its arguments and prints the verdict."""
import os
import random
import signal
import subprocess
import sys
import threading
import time

from rocketmq.client import Message, MessageModel, Producer, PullConsumer, PushConsumer, SendStatus

import server
from server import Wrong, check, equal, until

LIMIT = 4 * 1024 * 1024
# The core assigns queues each 10 s, when the broker does not tell it to.
PATIENCE = 30

name = ""
# A consumer that nobody refers to is shut down by the package.
consumers = []


def topic(queues):
    return server.make_topic(name, queues)


def message(to, body, tag=None, keys=None, **properties):
    m = Message(to)
    m.set_body(body)
    if tag:
        m.set_tags(tag)
    if keys:
        m.set_keys(keys)
    for key, value in properties.items():
        m.set_property(key, value)
    return m


def producer(limit=None):
    p = Producer(name + "-producer", timeout=10000, max_message_size=limit)
    p.set_namesrv_addr(server.NAMESRV)
    p.start()
    return p


def send(p, m):
    end = time.monotonic() + 10
    while True:
        try:
            r = p.send_sync(m)
            break
        except Exception as e:
            # The core gives up at once when another thread of it is just asking for the route.
            if "No route info" not in str(e) or time.monotonic() > end:
                raise
            time.sleep(0.2)
    equal("status", SendStatus.OK, r.status)
    return r


def send_numbers(p, to, begin, end):
    for i in range(begin, end):
        send(p, message(to, str(i)))


class Got:
    """What is left of a received message: the core frees it when the callback returns."""

    def __init__(self, m):
        self.topic, self.tags, self.keys, self.id = m.topic, m.tags, m.keys, m.id
        self.body, self.offset, self.queue = m.body, m.queue_offset, m.queue_id
        self.again, self.size = m.reconsume_times, m.store_size
        self.colour = m.get_property("colour")
        self.text = m.get_property("属性")
        self.time = time.time()


class Inbox:
    """Collects what consumers receive."""

    def __init__(self):
        self.got = []
        self.news = threading.Condition()

    def add(self, m):
        with self.news:
            self.got.append(Got(m))
            self.news.notify_all()

    def all(self):
        with self.news:
            return list(self.got)

    def wait(self, count, seconds=PATIENCE):
        """Waits for at least so many."""
        with self.news:
            if not self.news.wait_for(lambda: len(self.got) >= count, seconds):
                raise Wrong("received %d of %d in %d s" % (len(self.got), count, seconds))
            return list(self.got)

    def exactly(self, count, quiet=1.0, seconds=PATIENCE):
        """Waits for so many; one more within the quiet time after them is an error."""
        self.wait(count, seconds)
        with self.news:
            self.news.wait_for(lambda: len(self.got) > count, quiet)
        equal("number of messages", count, len(self.got))
        return self.all()

    def bodies(self):
        return sorted(m.body.decode() for m in self.all())


def push(inbox, to, expression="*", instance=None, callback=None, **options):
    c = PushConsumer(name + "-group", **options)
    c.set_namesrv_addr(server.NAMESRV)
    if instance:
        c.set_instance_name(instance)
    c.subscribe(to, callback or inbox.add, expression)
    c.start()
    consumers.append(c)
    return c


def read_all(to, queues, count):
    """Everything that a topic holds, once there is as much as expected."""
    until("%d messages in %s" % (count, to), 10, lambda: server.stored(to, queues) >= count)
    equal("messages in " + to, count, server.stored(to, queues))
    return read_at_least(to, queues, count)


def read_at_least(to, queues, count):
    until("%d messages in %s" % (count, to), 10, lambda: server.stored(to, queues) >= count)
    c = PullConsumer(name + "-puller")
    c.set_namesrv_addr(server.NAMESRV)
    c.start()
    found = [Got(m) for m in c.pull(to)]
    check(len(found) >= count, "read %d messages of %d" % (len(found), count))
    return found


def numbers(begin, end):
    return sorted(str(i) for i in range(begin, end))


def send_sync():
    t = topic(4)
    p = producer()
    for i in range(12):
        send(p, message(t, "body %d" % i, "tag%d" % i, "key%d" % i, colour="red%d" % i))
    for m in read_all(t, 4, 12):
        n = m.body.decode().split()[1]
        equal("tag", b"tag" + n.encode(), m.tags)
        equal("keys", b"key" + n.encode(), m.keys)
        equal("property", b"red" + n.encode(), m.colour)
        equal("times delivered before", 0, m.again)


def send_async():
    t = topic(4)
    p = producer()
    done = threading.Semaphore(0)
    results, failed = [], []
    # Kept until the end, because the package frees a message that nobody refers to.
    todo = [message(t, str(i)) for i in range(30)]
    messages = list(todo)

    def failure(m):
        return lambda e: (failed.append(m), done.release())
    # The core tries an asynchronous send once: a failure of its own is for the caller to repeat.
    for _ in range(3):
        for m in todo:
            p.send_async(m, lambda r: (results.append(r), done.release()), failure(m))
        for _ in todo:
            check(done.acquire(timeout=10), "callbacks missing")
        todo, failed = list(failed), []
    equal("messages that failed three times", [], todo)
    equal("different ids", 30, len({r.msg_id for r in results}))
    bodies = {m.body.decode() for m in read_at_least(t, 4, len(messages))}
    equal("bodies", numbers(0, 30), sorted(bodies))


def send_oneway():
    t = topic(4)
    p = producer()
    for i in range(20):
        p.send_oneway(message(t, str(i)))
    equal("bodies", numbers(0, 20), sorted(m.body.decode() for m in read_all(t, 4, 20)))


def send_batch():
    """This client does not mark a batch as one: the server stores it as a single message."""
    t = topic(1)
    p = producer()
    send(p, message(t, "before"))
    r = p.send_batch([message(t, "batch %d" % i, "t%d" % (i % 2), "k%d" % i) for i in range(10)])
    equal("status", SendStatus.OK, r.status)
    equal("offset", 1, r.offset)
    equal("offset after the batch", 2, send(p, message(t, "after")).offset)
    equal("bodies around it", [b"before", b"after"], [m.body for m in read_all(t, 1, 3)[::2]])


def send_selector():
    t = topic(4)
    p = producer()
    for i in range(24):
        r = p.send_orderly(message(t, str(i % 12)), i % 12)
        equal("status", SendStatus.OK, r.status)
    for m in read_all(t, 4, 24):
        equal("queue", int(m.body) % 4, m.queue)


def send_auto_created_topic():
    send_numbers(producer(), name, 0, 8)
    equal("bodies", numbers(0, 8), sorted(m.body.decode() for m in read_all(name, 4, 8)))


def text_everywhere():
    t = topic(1)
    p = producer()
    text = "消息队列 Grüße こんにちは привет 🚀 end"
    send(p, message(t, text, "标签", "钥匙", **{"属性": "值 with blanks, = and : and 🚀"}))
    m = read_all(t, 1, 1)[0]
    equal("body", text, m.body.decode())
    equal("tag", "标签", m.tags.decode())
    equal("keys", "钥匙", m.keys.decode())
    equal("property", "值 with blanks, = and : and 🚀", m.text.decode())
    inbox = Inbox()
    push(inbox, t)
    equal("consumed", text, inbox.wait(1)[0].body.decode())


def body_compressed():
    t = topic(1)
    body = "all work and no play " * 3000
    send(producer(), message(t, body))
    inbox = Inbox()
    push(inbox, t)
    m = inbox.wait(1)[0]
    equal("body", body, m.body.decode())
    check(m.size < 30000, "stored size %d" % m.size)


def noise(size):
    """Letters, because the package measures bodies as C strings; they hardly shrink."""
    return "".join(random.Random(size).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=size))


def body_limit():
    t = topic(1)
    body = noise(LIMIT)
    send(producer(2 * LIMIT), message(t, body))
    check(read_all(t, 1, 1)[0].body.decode() == body, "a body of 4 MiB comes back equal")


def refused(what, code, action):
    """The package tells refusals by text only."""
    try:
        action()
    except Exception as e:  # each kind of failure has a class of its own
        check(code is None or str(code) in str(e), "%s: expected code %s, got %r" % (what, code, e))
        return
    raise Wrong(what + " was accepted")


def push_concurrent():
    t = topic(4)
    inbox = Inbox()
    push(inbox, t)
    send_numbers(producer(), t, 0, 100)
    inbox.exactly(100)
    equal("bodies", numbers(0, 100), inbox.bodies())


def push_orderly():
    t = topic(4)
    inbox = Inbox()
    push(inbox, t, orderly=True)
    p = producer()
    for step in range(10):
        for key in range(20):
            p.send_orderly(message(t, "%d %d" % (key, step)), key)
    following = {}
    for m in inbox.exactly(200):
        key, step = m.body.decode().split()
        equal("step of key " + key, following.get(key, 0), int(step))
        following[key] = int(step) + 1


def push_tags():
    t = topic(4)
    p = producer()
    wanted = []
    for i in range(40):
        tag = ("a", "b", "c", None)[i % 4]
        send(p, message(t, "%s%d" % (tag, i), tag))
        if i % 4 < 2:
            wanted.append("%s%d" % (tag, i))
    inbox = Inbox()
    push(inbox, t, "a || b")
    inbox.exactly(20)
    equal("bodies", sorted(wanted), inbox.bodies())


def push_broadcast():
    t = topic(4)
    inboxes = [Inbox(), Inbox()]
    for i, inbox in enumerate(inboxes):
        push(inbox, t, instance="i%d" % i, message_model=MessageModel.BROADCASTING)
    p = producer()
    # A broadcasting consumer of this client starts at the end of each queue, so the sending goes
    # on until both take part.
    marks = [0]

    def mark():
        send(p, message(t, "mark %d" % marks[0]))
        marks[0] += 1
        return all(len({m.queue for m in inbox.all()}) == 4 for inbox in inboxes)
    until("both take part with all queues", PATIENCE, mark)
    send_numbers(p, t, 0, 50)
    for inbox in inboxes:
        until("all 50", PATIENCE,
              lambda: len([b for b in inbox.bodies() if not b.startswith("mark")]) >= 50)
        equal("bodies", numbers(0, 50), [b for b in inbox.bodies() if not b.startswith("mark")])


def from_last():
    """As in the other clients: a group without progress starts a young queue at 0."""
    t = topic(4)
    p = producer()
    send_numbers(p, t, 0, 20)
    read_all(t, 4, 20)
    inbox = Inbox()
    push(inbox, t)
    inbox.wait(20)
    send_numbers(p, t, 20, 30)
    inbox.exactly(30)
    equal("bodies", numbers(0, 30), inbox.bodies())


def from_stored_offset():
    t = topic(4)
    p = producer()
    before = Inbox()
    first = push(before, t, instance="first")
    send_numbers(p, t, 0, 20)
    before.exactly(20)
    first.shutdown()
    send_numbers(p, t, 20, 30)
    after = Inbox()
    push(after, t, instance="second")
    after.exactly(10)
    equal("bodies", numbers(20, 30), after.bodies())


def pull():
    t = topic(2)
    p = producer()
    for i in range(40):
        send(p, message(t, str(i), "even" if i % 2 == 0 else "odd"))
    found = read_all(t, 2, 40)
    equal("bodies", numbers(0, 40), sorted(m.body.decode() for m in found))
    for q in range(2):
        offsets = [m.offset for m in found if m.queue == q]
        equal("offsets of queue %d" % q, list(range(len(offsets))), offsets)


def long_poll_latency():
    t = topic(1)
    p = producer()
    inbox = Inbox()
    push(inbox, t)
    send(p, message(t, "warm up"))
    inbox.wait(1)
    for i in range(1, 4):
        # By now the consumer's pull is held by the broker again.
        time.sleep(0.5)
        sent = time.time()
        send(p, message(t, "now"))
        took = inbox.wait(i + 1, 10)[i].time - sent
        check(took < 1, "received %.3f s after sending" % took)


def delay_level_1():
    t = topic(1)
    p = producer()
    inbox = Inbox()
    push(inbox, t)
    send(p, message(t, "warm up"))
    inbox.wait(1)
    m = message(t, "later", "tag", "key")
    m.set_delay_time_level(1)
    sent = time.time()
    send(p, m)
    got = inbox.exactly(2, 0.3, 10)[1]
    took = got.time - sent
    check(0.999 <= took <= 3, "received %.3f s after sending" % took)
    equal("body", b"later", got.body)
    equal("keys", b"key", got.keys)


def retry():
    """A callback that raises: what the package makes of it."""
    t = topic(1)
    server.make_topic("%RETRY%" + name + "-group", 1)
    inbox = Inbox()

    def fail(m):
        inbox.add(m)
        if m.reconsume_times < 1:
            raise RuntimeError("again")
    push(inbox, t, callback=fail)
    send(producer(), message(t, "again"))
    got = inbox.exactly(2, 1, 40)
    equal("counts", [0, 1], [m.again for m in got])


def error_oversize():
    t = topic(1)
    p = producer(4 * LIMIT)
    # It is sent compressed, at about two thirds of this size.
    refused("a body of 8 MiB", None, lambda: p.send_sync(message(t, noise(2 * LIMIT))))
    send(p, message(t, "fine"))
    read_all(t, 1, 1)


def error_bad_names():
    p = producer()
    for bad in ("bad topic", "bad.topic", "t" * 128):
        refused("topic '%s'" % bad, None, lambda: p.send_sync(message(bad, "x")))


def error_unknown_topic():
    """Switches a setting of the whole broker, which no other scenario may see."""
    p = producer()
    server.broker_setting("autoCreateTopicEnable=false")
    try:
        refused("an unknown topic", None, lambda: p.send_sync(message(name, "x")))
    finally:
        server.broker_setting("autoCreateTopicEnable=true")
    try:
        send(p, message(name, "x"))
    except Exception:  # the package has a class of its own for each kind of failure
        # The original has taken the right to inherit from its template topic, for good: it has to
        # be given back, which is allowed only while system topics are not protected.
        server.broker_setting("validateSystemTopicWhenUpdateTopic=false")
        server.make_topic("TBW102", 8, 7)
        server.broker_setting("validateSystemTopicWhenUpdateTopic=true")
        send(p, message(name, "x"))
    read_all(name, 4, 1)


def rebalance_with_crash():
    t = topic(8)
    p = producer()
    one, two = Inbox(), Inbox()
    push(one, t, instance="one")
    send_numbers(p, t, 0, 50)
    one.wait(20)
    push(two, t, instance="two")
    victim = subprocess.Popen([sys.executable, __file__, "victim", name],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    crashed = []

    def read():
        for line in victim.stdout:
            if line.startswith("got "):
                crashed.append(line[4:].rstrip("\n"))
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    sent = 50
    end = time.monotonic() + 45
    # Goes on sending until all three have got some, so that each one owned queues.
    while sent < 300 or len(two.all()) < 5 or len(crashed) < 5:
        check(time.monotonic() < end,
              "second got %d, victim got %d" % (len(two.all()), len(crashed)))
        send_numbers(p, t, sent, sent + 10)
        sent += 10
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    send_numbers(p, t, sent, sent + 100)
    sent += 100
    victim.wait(10)
    reader.join(5)
    wanted = set(numbers(0, sent))
    until("all %d messages consumed" % sent, 40,
          lambda: wanted <= set(one.bodies()) | set(two.bodies()) | set(crashed))


def victim(of):
    """A consumer in a process of its own, which tells what it has got until it is killed."""
    global name
    name = of
    # Told before it is acknowledged: what is not told must come to somebody else. One write for
    # a line, because the core calls from several threads.
    push(None, of, instance="victim", callback=lambda m: os.write(1, b"got %s\n" % m.body))
    # An end of its own, in case nobody kills it.
    time.sleep(120)


def push_orderly_restart():
    t = topic(4)
    inbox = Inbox()
    push(inbox, t, orderly=True)
    p = producer()
    outage = None
    for step in range(10):
        if step == 5:
            inbox.wait(60)
            outage = server.shell("RESTART_BROKER")
        for key in range(20):
            end = time.monotonic() + 120
            while True:
                # A try that failed may have stored the message all the same.
                try:
                    r = p.send_orderly(message(t, "%d %d" % (key, step)), key)
                    if r.status == SendStatus.OK:
                        break
                except Exception as e:
                    check(time.monotonic() < end, "still not accepted: %r" % e)
                time.sleep(0.1)
    equal("exit code of RESTART_BROKER", 0, outage.wait(120))
    until("all 200 received", 60, lambda: len(set(inbox.bodies())) == 200)
    # Repeats are allowed, but nothing may be passed over: each step at most one ahead.
    due = {}
    for m in inbox.all():
        key, step = m.body.decode().split()
        check(int(step) <= due.get(key, 0), "key %s: step %s too early" % (key, step))
        due[key] = max(due.get(key, 0), int(step) + 1)


# Name, seconds.
TOGETHER = [
    ("rebalance-with-crash", 110), ("retry", 60), ("push-broadcast", 70),
    ("send-sync", 60), ("send-async", 60), ("send-oneway", 60), ("send-batch", 60),
    ("send-selector", 60), ("send-auto-created-topic", 60), ("text-everywhere", 60),
    ("body-compressed", 60), ("body-limit", 60), ("error-oversize", 60), ("error-bad-names", 60),
    ("push-concurrent", 60), ("push-orderly", 60), ("push-tags", 60), ("from-last", 60),
    ("from-stored-offset", 60), ("pull", 60),
]
ALONE = [
    ("long-poll-latency", 60), ("delay-level-1", 60), ("error-unknown-topic", 60),
    ("push-orderly-restart", 180),
]


def main():
    global name
    if sys.argv[1] == "victim":
        victim(sys.argv[2])
        return
    name = sys.argv[2] + "-" + sys.argv[1]
    try:
        globals()[sys.argv[1].replace("-", "_")]()
        verdict = "ok"
    except Exception as e:
        verdict = " ".join((str(e) if isinstance(e, Wrong) else repr(e)).split())[:300]
    print("\nverdict " + verdict, flush=True)
    # Threads of the core may not end; there is nothing left to wait for.
    os._exit(0)


if __name__ == "__main__":
    main()
