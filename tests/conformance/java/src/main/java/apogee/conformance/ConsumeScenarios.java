package apogee.conformance;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.UtilAll;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Push consumers while nothing goes wrong. */
final class ConsumeScenarios {
    private ConsumeScenarios() {
    }

    static void list(List<Scenario> l) {
        l.add(new Scenario("push-concurrent", 40, ConsumeScenarios::concurrent));
        l.add(new Scenario("push-orderly", 40, ConsumeScenarios::orderly));
        l.add(new Scenario("push-orderly-suspend", 40, ConsumeScenarios::suspend));
        l.add(new Scenario("push-tags", 40, ConsumeScenarios::tags));
        l.add(new Scenario("push-sql", 40, ConsumeScenarios::sql));
        l.add(new Scenario("push-broadcast", 40, ConsumeScenarios::broadcast));
        l.add(new Scenario("from-first", 40, ConsumeScenarios::fromFirst));
        l.add(new Scenario("from-last", 40, ConsumeScenarios::fromLast));
        l.add(new Scenario("from-timestamp", 40, ConsumeScenarios::fromTimestamp));
        l.add(new Scenario("from-stored-offset", 40, ConsumeScenarios::fromStored));
    }

    private static void concurrent(Case c) throws Exception {
        String topic = c.topic(4);
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "*", inbox);
        Case.sendNumbers(c.producer(), topic, 0, 100);
        inbox.awaitExactly(100, 20_000, 1000);
        Check.equal("bodies", Case.numbers(0, 100), inbox.bodies());
    }

    private static void orderly(Case c) throws Exception {
        String topic = c.topic(4);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            messages.forEach(inbox::add);
            return ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
        DefaultMQProducer p = c.producer();
        List<MessageQueue> queues = Case.queues(p, topic);
        for (int step = 0; step < 10; step++) {
            for (int key = 0; key < 20; key++) {
                p.send(new Message(topic, Case.bytes(key + " " + step)), queues.get(key % 4));
            }
        }
        inbox.awaitExactly(200, 20_000, 500);
        Map<String, Integer> next = new HashMap<>();
        for (MessageExt m : inbox.all()) {
            String[] w = Inbox.text(m).split(" ");
            Check.equal("step of key " + w[0], next.getOrDefault(w[0], 0), Integer.valueOf(w[1]));
            next.put(w[0], Integer.parseInt(w[1]) + 1);
        }
    }

    private static void suspend(Case c) throws Exception {
        String topic = c.topic(1);
        Case.sendNumbers(c.producer(), topic, 0, 5);
        List<String> seen = new ArrayList<>();
        Inbox inbox = new Inbox();
        AtomicInteger refusals = new AtomicInteger();
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.setSuspendCurrentQueueTimeMillis(200);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            MessageExt m = messages.get(0);
            synchronized (seen) {
                seen.add(Inbox.text(m) + "/" + m.getReconsumeTimes());
            }
            if (Inbox.text(m).equals("2") && refusals.incrementAndGet() <= 2) {
                return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
            }
            inbox.add(m);
            return ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
        inbox.awaitExactly(5, 20_000, 300);
        synchronized (seen) {
            Check.equal("deliveries", "[0/0, 1/0, 2/0, 2/1, 2/2, 3/0, 4/0]", seen.toString());
        }
    }

    private static void tags(Case c) throws Exception {
        String topic = c.topic(4);
        DefaultMQProducer p = c.producer();
        Set<String> wanted = new TreeSet<>();
        for (int i = 0; i < 40; i++) {
            String tag = new String[] {"a", "b", "c", null}[i % 4];
            p.send(new Message(topic, tag, Case.bytes(tag + i)));
            if (i % 4 < 2) {
                wanted.add(tag + i);
            }
        }
        // These two have the same hash: the server may pass both, the client must not.
        p.send(new Message(topic, "AaAa", Case.bytes("AaAa")));
        p.send(new Message(topic, "BBBB", Case.bytes("BBBB")));
        wanted.add("BBBB");
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "a || b || BBBB", inbox);
        inbox.awaitExactly(21, 20_000, 1000);
        Check.equal("bodies", wanted, inbox.bodies());
    }

    private static void sql(Case c) throws Exception {
        String topic = c.topic(4);
        DefaultMQProducer p = c.producer();
        Set<String> wanted = new TreeSet<>();
        for (int i = 0; i < 40; i++) {
            Message m = new Message(topic, i % 2 == 0 ? "even" : "odd", Case.bytes("" + i));
            m.putUserProperty("number", "" + i);
            if (i % 3 == 0) {
                m.putUserProperty("colour", i % 6 == 0 ? "red" : "dark 'blue'");
            }
            p.send(m);
            boolean in = i >= 10 && i <= 30 && i % 3 == 0 && (i % 2 == 0 || i == 21);
            if (in) {
                wanted.add("" + i);
            }
        }
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.subscribe(topic, MessageSelector.bySql(
            "number BETWEEN 10 AND 30 AND colour IS NOT NULL AND (TAGS = 'even' OR number = 21)"));
        consumer.registerMessageListener(inbox);
        consumer.start();
        inbox.awaitExactly(wanted.size(), 20_000, 1000);
        Check.equal("bodies", wanted, inbox.bodies());
    }

    private static void broadcast(Case c) throws Exception {
        String topic = c.topic(4);
        Inbox one = new Inbox();
        Inbox two = new Inbox();
        for (Inbox inbox : new Inbox[] {one, two}) {
            DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
            Case.broadcasting(consumer);
            consumer.subscribe(topic, "*");
            consumer.registerMessageListener(inbox);
            consumer.start();
        }
        Case.sendNumbers(c.producer(), topic, 0, 50);
        one.awaitExactly(50, 20_000, 500);
        two.awaitExactly(50, 20_000, 500);
        Check.equal("bodies of the first", Case.numbers(0, 50), one.bodies());
        Check.equal("bodies of the second", Case.numbers(0, 50), two.bodies());
    }

    private static void fromFirst(Case c) throws Exception {
        String topic = c.topic(4);
        Case.sendNumbers(c.producer(), topic, 0, 20);
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "*", inbox);
        inbox.awaitExactly(20, 20_000, 500);
        Check.equal("bodies", Case.numbers(0, 20), inbox.bodies());
    }

    /**
     * As long as a queue starts at 0 and its first message is still in memory, the broker tells a
     * group without progress to start at 0, whatever the consumer would have chosen.
     */
    private static void fromLast(Case c) throws Exception {
        startsAtZero(c, ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET);
    }

    private static void fromTimestamp(Case c) throws Exception {
        startsAtZero(c, ConsumeFromWhere.CONSUME_FROM_TIMESTAMP);
    }

    private static void startsAtZero(Case c, ConsumeFromWhere where) throws Exception {
        String topic = c.topic(4);
        DefaultMQProducer p = c.producer();
        Case.sendNumbers(p, topic, 0, 20);
        // Seen by a reader, so that the consumer cannot find the queues still empty.
        c.readAll(p, topic, 20);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.setConsumeFromWhere(where);
        consumer.setConsumeTimestamp(UtilAll.timeMillisToHumanString3(System.currentTimeMillis()));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox);
        consumer.start();
        inbox.await(20, 20_000);
        Case.sendNumbers(p, topic, 20, 30);
        inbox.awaitExactly(30, 20_000, 500);
        Check.equal("bodies", Case.numbers(0, 30), inbox.bodies());
    }

    private static void fromStored(Case c) throws Exception {
        String topic = c.topic(4);
        String group = c.name("group");
        DefaultMQProducer p = c.producer();
        Inbox before = new Inbox();
        DefaultMQPushConsumer first = c.push(group, topic, "*", before);
        Case.sendNumbers(p, topic, 0, 20);
        before.awaitExactly(20, 20_000, 300);
        first.shutdown();
        Case.sendNumbers(p, topic, 20, 30);
        Inbox after = new Inbox();
        c.push(group, topic, "*", after);
        after.awaitExactly(10, 20_000, 1000);
        Check.equal("bodies", Case.numbers(20, 30), after.bodies());
    }
}
