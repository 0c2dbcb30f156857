package apogee.conformance;

import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageQueue;

/** Scenarios with upper time bounds: they run alone, so that only the server can be late. */
final class TimedScenarios {
    private TimedScenarios() {
    }

    static void list(List<Scenario> l) {
        l.add(new Scenario("long-poll-latency", 30, TimedScenarios::latency));
        l.add(new Scenario("pull-blocks-until-message", 30, TimedScenarios::blocking));
        l.add(new Scenario("delay-level-1", 30, TimedScenarios::delay));
        l.add(new Scenario("timer", 30, TimedScenarios::timer));
        l.add(new Scenario("timer-refused", 30, TimedScenarios::timerRefused));
    }

    private static void latency(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "*", inbox);
        p.send(new Message(topic, Case.bytes("warm up")));
        inbox.await(1, 20_000);
        for (int i = 1; i <= 3; i++) {
            // By now the consumer's pull is held by the broker again.
            Thread.sleep(500);
            long sent = System.currentTimeMillis();
            p.send(new Message(topic, Case.bytes("now")));
            inbox.await(i + 1, 10_000);
            long took = inbox.timeOf(i) - sent;
            Check.that(took < 1000, "received " + took + " ms after sending");
        }
    }

    private static void blocking(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        DefaultMQPullConsumer reader = c.pull();
        MessageQueue q = Case.queues(p, topic).get(0);
        CompletableFuture<PullResult> pulled = CompletableFuture.supplyAsync(() -> {
            try {
                return reader.pullBlockIfNotFound(q, "*", 0, 32);
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
        Thread.sleep(1500);
        Check.that(!pulled.isDone(), "the pull of an empty queue came back at once");
        p.send(new Message(topic, Case.bytes("now")), q);
        PullResult r = pulled.get(1, TimeUnit.SECONDS);
        Check.equal("status", PullStatus.FOUND, r.getPullStatus());
        Check.equal("count", 1, r.getMsgFoundList().size());
    }

    private static void delay(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "*", inbox);
        p.send(new Message(topic, Case.bytes("warm up")));
        inbox.await(1, 20_000);
        Message m = new Message(topic, "tag", "key", Case.bytes("later"));
        m.setDelayTimeLevel(1);
        long sent = System.currentTimeMillis();
        p.send(m);
        inbox.awaitExactly(2, 10_000, 300);
        long took = inbox.timeOf(1) - sent;
        Check.that(took >= 1000 && took <= 3000, "received " + took + " ms after sending");
        Check.equal("body", "later", Inbox.text(inbox.all().get(1)));
        Check.equal("topic", topic, inbox.all().get(1).getTopic());
        Check.equal("keys", "key", inbox.all().get(1).getKeys());
    }

    /** Set by hand, since 4.x has no methods for it. The original's steps are whole seconds. */
    private static Message timed(String topic, String property, long value) {
        Message m = new Message(topic, "tag", "key", Case.bytes(property));
        MessageAccessor.putProperty(m, property, Long.toString(value));
        return m;
    }

    private static void timer(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "*", inbox);
        p.send(new Message(topic, Case.bytes("warm up")));
        inbox.await(1, 20_000);
        long sent = System.currentTimeMillis();
        p.send(timed(topic, "TIMER_DELAY_SEC", 3));
        p.send(timed(topic, "TIMER_DELAY_MS", 1500));
        p.send(timed(topic, "TIMER_DELIVER_MS", sent + 6000));
        p.send(timed(topic, "TIMER_DELIVER_MS", sent - 6000));
        inbox.awaitExactly(5, 15_000, 300);
        long[] due = {0, 1500, 3000, 6000};
        for (int i = 0; i < due.length; i++) {
            long took = inbox.timeOf(i + 1) - sent;
            Check.that(took >= due[i] && took <= due[i] + 2500, "received " + took + " ms after sending");
            Check.equal("topic", topic, inbox.all().get(i + 1).getTopic());
            Check.equal("keys", "key", inbox.all().get(i + 1).getKeys());
        }
    }

    private static void timerRefused(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        Message words = new Message(topic, Case.bytes("x"));
        MessageAccessor.putProperty(words, "TIMER_DELAY_SEC", "soon");
        for (Message m : new Message[] {timed(topic, "TIMER_DELAY_SEC", 3 * 86_400 + 60), words}) {
            Check.code("a time that is too far or none", 13, () -> p.send(m));
        }
    }
}
