import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.protocol.header.UpdateConsumerOffsetRequestHeader;

/** Puts some of everything into a server, a part of which must still wait when it is stopped. */
final class Fill {
    private static final int SOON_LEVEL = 4; // 30 s
    private static final long SOON_MS = 30_000;
    private static final long DAY_MS = 86_400_000;

    private final Clients clients;
    private final Ledger ledger;
    /** Names of one filling; its number is that of the server in the row. */
    private final String run;
    private final int number;
    private final Random random;

    Fill(Clients clients, Ledger ledger, int number) {
        this.clients = clients;
        this.ledger = ledger;
        this.number = number;
        run = "run" + number;
        random = new Random(number);
    }

    void all() throws Exception {
        topics();
        normal();
        batches();
        offsets();
        transactions();
        retries();
        popped();
        later();
        ledger.save();
    }

    private void topics() throws Exception {
        for (String topic : List.of("HandNormal", "HandLater", "HandTransaction", "HandRetry")) {
            clients.topic(topic, 4);
        }
        clients.topic("HandPop" + number, 4);
        if (number == 1) { // the type of its queues cannot be told again
            clients.topic("HandBatchCq", 2, "+queue.type", "BatchCQ");
        }
        clients.topic("HandGrow", 2 * number);
        clients.topic("HandGone" + number, 1);
        send("HandGone" + number, 0, "gone");
        clients.admin.deleteTopicInBroker(Collections.singleton(clients.broker), "HandGone" + number);
        clients.admin.deleteTopicInNameServer(
            Collections.singleton(clients.namesrv), "HandGone" + number);
    }

    private Message message(String topic, String key, int size) {
        byte[] body = new byte[size];
        random.nextBytes(body);
        Message m = new Message(topic, "tag" + size % 3, run + "-" + key, body);
        m.setFlag(size % 7);
        m.putUserProperty("run", run);
        return m;
    }

    private SendResult send(String topic, int queueId, String key) throws Exception {
        Message m = message(topic, key, 100 + random.nextInt(9000));
        return sent(clients.producer.send(m, new MessageQueue(topic, "broker-a", queueId)));
    }

    private SendResult sent(SendResult r) {
        if (r.getSendStatus() != SendStatus.SEND_OK) {
            throw new IllegalStateException("not stored: " + r);
        }
        MessageQueue q = r.getMessageQueue();
        ledger.add("sent", q.getTopic(), q.getQueueId(), r.getQueueOffset(), r.getMsgId());
        return r;
    }

    private void normal() throws Exception {
        for (int i = 0; i < 800; i++) {
            send("HandNormal", i % 4, "normal" + i);
        }
        for (int i = 0; i < 2 * number * 10; i++) {
            send("HandGrow", i % (2 * number), "grow" + i);
        }
        // Compressed by the client.
        Message text = new Message("HandNormal", "text", run + "-text", Clients.bytes("x".repeat(20_000)));
        sent(clients.producer.send(text, new MessageQueue("HandNormal", "broker-a", 0)));
    }

    private void batches() throws Exception {
        for (String topic : List.of("HandNormal", "HandBatchCq")) {
            for (int i = 0; i < 6; i++) {
                List<Message> batch = new ArrayList<>();
                for (int j = 0; j < 5; j++) {
                    batch.add(message(topic, "batch" + i + "-" + j, 200));
                }
                clients.producer.send(batch, new MessageQueue(topic, "broker-a", i % 2), 10_000);
            }
        }
        send("HandBatchCq", 1, "single");
    }

    private void offsets() throws Exception {
        clients.group(Clients.GROUP_OFFSETS);
        for (int queueId = 0; queueId < 4; queueId++) {
            UpdateConsumerOffsetRequestHeader header = new UpdateConsumerOffsetRequestHeader();
            header.setConsumerGroup(Clients.GROUP_OFFSETS);
            header.setTopic("HandNormal");
            header.setQueueId(queueId);
            // Ever smaller: as an operator sets them back.
            header.setCommitOffset(40L * (queueId + 1) - 10L * number);
            clients.api().updateConsumerOffset(clients.broker, header, 5000);
        }
    }

    private void transactions() throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer(Clients.GROUP_TRANSACTION);
        producer.setNamesrvAddr(clients.namesrv);
        producer.setTransactionListener(new Decider(false));
        producer.start();
        for (String key : List.of("commit1", "rollback1", "open-commit1", "commit2", "open-rollback1",
            "rollback2", "open-never1", "open-commit2", "open-rollback2")) {
            producer.sendMessageInTransaction(message("HandTransaction", key, 300), null);
            boolean comes = key.startsWith("commit") || key.startsWith("open-commit");
            ledger.add(comes ? "once" : "none", "HandTransaction", run + "-" + key);
        }
        producer.shutdown();
    }

    /** A consumer that wants some messages later and cannot use some at all. */
    private void retries() throws Exception {
        for (int i = 0; i < 8; i++) {
            send("HandRetry", i % 4, "retry" + i);
        }
        CountDownLatch seen = new CountDownLatch(8);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(Clients.GROUP_RETRY);
        consumer.setNamesrvAddr(clients.namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe("HandRetry", "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            MessageExt m = messages.get(0);
            if (!m.getKeys().startsWith(run)) {
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            }
            seen.countDown();
            context.setDelayLevelWhenNextConsume(m.getQueueId() == 0 ? -1 : SOON_LEVEL);
            return m.getQueueId() < 2 ? ConsumeConcurrentlyStatus.RECONSUME_LATER
                : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        if (!seen.await(40, TimeUnit.SECONDS)) {
            throw new IllegalStateException("the consumer did not get its messages");
        }
        // Each message is settled: what is shut down in between would be sent back twice.
        long end = System.currentTimeMillis() + 20_000;
        while (!consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable()
            .values().stream().allMatch(queue -> queue.getMsgCount().get() == 0)) {
            if (System.currentTimeMillis() > end) {
                throw new IllegalStateException("the consumer does not settle its messages");
            }
            Thread.sleep(20);
        }
        consumer.shutdown();
        for (int i = 0; i < 8; i++) {
            if (i % 4 < 2) {
                String topic = (i % 4 == 0 ? "%DLQ%" : "%RETRY%") + Clients.GROUP_RETRY;
                ledger.add("once", topic, run + "-retry" + i);
            }
        }
    }

    private void popped() throws Exception {
        String topic = "HandPop" + number;
        for (int i = 0; i < 16; i++) {
            send(topic, i % 4, "pop" + i);
        }
        Pop pop = new Pop(clients, topic);
        AtomicInteger count = new AtomicInteger();
        pop.take(12, 40_000, 20_000, m -> {
            boolean ack = count.incrementAndGet() % 2 == 0;
            ledger.add(ack ? "acked" : "pop", topic, m.getKeys());
            return ack;
        });
        if (count.get() < 12) {
            throw new IllegalStateException("popped only " + count);
        }
        // The others were never popped, so they come for sure; see Settle.
        ledger.add("popped", topic, 16);
    }

    /** What is due long after, soon, and at once. */
    private void later() throws Exception {
        long now = System.currentTimeMillis();
        for (int i = 0; i < 4; i++) {
            Message level = message("HandLater", "level" + i, 150);
            level.setDelayTimeLevel(i < 2 ? SOON_LEVEL : 18);
            clients.producer.send(level);
            if (i < 2) {
                ledger.add("due", "HandLater", level.getKeys(), now + SOON_MS);
            } else {
                ledger.add("none", "HandLater", level.getKeys());
            }
        }
        long[] delays = {1000, 25_000, 31_500, 32_000, 34_000, DAY_MS, 2 * DAY_MS + 20 * DAY_MS / 24};
        List<String> recall = new ArrayList<>();
        for (int i = 0; i < delays.length; i++) {
            Message timed = message("HandLater", "timed" + i, 150);
            timed.setDelayTimeMs(delays[i]);
            clients.producer.send(timed);
            if (delays[i] < DAY_MS) {
                ledger.add("due", "HandLater", timed.getKeys(), now + delays[i]);
            } else {
                ledger.add("none", "HandLater", timed.getKeys());
            }
        }
        Message recalled = message("HandLater", "recalled", 150);
        recalled.setDelayTimeMs(33_000);
        SendResult r = clients.producer.send(recalled);
        clients.producer.recallMessage("HandLater", r.getRecallHandle());
        ledger.add("none", "HandLater", recalled.getKeys());
        // The one of a second is delivered by the server that took it.
        Settle.await(clients, "HandLater", run + "-timed0", 10_000);
    }

    /** Decides a transaction by its key; what is open only when it may. */
    static final class Decider implements org.apache.rocketmq.client.producer.TransactionListener {
        private final boolean decides;

        Decider(boolean decides) {
            this.decides = decides;
        }

        private static LocalTransactionState by(String key) {
            if (key.contains("never")) {
                return LocalTransactionState.UNKNOW;
            }
            return key.contains("commit") ? LocalTransactionState.COMMIT_MESSAGE
                : LocalTransactionState.ROLLBACK_MESSAGE;
        }

        @Override
        public LocalTransactionState executeLocalTransaction(Message m, Object argument) {
            return m.getKeys().contains("open") ? LocalTransactionState.UNKNOW : by(m.getKeys());
        }

        @Override
        public LocalTransactionState checkLocalTransaction(MessageExt m) {
            return decides ? by(m.getKeys()) : LocalTransactionState.UNKNOW;
        }
    }
}
