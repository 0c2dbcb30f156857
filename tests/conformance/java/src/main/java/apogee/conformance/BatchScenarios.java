package apogee.conformance;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Batches, by hand and by the client of 5.x itself, to ordinary topics and to those that store a
 * batch as one record (queue.type=BatchCQ).
 */
final class BatchScenarios {
    private BatchScenarios() {
    }

    static void list(List<Scenario> together, List<Scenario> alone) {
        together.add(new Scenario("batch-push", 40, BatchScenarios::push));
        together.add(new Scenario("batch-illegal", 30, BatchScenarios::illegal));
        if (System.getProperty("label").startsWith("java-4")) {
            // Neither topic attributes nor batches of the client's own making.
            return;
        }
        together.add(0, new Scenario("batch-inner-retry", 60, BatchScenarios::innerRetry));
        together.add(new Scenario("batch-inner", 40, BatchScenarios::inner));
        together.add(new Scenario("batch-inner-push", 40, BatchScenarios::innerPush));
        together.add(new Scenario("batch-inner-limits", 40, BatchScenarios::innerLimits));
        together.add(new Scenario("batch-inner-time", 40, BatchScenarios::innerTime));
        together.add(new Scenario("batch-auto", 40, c -> auto(c, c.topic(2))));
        together.add(new Scenario("batch-auto-inner", 40, c -> auto(c, batchTopic(c, 2))));
        alone.add(new Scenario("batch-inner-killed", 120, BatchScenarios::innerKilled));
    }

    private static String batchTopic(Case c, int queues) throws Exception {
        c.server.makeTopic(c.name(""), queues, Collections.singletonMap("+queue.type", "BatchCQ"));
        return c.name("");
    }

    private static List<Message> messages(String topic, int from, int to) {
        List<Message> l = new ArrayList<>();
        for (int i = from; i < to; i++) {
            Message m = new Message(topic, "t" + i % 2, "k" + i, Case.bytes(Integer.toString(i)));
            m.putUserProperty("number", Integer.toString(i));
            m.setFlag(i);
            l.add(m);
        }
        return l;
    }

    /** Sends one message, a batch of 10 and one message to a queue. */
    private static List<SendResult> sendTwelve(DefaultMQProducer p, String topic, MessageQueue q)
        throws Exception {
        List<Message> l = messages(topic, 0, 12);
        List<SendResult> results = new ArrayList<>();
        results.add(p.send(l.get(0), q));
        results.add(p.send(l.subList(1, 11), q));
        results.add(p.send(l.get(11), q));
        for (SendResult r : results) {
            Check.equal("status", SendStatus.SEND_OK, r.getSendStatus());
            Check.equal("queue", q, r.getMessageQueue());
        }
        return results;
    }

    /** Message i is at offset i, with everything that it was sent with. */
    private static void checkOwn(MessageExt m, long offset) {
        String i = Long.toString(offset);
        Check.equal("offset", offset, m.getQueueOffset());
        Check.equal("body", i, Inbox.text(m));
        Check.equal("tag", "t" + offset % 2, m.getTags());
        Check.equal("key", "k" + i, m.getKeys());
        Check.equal("property", i, m.getUserProperty("number"));
        Check.equal("flag", (int) offset, m.getFlag());
    }

    private static void push(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        sendTwelve(p, topic, Case.queues(p, topic).get(0));
        Inbox all = new Inbox();
        Inbox odd = new Inbox();
        c.push(c.name("all"), topic, "*", all);
        c.push(c.name("odd"), topic, "t1", odd);
        all.awaitExactly(12, 20_000, 500).forEach(m -> checkOwn(m, m.getQueueOffset()));
        for (MessageExt m : odd.awaitExactly(6, 20_000, 500)) {
            Check.equal("tag", "t1", m.getTags());
        }
    }

    private static void illegal(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        Message m = new Message(topic, Case.bytes("not a batch"));
        MessageAccessor.putProperty(m, "INNER_NUM", "1");
        Check.code("a count without a batch", 13, () -> p.send(m));
        Check.equal("stored", 0L, p.maxOffset(Case.queues(p, topic).get(0)));
    }

    private static void inner(Case c) throws Exception {
        String topic = batchTopic(c, 2);
        DefaultMQProducer p = c.producer();
        MessageQueue q = Case.queues(p, topic).get(1);
        List<SendResult> results = sendTwelve(p, topic, q);
        Check.equal("offset of the first", 0L, results.get(0).getQueueOffset());
        Check.equal("offset of the batch", 1L, results.get(1).getQueueOffset());
        Check.equal("offset after the batch", 11L, results.get(2).getQueueOffset());
        SendResult batch = results.get(1);
        Check.that(!batch.getMsgId().contains(","), "one id: " + batch.getMsgId());
        Check.that(!batch.getOffsetMsgId().contains(","), "one offset id");
        Check.equal("transaction id", batch.getMsgId(), batch.getTransactionId());
        DefaultMQPullConsumer reader = c.pull();
        Case.awaitStored(reader, q, 12);
        Check.equal("smallest", 0L, reader.minOffset(q));
        Check.equal("behind the largest", 12L, reader.maxOffset(q));
        List<MessageExt> stored = Case.read(reader, q);
        Check.equal("messages", 12, stored.size());
        for (int i = 0; i < 12; i++) {
            checkOwn(stored.get(i), i);
        }
        // From inside of the batch comes the whole of it: the client does not cut it.
        PullResult inside = reader.pull(q, "*", 5, 32);
        Check.equal("from inside", 11, inside.getMsgFoundList().size());
        Check.equal("next", 12L, inside.getNextBeginOffset());
        checkOwn(inside.getMsgFoundList().get(0), 1);
        // By tag the broker finds no batch made by hand: as a whole it has no tag.
        List<MessageExt> tagged = reader.pull(q, "t1", 0, 32).getMsgFoundList();
        Check.equal("by tag", 1, tagged.size());
        checkOwn(tagged.get(0), 11);
        Check.equal("other queue", 0L, reader.maxOffset(Case.queues(p, topic).get(0)));
    }

    private static void innerPush(Case c) throws Exception {
        String topic = batchTopic(c, 1);
        DefaultMQProducer p = c.producer();
        MessageQueue q = Case.queues(p, topic).get(0);
        sendTwelve(p, topic, q);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.push(c.name("group"), topic, "*", inbox);
        inbox.await(12, 20_000);
        // A waiting pull gets a batch that comes in.
        List<Message> more = messages(topic, 12, 40);
        Check.equal("offset", 12L, p.send(more, q).getQueueOffset());
        List<MessageExt> got = inbox.awaitExactly(40, 20_000, 500);
        Set<Long> offsets = new HashSet<>();
        Set<String> ids = new HashSet<>();
        for (MessageExt m : got) {
            checkOwn(m, m.getQueueOffset());
            offsets.add(m.getQueueOffset());
            ids.add(m.getMsgId());
        }
        Check.equal("offsets", 40, offsets.size());
        Check.equal("ids", 40, ids.size());
        consumer.shutdown();
        Inbox none = new Inbox();
        c.push(c.name("group"), topic, "*", none);
        none.awaitExactly(0, 10, 2000);
    }

    /** The broker cannot copy one of a batch; the client sends it to the retry topic itself. */
    private static void innerRetry(Case c) throws Exception {
        String topic = batchTopic(c, 1);
        c.server.makeTopic("%RETRY%" + c.name("group"), 1);
        DefaultMQProducer p = c.producer();
        sendTwelve(p, topic, Case.queues(p, topic).get(0));
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (l, context) -> {
            l.forEach(inbox::add);
            boolean bad = Inbox.text(l.get(0)).equals("7") && l.get(0).getReconsumeTimes() == 0;
            return bad ? ConsumeConcurrentlyStatus.RECONSUME_LATER
                : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        MessageExt again = inbox.awaitExactly(13, 40_000, 500).get(12);
        Check.equal("body", "7", Inbox.text(again));
        Check.equal("property", "7", again.getUserProperty("number"));
        Check.equal("topic", topic, again.getTopic());
        Check.equal("times delivered before", 1, again.getReconsumeTimes());
    }

    private static void innerLimits(Case c) throws Exception {
        String topic = batchTopic(c, 1);
        DefaultMQProducer p = c.producer();
        MessageQueue q = Case.queues(p, topic).get(0);
        for (int i = 0; i < 50; i += 10) {
            p.send(messages(topic, i, i + 10), q);
        }
        p.send(messages(topic, 50, 150), q);
        DefaultMQPullConsumer reader = c.pull();
        Case.awaitStored(reader, q, 150);
        // Whole batches while they fit, and the first one always.
        long[][] expected = {{0, 32, 30}, {0, 1, 10}, {0, 19, 10}, {0, 20, 20}, {60, 1, 150}};
        for (long[] e : expected) {
            long next = reader.pull(q, "*", e[0], (int) e[1]).getNextBeginOffset();
            Check.equal("next after " + e[0] + " for " + e[1], e[2], next);
        }
        List<MessageExt> all = Case.read(reader, q);
        Check.equal("messages", 150, all.size());
        for (int i = 0; i < 150; i++) {
            checkOwn(all.get(i), i);
        }
    }

    private static void innerTime(Case c) throws Exception {
        String topic = batchTopic(c, 1);
        DefaultMQProducer p = c.producer();
        MessageQueue q = Case.queues(p, topic).get(0);
        for (int i = 0; i < 30; i += 10) {
            p.send(messages(topic, i, i + 10), q);
            Thread.sleep(50);
        }
        DefaultMQPullConsumer reader = c.pull();
        Case.awaitStored(reader, q, 30);
        List<MessageExt> all = Case.read(reader, q);
        long second = all.get(10).getStoreTimestamp();
        Check.equal("one time", second, all.get(19).getStoreTimestamp());
        Check.equal("before all", 0L, reader.searchOffset(q, all.get(0).getStoreTimestamp() - 1));
        Check.equal("at the second", 10L, reader.searchOffset(q, second));
        Check.equal("behind the second", 20L, reader.searchOffset(q, second + 1));
    }

    private static void setAutoBatch(DefaultMQProducer p) throws Exception {
        p.getClass().getMethod("setAutoBatch", boolean.class).invoke(p, true);
    }

    /** The client joins what is sent at one time; each message is what it would be alone. */
    private static void auto(Case c, String topic) throws Exception {
        int count = 400;
        DefaultMQProducer p = c.newProducer();
        setAutoBatch(p);
        p.start();
        CountDownLatch answers = new CountDownLatch(count);
        AtomicReference<Throwable> failure = new AtomicReference<>();
        Set<String> offsetIds = new HashSet<>();
        for (Message m : messages(topic, 0, count)) {
            p.send(m, new SendCallback() {
                @Override
                public void onSuccess(SendResult r) {
                    synchronized (offsetIds) {
                        offsetIds.add(r.getOffsetMsgId());
                    }
                    answers.countDown();
                }

                @Override
                public void onException(Throwable e) {
                    failure.set(e);
                    answers.countDown();
                }
            });
        }
        Check.that(answers.await(15, TimeUnit.SECONDS), answers.getCount() + " callbacks missing");
        Check.equal("failure", null, failure.get());
        List<MessageExt> stored = c.readAll(p, topic, count);
        Map<String, MessageExt> byBody = new TreeMap<>();
        Set<String> ids = new HashSet<>();
        Set<Long> records = new HashSet<>();
        for (MessageExt m : stored) {
            byBody.put(Inbox.text(m), m);
            ids.add(m.getMsgId());
            records.add(m.getCommitLogOffset());
            Check.equal("property", Inbox.text(m), m.getUserProperty("number"));
            Check.equal("key", "k" + Inbox.text(m), m.getKeys());
        }
        Check.equal("bodies", count, byBody.size());
        Check.equal("ids", count, ids.size());
        // One answer per record: each message its own in an ordinary topic, one for a batch else.
        Check.equal("offset ids", records.size(), offsetIds.size());
        Check.equal("records are messages", !topic.contains("inner"), records.size() == count);
        Inbox odd = new Inbox();
        c.push(c.name("odd"), topic, "t1", odd);
        odd.awaitExactly(count / 2, 20_000, 500).forEach(m -> Check.equal("tag", "t1", m.getTags()));
    }

    private static void innerKilled(Case c) throws Exception {
        String topic = batchTopic(c, 1);
        DefaultMQProducer p = c.producer();
        MessageQueue q = Case.queues(p, topic).get(0);
        sendTwelve(p, topic, q);
        c.server.shell("KILL_BROKER", 100);
        List<Message> more = messages(topic, 12, 20);
        Wait.until("a batch after the kill", 20_000, () -> {
            try {
                return p.send(more, q).getQueueOffset() == 12;
            } catch (Exception e) {
                return false;
            }
        });
        List<MessageExt> stored = Case.read(c.pull(), q, 20);
        Check.equal("messages", 20, stored.size());
        for (int i = 0; i < 20; i++) {
            checkOwn(stored.get(i), i);
        }
    }
}
