package apogee.conformance;

import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Topics that change under their clients, order, and what clients tell about themselves. */
final class TopicScenarios {
    private TopicScenarios() {
    }

    static void list(List<Scenario> l) {
        l.add(0, new Scenario("queues-grow", 90, TopicScenarios::grow));
        l.add(0, new Scenario("queues-shrink", 90, TopicScenarios::shrink));
        l.add(new Scenario("order-global", 60, TopicScenarios::global));
        l.add(new Scenario("order-two-holders", 90, TopicScenarios::twoHolders));
        l.add(new Scenario("order-to-dlq", 60, TopicScenarios::toDlq));
        l.add(new Scenario("namespace", 40, TopicScenarios::namespace));
        l.add(new Scenario("trace", 60, TopicScenarios::trace));
    }

    private static void resize(Case c, int read, int write) throws Exception {
        c.server.admin.createAndUpdateTopicConfig(
            c.server.broker, new TopicConfig(c.name(""), read, write, 6));
    }

    private static void grow(Case c) throws Exception {
        String topic = c.topic(2);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.setPollNameServerInterval(1000);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox);
        consumer.start();
        DefaultMQProducer p = c.newProducer();
        p.setPollNameServerInterval(1000);
        p.start();
        Case.sendNumbers(p, topic, 0, 20);
        inbox.await(20, 20_000);
        resize(c, 5, 5);
        // The producer looks for new routes each second.
        Set<Integer> used = new HashSet<>();
        int sent = 20;
        for (int round = 0; used.size() < 5 && round < 200; round++, sent++) {
            Message m = new Message(topic, Case.bytes(Integer.toString(sent)));
            used.add(p.send(m).getMessageQueue().getQueueId());
            Thread.sleep(50);
        }
        Check.equal("queues used", 5, used.size());
        inbox.awaitExactly(sent, 60_000, 500);
        Check.equal("bodies", Case.numbers(0, sent), inbox.bodies());
    }

    /** First nothing new goes to the queues that leave, and what they hold is still read. */
    private static void shrink(Case c) throws Exception {
        String topic = c.topic(4);
        DefaultMQProducer p = c.newProducer();
        p.setPollNameServerInterval(1000);
        p.start();
        Case.sendNumbers(p, topic, 0, 40);
        resize(c, 4, 1);
        Thread.sleep(4000); // the producer looks for new routes each second
        for (int i = 40; i < 60; i++) {
            SendResult r = p.send(new Message(topic, Case.bytes(Integer.toString(i))));
            Check.equal("queue", 0, r.getMessageQueue().getQueueId());
        }
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "*", inbox);
        inbox.awaitExactly(60, 30_000, 500);
        Check.equal("bodies", Case.numbers(0, 60), inbox.bodies());
    }

    private static DefaultMQPushConsumer orderly(Case c, MessageListenerOrderly listener) throws Exception {
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.subscribe(c.name(""), "*");
        consumer.registerMessageListener(listener);
        consumer.start();
        return consumer;
    }

    /** One queue: one order for everything, also when the member that holds it leaves. */
    private static void global(Case c) throws Exception {
        String topic = c.topic(1);
        Inbox inbox = new Inbox();
        MessageListenerOrderly listener = (messages, context) -> {
            messages.forEach(inbox::add);
            return ConsumeOrderlyStatus.SUCCESS;
        };
        DefaultMQPushConsumer first = orderly(c, listener);
        DefaultMQProducer p = c.producer();
        Case.sendNumbers(p, topic, 0, 50);
        inbox.await(50, 20_000);
        orderly(c, listener);
        first.shutdown();
        Case.sendNumbers(p, topic, 50, 100);
        inbox.await(100, 40_000);
        int next = 0;
        for (MessageExt m : inbox.all()) {
            int number = Integer.parseInt(Inbox.text(m));
            // A message that was in hand at the change may come twice, an earlier one never.
            Check.that(number == next || number == next - 1, number + " after " + (next - 1));
            next = Math.max(next, number + 1);
        }
        Check.equal("messages", 100, next);
    }

    /** Two members share the queues; no queue is in two hands at once, and each keeps its order. */
    private static void twoHolders(Case c) throws Exception {
        String topic = c.topic(4);
        Inbox inbox = new Inbox();
        Map<Integer, AtomicInteger> inHand = new ConcurrentHashMap<>();
        AtomicInteger overlaps = new AtomicInteger();
        MessageListenerOrderly listener = (messages, context) -> {
            AtomicInteger hands =
                inHand.computeIfAbsent(context.getMessageQueue().getQueueId(), q -> new AtomicInteger());
            if (hands.incrementAndGet() > 1) {
                overlaps.incrementAndGet();
            }
            messages.forEach(inbox::add);
            try {
                Thread.sleep(2);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            hands.decrementAndGet();
            return ConsumeOrderlyStatus.SUCCESS;
        };
        orderly(c, listener);
        DefaultMQProducer p = c.producer();
        List<MessageQueue> queues = Case.queues(p, topic);
        int sent = 0;
        for (int round = 0; round < 60; round++) {
            if (round == 10) {
                orderly(c, listener);
            }
            for (MessageQueue q : queues) {
                p.send(new Message(topic, Case.bytes(q.getQueueId() + " " + round)), q);
                sent++;
            }
            Thread.sleep(50);
        }
        int all = sent;
        Wait.until("all " + all, 60_000, () -> inbox.bodies().size() == all);
        Check.equal("overlaps", 0, overlaps.get());
        Map<String, Integer> last = new HashMap<>();
        for (MessageExt m : inbox.all()) {
            String[] w = Inbox.text(m).split(" ");
            int number = Integer.parseInt(w[1]);
            int before = last.getOrDefault(w[0], -1);
            Check.that(number <= before + 1, "queue " + w[0] + ": " + number + " after " + before);
            last.put(w[0], Math.max(before, number));
        }
    }

    /** An orderly consumer gives up after its limit; the queue goes on behind the message. */
    private static void toDlq(Case c) throws Exception {
        String topic = c.topic(1);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.setMaxReconsumeTimes(2);
        consumer.setSuspendCurrentQueueTimeMillis(100);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            messages.forEach(inbox::add);
            return Inbox.text(messages.get(0)).equals("1")
                ? ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT : ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
        DefaultMQProducer p = c.producer();
        Case.sendNumbers(p, topic, 0, 3);
        String dead = "%DLQ%" + c.name("group");
        Wait.until("a dead letter", 40_000, () -> {
            try {
                return c.server.admin.examineTopicStats(dead).getOffsetTable().values().stream()
                    .mapToLong(o -> o.getMaxOffset()).sum() == 1;
            } catch (Exception e) {
                return false;
            }
        });
        Wait.until("the queue goes on", 20_000, () -> inbox.bodies().contains("2"));
        long tries = inbox.all().stream().filter(m -> Inbox.text(m).equals("1")).count();
        Check.equal("deliveries of 1", 3L, tries);
    }

    /** Names of a namespace are put together and taken apart by the client. */
    private static void namespace(Case c) throws Exception {
        String space = c.name("space");
        String topic = "in-namespace";
        c.server.makeTopic(space + "%" + topic, 2);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.newPush("group-in-namespace");
        consumer.setNamespace(space);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox);
        consumer.start();
        DefaultMQProducer p = c.newProducer();
        p.setNamespace(space);
        p.start();
        Case.sendNumbers(p, topic, 0, 10);
        inbox.awaitExactly(10, 20_000, 300);
        Check.equal("bodies", Case.numbers(0, 10), inbox.bodies());
        inbox.all().forEach(m -> Check.equal("topic", topic, m.getTopic()));
    }

    /** What a tracing client reports can be found by the id of the message. */
    private static void trace(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = new DefaultMQProducer(c.name("tracing"), null, true, null);
        p.setNamesrvAddr(c.server.namesrv);
        p.setInstanceName(c.name("tracing"));
        p.start();
        try {
            Message m = new Message(topic, "tag", "key", Case.bytes("traced"));
            String id = p.send(m).getMsgId();
            Wait.until("a trace of " + id, 40_000, () -> {
                try {
                    long now = System.currentTimeMillis();
                    return c.server.admin.queryMessage("RMQ_SYS_TRACE_TOPIC", id, 10, 0, now + 60_000)
                        .getMessageList().stream().anyMatch(found -> Inbox.text(found).contains(id));
                } catch (Exception e) {
                    return false;
                }
            });
        } finally {
            p.shutdown();
        }
    }
}
