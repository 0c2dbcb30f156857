package apogee.conformance;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageClientExt;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Every way to send, and that what was stored is what was sent. */
final class SendScenarios {
    static final int LIMIT = 4 * 1024 * 1024;

    private SendScenarios() {
    }

    static void list(List<Scenario> l) {
        l.add(new Scenario("send-sync", 30, SendScenarios::sync));
        l.add(new Scenario("send-async", 30, SendScenarios::async));
        l.add(new Scenario("send-oneway", 30, SendScenarios::oneway));
        l.add(new Scenario("send-batch", 30, SendScenarios::batch));
        l.add(new Scenario("send-keys", 30, SendScenarios::keys));
        l.add(new Scenario("send-selector", 30, SendScenarios::selector));
        l.add(new Scenario("send-auto-created-topic", 30, SendScenarios::autoCreated));
        l.add(new Scenario("text-everywhere", 30, SendScenarios::text));
        l.add(new Scenario("body-compressed", 30, SendScenarios::compressed));
        l.add(new Scenario("body-limit", 40, SendScenarios::bodyLimit));
    }

    private static void sync(Case c) throws Exception {
        String topic = c.topic(4);
        DefaultMQProducer p = c.producer();
        DefaultMQPullConsumer reader = c.pull();
        List<MessageQueue> queues = Case.queues(p, topic);
        Check.equal("queues", 4, queues.size());
        for (MessageQueue q : queues) {
            for (int i = 0; i < 3; i++) {
                Message m = new Message(topic, "tag" + i, "key" + i, Case.bytes("body " + i));
                m.putUserProperty("number", Integer.toString(i));
                m.setFlag(1000 + i);
                SendResult r = p.send(m, q);
                Check.equal("status", SendStatus.SEND_OK, r.getSendStatus());
                Check.equal("queue", q, r.getMessageQueue());
                Check.equal("queue offset", (long) i, r.getQueueOffset());
                MessageClientExt stored = (MessageClientExt) Case.read(reader, q, i + 1).get(i);
                Check.equal("body", "body " + i, Inbox.text(stored));
                Check.equal("tag", "tag" + i, stored.getTags());
                Check.equal("keys", "key" + i, stored.getKeys());
                Check.equal("property", Integer.toString(i), stored.getUserProperty("number"));
                Check.equal("flag", 1000 + i, stored.getFlag());
                Check.equal("unique id", r.getMsgId(), stored.getMsgId());
                Check.equal("offset id", r.getOffsetMsgId(), stored.getOffsetMsgId());
                Check.equal("offset", (long) i, stored.getQueueOffset());
                Check.equal("times delivered before", 0, stored.getReconsumeTimes());
                Check.that(stored.getStoreTimestamp() >= stored.getBornTimestamp(), "store time");
            }
        }
    }

    private static void async(Case c) throws Exception {
        String topic = c.topic(4);
        DefaultMQProducer p = c.producer();
        int count = 50;
        CountDownLatch answers = new CountDownLatch(count);
        AtomicReference<Throwable> failure = new AtomicReference<>();
        Set<String> ids = new HashSet<>();
        for (int i = 0; i < count; i++) {
            p.send(new Message(topic, Case.bytes(Integer.toString(i))), new SendCallback() {
                @Override
                public void onSuccess(SendResult r) {
                    synchronized (ids) {
                        if (r.getSendStatus() == SendStatus.SEND_OK) {
                            ids.add(r.getOffsetMsgId());
                        }
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
        Check.equal("different offset ids", count, ids.size());
        c.readAll(p, topic, count);
    }

    private static void oneway(Case c) throws Exception {
        String topic = c.topic(4);
        DefaultMQProducer p = c.producer();
        for (int i = 0; i < 20; i++) {
            p.sendOneway(new Message(topic, Case.bytes(Integer.toString(i))));
        }
        Set<String> bodies = new HashSet<>();
        c.readAll(p, topic, 20).forEach(m -> bodies.add(Inbox.text(m)));
        Check.equal("bodies", new HashSet<>(Case.numbers(0, 20)), bodies);
    }

    private static void batch(Case c) throws Exception {
        String topic = c.topic(2);
        DefaultMQProducer p = c.producer();
        MessageQueue q = Case.queues(p, topic).get(1);
        p.send(new Message(topic, Case.bytes("before")), q);
        List<Message> batch = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            Message m = new Message(topic, "t" + i % 2, "k" + i, Case.bytes("batch " + i));
            m.putUserProperty("number", Integer.toString(i));
            batch.add(m);
        }
        SendResult r = p.send(batch, q);
        Check.equal("status", SendStatus.SEND_OK, r.getSendStatus());
        Check.equal("offset of the first", 1L, r.getQueueOffset());
        SendResult after = p.send(new Message(topic, Case.bytes("after")), q);
        Check.equal("offset after the batch", 11L, after.getQueueOffset());
        String[] ids = r.getMsgId().split(",");
        String[] offsetIds = r.getOffsetMsgId().split(",");
        Check.equal("ids", 10, ids.length);
        Check.equal("offset ids", 10, offsetIds.length);
        List<MessageExt> stored = Case.read(c.pull(), q, 12);
        for (int i = 0; i < 10; i++) {
            MessageClientExt m = (MessageClientExt) stored.get(1 + i);
            Check.equal("body", "batch " + i, Inbox.text(m));
            Check.equal("offset", 1L + i, m.getQueueOffset());
            Check.equal("id", ids[i], m.getMsgId());
            Check.equal("offset id", offsetIds[i], m.getOffsetMsgId());
            Check.equal("tag", "t" + i % 2, m.getTags());
            Check.equal("keys", "k" + i, m.getKeys());
            Check.equal("property", Integer.toString(i), m.getUserProperty("number"));
        }
    }

    private static void keys(Case c) throws Exception {
        String topic = c.topic(4);
        DefaultMQProducer p = c.producer();
        Message m = new Message(topic, Case.bytes("keyed"));
        m.setKeys(Arrays.asList("first", "second", "third"));
        p.send(m);
        Check.equal("keys", "first second third", c.readAll(p, topic, 1).get(0).getKeys());
    }

    private static void selector(Case c) throws Exception {
        String topic = c.topic(4);
        DefaultMQProducer p = c.producer();
        for (int i = 0; i < 24; i++) {
            String key = "order-" + i % 12;
            Message m = new Message(topic, Case.bytes(key));
            SendResult r = p.send(m, new SelectMessageQueueByHash(), key);
            int queue = Math.abs(key.hashCode()) % 4;
            Check.equal("queue of " + key, queue, r.getMessageQueue().getQueueId());
        }
        for (MessageExt m : c.readAll(p, topic, 24)) {
            int queue = Math.abs(Inbox.text(m).hashCode()) % 4;
            Check.equal("stored queue of " + Inbox.text(m), queue, m.getQueueId());
        }
    }

    private static void autoCreated(Case c) throws Exception {
        String topic = c.name("");
        DefaultMQProducer p = c.producer();
        for (int i = 0; i < 8; i++) {
            SendResult r = p.send(new Message(topic, Case.bytes("first " + i)));
            Check.equal("status", SendStatus.SEND_OK, r.getSendStatus());
            Check.that(r.getMessageQueue().getQueueId() < 4, "a queue beyond the client's default of 4");
        }
        // The route is told from now on, with as many queues as the producer asked for.
        Wait.until("route", 10_000, () -> {
            try {
                return c.server.admin.examineTopicRouteInfo(topic).getQueueDatas().size() == 1;
            } catch (MQClientException e) {
                return false;
            }
        });
        Check.equal("queues", 4, c.server.admin.examineTopicRouteInfo(topic).getQueueDatas().get(0)
            .getWriteQueueNums());
        c.readAll(c.producer(), topic, 8);
    }

    private static void text(Case c) throws Exception {
        String topic = c.topic(1);
        String text = "消息队列 Grüße こんにちは привет 🚀 \u0000 end";
        DefaultMQProducer p = c.producer();
        Message m = new Message(topic, "标签", "钥匙", Case.bytes(text));
        m.putUserProperty("属性", "值 with blanks, = and : and 🚀");
        p.send(m);
        Message plain = new Message(topic, Case.bytes("-"));
        plain.setBody(new byte[] {0, (byte) 0xff, 1, (byte) 0x80});
        p.send(plain);
        List<MessageExt> l = c.readAll(p, topic, 2);
        Check.equal("body", text, Inbox.text(l.get(0)));
        Check.equal("tag", "标签", l.get(0).getTags());
        Check.equal("keys", "钥匙", l.get(0).getKeys());
        Check.equal("property", "值 with blanks, = and : and 🚀", l.get(0).getUserProperty("属性"));
        Check.that(Arrays.equals(plain.getBody(), l.get(1).getBody()), "bytes that are no text");
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "标签", inbox);
        Check.equal("consumed", text, Inbox.text(inbox.await(1, 20_000).get(0)));
    }

    private static void compressed(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        StringBuilder b = new StringBuilder();
        while (b.length() < 60_000) {
            b.append("line ").append(b.length()).append('\n');
        }
        String body = b.toString();
        p.send(new Message(topic, Case.bytes(body)));
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "*", inbox);
        MessageExt m = inbox.await(1, 20_000).get(0);
        Check.equal("body", body, Inbox.text(m));
        // The size is the stored one.
        Check.that(m.getStoreSize() < 30_000, "stored size " + m.getStoreSize());
    }

    static byte[] noise(int length) {
        byte[] b = new byte[length];
        new Random(length).nextBytes(b);
        return b;
    }

    /** A producer that leaves it to the server to refuse large bodies. */
    static DefaultMQProducer unlimited(Case c) throws Exception {
        DefaultMQProducer p = c.newProducer();
        p.setMaxMessageSize(2 * LIMIT);
        p.setCompressMsgBodyOverHowmuch(2 * LIMIT);
        p.setRetryTimesWhenSendFailed(0);
        p.start();
        return p;
    }

    private static void bodyLimit(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = unlimited(c);
        byte[] body = noise(LIMIT);
        Check.equal("status", SendStatus.SEND_OK, p.send(new Message(topic, body)).getSendStatus());
        List<MessageExt> l = c.readAll(p, topic, 1);
        Check.that(Arrays.equals(body, l.get(0).getBody()), "a body of exactly 4 MiB comes back equal");
    }
}
