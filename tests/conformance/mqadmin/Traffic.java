import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;

import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** A producer and a consumer that live while the commands run, so that something is to see. */
final class Traffic {
    /** Messages that are sent, a quarter to each queue. */
    static final int MESSAGES = 40;

    private final DefaultMQProducer producer;
    private final DefaultMQPushConsumer consumer;
    /** The original's statistics are empty until their first sample. */
    private static final long SAMPLED_MS = 11_000;

    private final long start = System.currentTimeMillis();
    private final AtomicInteger consumed = new AtomicInteger();
    /** What the sends answered. */
    final List<SendResult> sent = new ArrayList<>();

    Traffic(String namesrv, String topic, String producerGroup, String group) throws Exception {
        producer = new DefaultMQProducer(producerGroup, true, null);
        producer.setNamesrvAddr(namesrv);
        consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            consumed.addAndGet(messages.size());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        producer.start();
        for (int i = 0; i < MESSAGES; i++) {
            Message message = new Message(topic, "tag", "key" + i, ("body" + i).getBytes());
            sent.add(producer.send(message, new MessageQueue(topic, "broker-a", i % 4)));
        }
    }

    /** Starts the consumer and waits until it has everything and has committed that. */
    void consume() throws Exception {
        consumer.start();
        if (!consumedTimes(1)) {
            throw new IllegalStateException("the consumer does not get its messages");
        }
    }

    /** Waits until everything was consumed so many times, and commits. */
    boolean consumedTimes(int times) throws InterruptedException {
        long end = System.currentTimeMillis() + 40_000;
        while (consumed.get() < times * MESSAGES && System.currentTimeMillis() < end) {
            Thread.sleep(50);
        }
        Thread.sleep(500); // the last listener has to return before its offset counts
        consumer.getDefaultMQPushConsumerImpl().persistConsumerOffset();
        return consumed.get() == times * MESSAGES;
    }

    /** Waits until statistics show what was sent. */
    void sampled() throws InterruptedException {
        Thread.sleep(Math.max(0, start + SAMPLED_MS - System.currentTimeMillis()));
    }

    /** Messages consumed so far. */
    int count() {
        return consumed.get();
    }

    /** Id of the consuming client. */
    String clientId() {
        return consumer.getDefaultMQPushConsumerImpl().getmQClientFactory().getClientId();
    }

    void stopConsumer() {
        consumer.shutdown();
    }

    void stop() {
        producer.shutdown();
    }
}
