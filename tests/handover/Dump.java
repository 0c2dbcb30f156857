import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;

import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.protocol.header.QueryConsumerOffsetRequestHeader;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;

/** Writes everything that a client can see of a server, one line each, to be compared. */
final class Dump {
    /** System topics whose messages a successor must have as well. */
    private static final List<String> INNER = List.of("SCHEDULE_TOPIC_XXXX",
        "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC", "rmq_sys_wheel_timer");
    /** One in so many messages is looked up by its key and ids, too. */
    private static final int SAMPLE = 37;

    private final Clients clients;
    private final PrintWriter out;
    private int messages;
    private int lookups;

    Dump(Clients clients, String file) throws Exception {
        this.clients = clients;
        out = new PrintWriter(file, "UTF-8");
    }

    void all() throws Exception {
        Map<String, TopicConfig> topics = new TreeMap<>(
            clients.admin.getAllTopicConfig(clients.broker, 10_000).getTopicConfigTable());
        for (Map.Entry<String, TopicConfig> topic : topics.entrySet()) {
            String name = topic.getKey();
            TopicConfig config = topic.getValue();
            boolean ours = name.startsWith("Hand") || name.startsWith("%");
            if (!ours && !INNER.contains(name)) {
                continue;
            }
            out.printf("topic\t%s\t%d\t%d\t%d\t%s%n", name, config.getReadQueueNums(),
                config.getWriteQueueNums(), config.getPerm(), new TreeMap<>(config.getAttributes()));
            for (int queueId = 0; queueId < config.getReadQueueNums(); queueId++) {
                queue(name, queueId, ours);
            }
        }
        Map<String, SubscriptionGroupConfig> groups = new TreeMap<>(clients.admin
            .getAllSubscriptionGroup(clients.broker, 10_000).getSubscriptionGroupTable());
        groups.values().stream().filter(g -> g.getGroupName().startsWith("Hand")).forEach(g ->
            out.printf("group\t%s\t%d\t%d\t%b\t%b%n", g.getGroupName(), g.getRetryQueueNums(),
                g.getRetryMaxTimes(), g.isConsumeEnable(), g.isConsumeBroadcastEnable()));
        for (int queueId = 0; queueId < 4; queueId++) {
            offset(Clients.GROUP_OFFSETS, "HandNormal", queueId);
            offset(Clients.GROUP_RETRY, "HandRetry", queueId);
        }
        out.close();
        System.out.printf("dumped %d messages, %d lookups%n", messages, lookups);
    }

    private void queue(String topic, int queueId, boolean lookup) throws Exception {
        for (MessageExt m : clients.all(topic, queueId)) {
            out.println(Clients.describe(m));
            messages++;
            if (lookup && m.getQueueOffset() % SAMPLE == 0) {
                lookup(topic, m);
            }
        }
    }

    /** By key and by message id; each must find the very message. */
    private void lookup(String topic, MessageExt m) throws Exception {
        TreeSet<String> found = new TreeSet<>();
        if (m.getKeys() != null && !topic.equals("HandBatchCq")) {
            try {
                QueryResult r = clients.admin.queryMessage(topic, m.getKeys(), 32, 0, Long.MAX_VALUE);
                r.getMessageList().forEach(one -> found.add(one.getCommitLogOffset() + ""));
            } catch (MQClientException e) {
                found.add(e.getErrorMessage());
            }
            out.printf("bykey\t%s\t%s\t%s%n", topic, m.getKeys(), found);
        }
        String id = org.apache.rocketmq.common.message.MessageDecoder.createMessageId(
            (java.net.InetSocketAddress) m.getStoreHost(), m.getCommitLogOffset());
        MessageExt byId = clients.admin.viewMessage(topic, id);
        out.printf("byid\t%s\t%s\t%s%n", topic, id, Clients.hash(byId.getBody()));
        lookups++;
    }

    private void offset(String group, String topic, int queueId) {
        QueryConsumerOffsetRequestHeader header = new QueryConsumerOffsetRequestHeader();
        header.setConsumerGroup(group);
        header.setTopic(topic);
        header.setQueueId(queueId);
        String answer;
        try {
            answer = "" + clients.api().queryConsumerOffset(clients.broker, header, 5000);
        } catch (Exception e) {
            answer = "none";
        }
        out.printf("offset\t%s\t%s\t%d\t%s%n", group, topic, queueId, answer);
    }
}
