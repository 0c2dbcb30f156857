import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;

import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** The client library of the original, connected to whichever server runs. */
final class Clients {
    static final String GROUP_OFFSETS = "HandOffsets";
    static final String GROUP_RETRY = "HandRetryGroup";
    static final String GROUP_POP = "HandPopGroup";
    static final String GROUP_TRANSACTION = "HandTransactions";
    private static final long ROUTE_MS = 20_000;

    final String namesrv = System.getenv("NAMESRV_ADDR");
    final String broker = System.getenv("BROKER_ADDR");
    final DefaultMQAdminExt admin = new DefaultMQAdminExt(10_000);
    final DefaultMQProducer producer = new DefaultMQProducer("HandProducer");
    final DefaultMQPullConsumer puller = new DefaultMQPullConsumer("HandPuller");

    Clients() throws Exception {
        admin.setNamesrvAddr(namesrv);
        producer.setNamesrvAddr(namesrv);
        producer.setRetryTimesWhenSendFailed(0);
        puller.setNamesrvAddr(namesrv);
        admin.start();
        producer.start();
        puller.start();
    }

    void close() {
        puller.shutdown();
        producer.shutdown();
        admin.shutdown();
    }

    MQClientAPIImpl api() {
        return producer.getDefaultMQProducerImpl().getMqClientFactory().getMQClientAPIImpl();
    }

    /** Creates or changes a topic and waits until its route says so. */
    void topic(String name, int queues, String... attribute) throws Exception {
        TopicConfig config = new TopicConfig(name, queues, queues, 6);
        if (attribute.length > 0) {
            config.getAttributes().put(attribute[0], attribute[1]);
        }
        admin.createAndUpdateTopicConfig(broker, config);
        long end = System.currentTimeMillis() + ROUTE_MS;
        while (System.currentTimeMillis() < end) {
            try {
                int seen = admin.examineTopicRouteInfo(name).getQueueDatas().get(0).getWriteQueueNums();
                if (seen == queues) {
                    return;
                }
            } catch (Exception e) {
                // not registered yet
            }
            Thread.sleep(50);
        }
        throw new IllegalStateException("no route of " + name);
    }

    void group(String name) throws Exception {
        SubscriptionGroupConfig config = new SubscriptionGroupConfig();
        config.setGroupName(name);
        admin.createAndUpdateSubscriptionGroupConfig(broker, config);
    }

    /** Every message of a queue, from its first offset to its end. */
    List<MessageExt> all(String topic, int queueId) throws Exception {
        MessageQueue queue = new MessageQueue(topic, "broker-a", queueId);
        long at = first(queue);
        long end = puller.maxOffset(queue);
        List<MessageExt> all = new ArrayList<>();
        while (at < end) {
            PullResult result = puller.pull(queue, "*", at, 32, 10_000);
            if (result.getPullStatus() == PullStatus.FOUND) {
                all.addAll(result.getMsgFoundList());
            } else if (result.getNextBeginOffset() <= at) {
                throw new IllegalStateException(topic + " " + queueId + " at " + at + ": " + result);
            }
            at = Math.max(at + 1, result.getNextBeginOffset());
        }
        return all;
    }

    /** The first offset of a queue; a broker that has just started may not be registered yet. */
    private long first(MessageQueue queue) throws Exception {
        long end = System.currentTimeMillis() + ROUTE_MS;
        while (true) {
            try {
                return puller.minOffset(queue);
            } catch (Exception e) {
                if (System.currentTimeMillis() > end) {
                    throw e;
                }
                Thread.sleep(100);
            }
        }
    }

    /** What a message is, on one line, without what a client makes up. */
    static String describe(MessageExt m) throws Exception {
        TreeMap<String, String> properties = new TreeMap<>(m.getProperties());
        properties.remove(MessageConst.PROPERTY_MIN_OFFSET);
        properties.remove(MessageConst.PROPERTY_MAX_OFFSET);
        // From the offset that was asked for, in a batch of one record.
        properties.remove(MessageConst.PROPERTY_INNER_BASE);
        return String.join("\t", "message", m.getTopic(), String.valueOf(m.getQueueId()),
            String.valueOf(m.getQueueOffset()), m.getMsgId(), String.valueOf(m.getCommitLogOffset()),
            String.valueOf(m.getSysFlag()), String.valueOf(m.getFlag()),
            String.valueOf(m.getBornTimestamp()), String.valueOf(m.getBornHost()),
            String.valueOf(m.getStoreTimestamp()), String.valueOf(m.getStoreHost()),
            String.valueOf(m.getReconsumeTimes()), String.valueOf(m.getPreparedTransactionOffset()),
            hash(m.getBody()), properties.toString().replace('\n', ' '));
    }

    static String hash(byte[] bytes) throws Exception {
        StringBuilder text = new StringBuilder();
        for (byte b : MessageDigest.getInstance("SHA-256").digest(bytes)) {
            text.append(String.format("%02x", b));
        }
        return text.toString();
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
