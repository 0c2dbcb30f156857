package apogee.conformance;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Pulling by offset, and asking for messages and offsets. */
final class PullScenarios {
    private PullScenarios() {
    }

    static void list(List<Scenario> l) {
        l.add(new Scenario("light-queues", 40, PullScenarios::light));
        l.add(new Scenario("pull-by-offset", 30, PullScenarios::byOffset));
        l.add(new Scenario("pull-tags", 30, PullScenarios::tags));
        l.add(new Scenario("pull-stored-offset", 30, PullScenarios::storedOffset));
        l.add(new Scenario("lite-pull-subscribe", 40, PullScenarios::liteSubscribe));
        l.add(new Scenario("lite-pull-assign-seek", 40, PullScenarios::liteAssign));
        l.add(new Scenario("query-by-key", 30, PullScenarios::queryByKey));
        l.add(new Scenario("query-by-id", 30, PullScenarios::queryById));
        l.add(new Scenario("offsets-min-max", 30, PullScenarios::minMax));
        l.add(new Scenario("offset-by-time", 30, PullScenarios::byTime));
    }

    private static MessageQueue fill(DefaultMQProducer p, String topic, int count) throws Exception {
        MessageQueue q = Case.queues(p, topic).get(0);
        for (int i = 0; i < count; i++) {
            p.send(new Message(topic, i % 2 == 0 ? "even" : "odd", Case.bytes("" + i)), q);
        }
        Case.awaitStored(p, q, count);
        return q;
    }

    private static void byOffset(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQPullConsumer reader = c.pull();
        MessageQueue q = fill(c.producer(), topic, 50);
        PullResult r = reader.pull(q, "*", 10, 16);
        Check.equal("status", PullStatus.FOUND, r.getPullStatus());
        Check.equal("count", 16, r.getMsgFoundList().size());
        for (int i = 0; i < 16; i++) {
            Check.equal("body", "" + (10 + i), Inbox.text(r.getMsgFoundList().get(i)));
        }
        Check.equal("next", 26L, r.getNextBeginOffset());
        Check.equal("min", 0L, r.getMinOffset());
        Check.equal("max", 50L, r.getMaxOffset());
        PullResult end = reader.pull(q, "*", 50, 16);
        Check.equal("status at the end", PullStatus.NO_NEW_MSG, end.getPullStatus());
        Check.equal("next at the end", 50L, end.getNextBeginOffset());
        PullResult beyond = reader.pull(q, "*", 60, 16);
        Check.equal("status beyond the end", PullStatus.OFFSET_ILLEGAL, beyond.getPullStatus());
        Check.equal("next beyond the end", 50L, beyond.getNextBeginOffset());
    }

    private static void tags(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQPullConsumer reader = c.pull();
        MessageQueue q = fill(c.producer(), topic, 10);
        PullResult even = reader.pull(q, "even", 0, 32);
        Check.equal("status", PullStatus.FOUND, even.getPullStatus());
        Check.equal("count", 5, even.getMsgFoundList().size());
        Check.equal("next", 10L, even.getNextBeginOffset());
        PullResult none = reader.pull(q, "other", 0, 32);
        Check.equal("status of no match", PullStatus.NO_MATCHED_MSG, none.getPullStatus());
        Check.equal("next of no match", 10L, none.getNextBeginOffset());
    }

    private static void storedOffset(Case c) throws Exception {
        String topic = c.topic(1);
        MessageQueue q = fill(c.producer(), topic, 10);
        DefaultMQPullConsumer reader = c.pull();
        // The first pull makes the group known: progress of unknown groups is not stored.
        reader.pull(q, "*", 0, 32);
        reader.updateConsumeOffset(q, 7);
        reader.getOffsetStore().persist(q);
        DefaultMQPullConsumer other = c.pull();
        Wait.until("offset 7 is stored", 10_000, () -> other.fetchConsumeOffset(q, true) == 7);
    }

    private static void liteSubscribe(Case c) throws Exception {
        String topic = c.topic(4);
        String group = c.name("group");
        DefaultMQProducer p = c.producer();
        Case.sendNumbers(p, topic, 0, 40);
        DefaultLitePullConsumer first = c.newLite(group);
        first.setAutoCommit(false);
        first.subscribe(topic, "*");
        first.start();
        Check.equal("bodies", Case.numbers(0, 40), poll(first, 40));
        first.commitSync();
        // Offsets go to the broker at shutdown; a second member starts there.
        first.shutdown();
        Case.sendNumbers(p, topic, 40, 50);
        DefaultLitePullConsumer second = c.newLite(group);
        second.subscribe(topic, "*");
        second.start();
        Check.equal("bodies after commit", Case.numbers(40, 50), poll(second, 10));
    }

    private static Set<String> poll(DefaultLitePullConsumer consumer, int count) {
        Set<String> bodies = new TreeSet<>();
        long end = System.nanoTime() + 20_000_000_000L;
        while (bodies.size() < count) {
            Check.that(System.nanoTime() < end, "polled " + bodies.size() + " of " + count);
            consumer.poll(500).forEach(m -> bodies.add(Inbox.text(m)));
        }
        return bodies;
    }

    private static void liteAssign(Case c) throws Exception {
        String topic = c.topic(1);
        fill(c.producer(), topic, 30);
        DefaultLitePullConsumer consumer = c.newLite(c.name("group"));
        consumer.setAutoCommit(false);
        consumer.start();
        MessageQueue q = consumer.fetchMessageQueues(topic).iterator().next();
        consumer.assign(Collections.singletonList(q));
        // All read: the pull in flight waits at the end, so it cannot mix with what seek asks for.
        Check.equal("bodies", Case.numbers(0, 30), poll(consumer, 30));
        consumer.seek(q, 25);
        List<Long> offsets = new ArrayList<>();
        long end = System.nanoTime() + 20_000_000_000L;
        while (offsets.size() < 5) {
            Check.that(System.nanoTime() < end, "polled " + offsets);
            for (MessageExt m : consumer.poll(500)) {
                offsets.add(m.getQueueOffset());
            }
        }
        Check.equal("offsets", Arrays.asList(25L, 26L, 27L, 28L, 29L), offsets);
        consumer.seekToBegin(q);
        Check.equal("bodies from the beginning", Case.numbers(0, 30), poll(consumer, 30));
        Check.refusedByClient("seek beyond the end", () -> consumer.seek(q, 31));
    }

    private static void queryByKey(Case c) throws Exception {
        String topic = c.topic(4);
        DefaultMQProducer p = c.producer();
        long begin = System.currentTimeMillis() - 60_000;
        for (int i = 0; i < 5; i++) {
            Message m = new Message(topic, Case.bytes("" + i));
            m.setKeys(Arrays.asList("shared", "own" + i));
            p.send(m);
        }
        Message other = new Message(topic, Case.bytes("other"));
        other.setKeys("another");
        p.send(other);
        Check.equal("found by own key", Collections.singleton("3"), query(p, topic, "own3", begin, 1));
        Check.equal("found by shared key", Case.numbers(0, 5), query(p, topic, "shared", begin, 5));
        Check.refusedByClient("an unknown key", () -> p.queryMessage(topic, "nobody", 32, begin,
            System.currentTimeMillis() + 60_000));
        QueryResult two = p.queryMessage(topic, "shared", 2, begin, System.currentTimeMillis() + 60_000);
        Check.equal("found with limit 2", 2, two.getMessageList().size());
    }

    private static Set<String> query(DefaultMQProducer p, String topic, String key, long begin, int n)
        throws Exception {
        Set<String> found = new TreeSet<>();
        Wait.until(n + " messages with key " + key, 10_000, () -> {
            found.clear();
            try {
                p.queryMessage(topic, key, 32, begin, System.currentTimeMillis() + 60_000)
                    .getMessageList().forEach(m -> found.add(Inbox.text(m)));
            } catch (MQClientException e) {
                return false;
            }
            return found.size() >= n;
        });
        return found;
    }

    private static void queryById(Case c) throws Exception {
        String topic = c.topic(4);
        DefaultMQProducer p = c.producer();
        SendResult r = p.send(new Message(topic, "tag", Case.bytes("look for me")));
        MessageExt byOffsetId = p.viewMessage(topic, r.getOffsetMsgId());
        Check.equal("body by offset id", "look for me", Inbox.text(byOffsetId));
        Check.equal("unique id by offset id", r.getMsgId(), byOffsetId.getProperty("UNIQ_KEY"));
        MessageExt[] found = new MessageExt[1];
        Wait.until("found by unique id", 10_000, () -> {
            try {
                found[0] = p.viewMessage(topic, r.getMsgId());
            } catch (Exception e) {
                return false;
            }
            return found[0] != null;
        });
        Check.equal("body by unique id", "look for me", Inbox.text(found[0]));
        Check.equal("offset by unique id", r.getQueueOffset(), found[0].getQueueOffset());
    }

    private static void minMax(Case c) throws Exception {
        String topic = c.topic(2);
        DefaultMQProducer p = c.producer();
        DefaultMQPullConsumer reader = c.pull();
        long before = System.currentTimeMillis();
        MessageQueue filled = fill(p, topic, 12);
        MessageQueue empty = Case.queues(p, topic).get(1);
        Check.equal("min", 0L, reader.minOffset(filled));
        Check.equal("max", 12L, reader.maxOffset(filled));
        Check.equal("min of an empty queue", 0L, reader.minOffset(empty));
        Check.equal("max of an empty queue", 0L, reader.maxOffset(empty));
        long earliest = reader.earliestMsgStoreTime(filled);
        Check.that(earliest >= before && earliest <= System.currentTimeMillis(), "earliest store time");
        Check.equal("earliest store time of an empty queue", -1L, reader.earliestMsgStoreTime(empty));
    }

    private static void byTime(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        DefaultMQPullConsumer reader = c.pull();
        MessageQueue q = Case.queues(p, topic).get(0);
        for (int i = 0; i < 4; i++) {
            p.send(new Message(topic, Case.bytes("" + i)), q);
            // Distinct store times, so that each one has a single right answer.
            Thread.sleep(15);
        }
        List<MessageExt> l = Case.read(reader, q, 4);
        long first = l.get(0).getStoreTimestamp();
        Check.equal("before all", 0L, reader.searchOffset(q, first - 1000));
        for (int i = 0; i < 4; i++) {
            Check.equal("at the time of " + i, (long) i,
                reader.searchOffset(q, l.get(i).getStoreTimestamp()));
        }
        Check.equal("just before the third", 2L,
            reader.searchOffset(q, l.get(2).getStoreTimestamp() - 1));
        Check.equal("after all", 4L, reader.searchOffset(q, System.currentTimeMillis() + 60_000));
    }

    /** One message, shown in three light queues beside its own. */
    private static void light(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        String a = "%LMQ%" + c.name("a");
        String b = "%LMQ%" + c.name("b");
        MessageQueue own = Case.queues(p, topic).get(0);
        for (int i = 0; i < 10; i++) {
            Message m = new Message(topic, Case.bytes(Integer.toString(i)));
            MessageAccessor.putProperty(m, "INNER_MULTI_DISPATCH", i % 2 == 0 ? a + "," + b : a);
            p.send(m, own);
        }
        DefaultMQPullConsumer consumer = c.pull();
        Case.awaitStored(consumer, own, 10);
        consumer.fetchSubscribeMessageQueues(topic);
        for (int light = 0; light < 2; light++) {
            MessageQueue q = new MessageQueue(light == 0 ? a : b, own.getBrokerName(), 0);
            List<MessageExt> found = new ArrayList<>();
            Wait.until("messages in " + q, 10_000, () -> {
                found.clear();
                PullResult r = consumer.pull(q, "*", 0, 32);
                if (r.getPullStatus() == PullStatus.FOUND) {
                    found.addAll(r.getMsgFoundList());
                }
                return found.size() >= 5;
            });
            Check.equal("messages in " + q, light == 0 ? 10 : 5, found.size());
            for (int i = 0; i < found.size(); i++) {
                Check.equal("body", Integer.toString(light == 0 ? i : 2 * i), Inbox.text(found.get(i)));
                String offsets = found.get(i).getProperty("INNER_MULTI_QUEUE_OFFSET");
                Check.equal("offset", Integer.toString(i), offsets.split(",")[light]);
            }
        }
    }
}
