package apogee.conformance;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;

/** What Prometheus is told about a group, by the names that the original gives it. */
final class MetricScenarios {
    private MetricScenarios() {
    }

    static void list(List<Scenario> l) {
        l.add(new Scenario("metrics-lag", 60, MetricScenarios::lag));
    }

    /** The value of a metric whose labels include all of these; null when there is none. */
    private static Double value(String name, String... labels) throws Exception {
        String address = "http://" + Server.need("METRICS_ADDR") + "/metrics";
        try (BufferedReader r = new BufferedReader(new InputStreamReader(
            URI.create(address).toURL().openStream(), StandardCharsets.UTF_8))) {
            for (String line = r.readLine(); line != null; line = r.readLine()) {
                boolean fits = line.startsWith(name + "{");
                for (int i = 0; fits && i < labels.length; i += 2) {
                    fits = line.contains(labels[i] + "=\"" + labels[i + 1] + "\"");
                }
                if (fits) {
                    return Double.valueOf(line.substring(line.lastIndexOf(' ') + 1));
                }
            }
        }
        return null;
    }

    private static void lag(Case c) throws Exception {
        String topic = c.topic(2);
        String group = c.name("group");
        String[] labels = {"consumer_group", group, "topic", topic, "is_retry", "false",
            "is_system", "false", "cluster", "DefaultCluster", "node_type", "broker"};
        DefaultMQProducer p = c.producer();
        CountDownLatch go = new CountDownLatch(1);
        DefaultMQPushConsumer consumer = c.newPush(group);
        consumer.subscribe(topic, "a");
        consumer.setPersistConsumerOffsetInterval(500);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            try {
                go.await(40, TimeUnit.SECONDS);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        for (int i = 0; i < 12; i++) {
            p.send(new Message(topic, i < 8 ? "a" : "b", Case.bytes(Integer.toString(i))));
        }
        consumer.start();
        // Offsets are committed while nothing is done; the filter leaves the last four out.
        Wait.until("lag of eight", 20_000,
            () -> Double.valueOf(8).equals(value("rocketmq_consumer_lag_messages", labels)));
        Thread.sleep(300);
        Double ms = value("rocketmq_consumer_lag_latency_milliseconds", labels);
        Check.that(ms != null && ms >= 300 && ms < 60_000, "latency " + ms);
        Check.equal("in flight", 8.0, value("rocketmq_consumer_inflight_messages", labels));
        Check.equal("ready", 0.0, value("rocketmq_consumer_ready_messages", labels));
        Check.equal("out", 8.0, value("rocketmq_messages_out_total",
            "consumer_group", group, "topic", topic, "is_system", "false"));
        Check.equal("in", 12.0, value("rocketmq_messages_in_total", "topic", topic));
        Check.equal("connections", 1.0, value("rocketmq_consumer_connections",
            "consumer_group", group, "language", "java", "consume_mode", "push"));
        go.countDown();
        Wait.until("no lag", 20_000,
            () -> Double.valueOf(0).equals(value("rocketmq_consumer_lag_messages", labels)));
        if (!c.server.original) {
            // There it is the age of messages that the filter leaves out, until the offset has passed them.
            Check.equal("latency", 0.0, value("rocketmq_consumer_lag_latency_milliseconds", labels));
        }
    }
}
