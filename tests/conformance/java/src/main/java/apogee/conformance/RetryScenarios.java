package apogee.conformance;

import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** What happens to messages that a listener refuses. */
final class RetryScenarios {
    private RetryScenarios() {
    }

    static void list(List<Scenario> l) {
        // First in line, because they wait longest.
        l.add(0, new Scenario("retry-topic-auto-created", 60, RetryScenarios::autoCreated));
        l.add(0, new Scenario("retry-default-delay", 50, RetryScenarios::defaultDelay));
        l.add(new Scenario("retry-then-success", 40, RetryScenarios::thenSuccess));
        l.add(new Scenario("retry-to-dlq", 50, RetryScenarios::toDlq));
        l.add(new Scenario("retry-straight-to-dlq", 40, RetryScenarios::straightToDlq));
        l.add(new Scenario("retry-part-of-batch", 40, RetryScenarios::partOfBatch));
    }

    /** Refuses every delivery while the count of earlier ones is below the limit. */
    private static void refuse(Case c, String topic, int times, int level, int max, Inbox inbox)
        throws Exception {
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.setMaxReconsumeTimes(max);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(inbox::add);
            if (messages.get(0).getReconsumeTimes() < times) {
                context.setDelayLevelWhenNextConsume(level);
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
    }

    /**
     * Makes the retry topic of the group ahead. The broker makes it when it first hears of the
     * group, but a client that has started by then takes up to 50 s to notice.
     */
    private static void makeRetryTopic(Case c) throws Exception {
        c.server.makeTopic("%RETRY%" + c.name("group"), 1);
    }

    private static void autoCreated(Case c) throws Exception {
        String topic = c.topic(1);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        // Looks for new routes each second; the next round of queue assignment is 20 s away.
        consumer.setPollNameServerInterval(1000);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(inbox::add);
            context.setDelayLevelWhenNextConsume(1);
            return messages.get(0).getReconsumeTimes() == 0
                ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        c.producer().send(new Message(topic, Case.bytes("again")));
        inbox.awaitExactly(2, 45_000, 300);
    }

    private static void defaultDelay(Case c) throws Exception {
        String topic = c.topic(1);
        makeRetryTopic(c);
        Inbox inbox = new Inbox();
        refuse(c, topic, 1, 0, -1, inbox);
        c.producer().send(new Message(topic, Case.bytes("again")));
        inbox.awaitExactly(2, 35_000, 300);
        long gap = inbox.timeOf(1) - inbox.timeOf(0);
        Check.that(gap >= 9_900 && gap < 14_000, "second delivery after " + gap + " ms, not 10 s");
        Check.equal("count", 1, inbox.all().get(1).getReconsumeTimes());
    }

    private static void thenSuccess(Case c) throws Exception {
        String topic = c.topic(1);
        makeRetryTopic(c);
        Inbox inbox = new Inbox();
        refuse(c, topic, 2, 1, -1, inbox);
        Message sent = new Message(topic, "tag", "key", Case.bytes("again"));
        sent.putUserProperty("colour", "red");
        SendResult r = c.producer().send(sent);
        List<MessageExt> l = inbox.awaitExactly(3, 30_000, 1500);
        for (int i = 0; i < 3; i++) {
            MessageExt m = l.get(i);
            Check.equal("count", i, m.getReconsumeTimes());
            Check.equal("topic shown", topic, m.getTopic());
            Check.equal("body", "again", Inbox.text(m));
            Check.equal("tag", "tag", m.getTags());
            Check.equal("keys", "key", m.getKeys());
            Check.equal("property", "red", m.getUserProperty("colour"));
            Check.equal("unique id", r.getMsgId(), m.getMsgId());
        }
        for (int i = 1; i < 3; i++) {
            long gap = inbox.timeOf(i) - inbox.timeOf(i - 1);
            Check.that(gap >= 950, "delivery " + i + " came after " + gap + " ms, level 1 is 1 s");
        }
    }

    private static MessageExt readDlq(Case c) throws Exception {
        String dlq = "%DLQ%" + c.name("group");
        DefaultMQPullConsumer reader = c.pull();
        List<MessageExt> found = new ArrayList<>();
        MessageQueue[] queue = new MessageQueue[1];
        Wait.until("message in " + dlq, 20_000, () -> {
            if (queue[0] == null) {
                try {
                    Set<MessageQueue> queues = reader.fetchSubscribeMessageQueues(dlq);
                    Check.equal("queues of " + dlq, 1, queues.size());
                    queue[0] = queues.iterator().next();
                } catch (MQClientException e) {
                    return false;
                }
            }
            found.clear();
            found.addAll(Case.read(reader, queue[0]));
            return !found.isEmpty();
        });
        Check.equal("messages in " + dlq, 1, found.size());
        return found.get(0);
    }

    private static void checkDead(Case c, String topic, SendResult r) throws Exception {
        MessageExt dead = readDlq(c);
        Check.equal("body", "dead", Inbox.text(dead));
        Check.equal("original topic", topic, dead.getProperty("RETRY_TOPIC"));
        Check.equal("original id", r.getOffsetMsgId(), dead.getProperty("ORIGIN_MESSAGE_ID"));
    }

    private static void toDlq(Case c) throws Exception {
        String topic = c.topic(1);
        makeRetryTopic(c);
        Inbox inbox = new Inbox();
        refuse(c, topic, 99, 1, 2, inbox);
        SendResult r = c.producer().send(new Message(topic, Case.bytes("dead")));
        List<MessageExt> l = inbox.awaitExactly(3, 30_000, 2500);
        for (int i = 0; i < 3; i++) {
            Check.equal("count", i, l.get(i).getReconsumeTimes());
        }
        checkDead(c, topic, r);
    }

    private static void straightToDlq(Case c) throws Exception {
        String topic = c.topic(1);
        Inbox inbox = new Inbox();
        refuse(c, topic, 99, -1, -1, inbox);
        SendResult r = c.producer().send(new Message(topic, Case.bytes("dead")));
        inbox.awaitExactly(1, 20_000, 2000);
        checkDead(c, topic, r);
    }

    private static void partOfBatch(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        MessageQueue q = Case.queues(p, topic).get(0);
        for (int i = 0; i < 4; i++) {
            p.send(new Message(topic, Case.bytes("" + i)), q);
        }
        makeRetryTopic(c);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.setConsumeMessageBatchMaxSize(4);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(inbox::add);
            if (messages.get(0).getReconsumeTimes() == 0) {
                // Only the first half is done; the rest comes again.
                context.setAckIndex(messages.size() / 2 - 1);
                context.setDelayLevelWhenNextConsume(1);
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        List<MessageExt> l = inbox.awaitExactly(6, 20_000, 1500);
        Set<String> again = new TreeSet<>();
        l.subList(4, 6).forEach(m -> again.add(Inbox.text(m) + "/" + m.getReconsumeTimes()));
        Check.equal("redelivered", "[2/1, 3/1]", again.toString());
    }
}
