package apogee.conformance;

import java.util.Arrays;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** What is refused, by whom, and with which code. */
final class ErrorScenarios {
    private static final int MESSAGE_ILLEGAL = 13;
    private static final int NO_PERMISSION = 16;
    private static final int TOPIC_NOT_EXIST = 17;
    private static final int SUBSCRIPTION_PARSE_FAILED = 23;
    private static final int INVALID_PARAMETER = 29;

    private ErrorScenarios() {
    }

    static void list(List<Scenario> together, List<Scenario> alone) {
        together.add(new Scenario("error-oversize", 40, ErrorScenarios::oversize));
        together.add(new Scenario("error-bad-names", 30, ErrorScenarios::badNames));
        together.add(new Scenario("error-pull-unknown-topic", 30, ErrorScenarios::pullUnknown));
        together.add(new Scenario("error-bad-sql", 30, ErrorScenarios::badSql));
        together.add(new Scenario("error-topic-permission", 30, ErrorScenarios::permission));
        // Switches a setting of the whole broker, which no other scenario may see.
        alone.add(new Scenario("error-unknown-topic", 30, ErrorScenarios::unknownTopic));
    }

    private static void oversize(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = SendScenarios.unlimited(c);
        Check.code("a body of 4 MiB and one byte", MESSAGE_ILLEGAL,
            () -> p.send(new Message(topic, SendScenarios.noise(SendScenarios.LIMIT + 1))));
        DefaultMQProducer usual = c.producer();
        Check.code("too large for the client", MESSAGE_ILLEGAL,
            () -> usual.send(new Message(topic, new byte[SendScenarios.LIMIT + 1])));
        Check.code("an empty body", MESSAGE_ILLEGAL, () -> usual.send(new Message(topic, new byte[0])));
        // The connection must have survived.
        p.send(new Message(topic, Case.bytes("fine")));
        c.readAll(p, topic, 1);
    }

    private static void badNames(Case c) throws Exception {
        DefaultMQProducer p = c.producer();
        char[] tooLong = new char[128];
        Arrays.fill(tooLong, 't');
        for (String topic : new String[] {"bad topic", "bad.topic", new String(tooLong), "",
            "SCHEDULE_TOPIC_XXXX"}) {
            Check.refusedByClient("topic '" + topic + "'",
                () -> p.send(new Message(topic, Case.bytes("x"))));
        }
        DefaultMQPushConsumer consumer = c.newPush("bad group");
        consumer.registerMessageListener(new Inbox());
        Check.refusedByClient("group 'bad group'", consumer::start);
        // The admin client passes the name on: here the broker refuses.
        Check.code("making topic 'bad.topic'", INVALID_PARAMETER,
            () -> c.server.admin.createAndUpdateTopicConfig(c.server.broker,
                new TopicConfig("bad.topic", 1, 1, 6)));
        Check.code("making a system topic", INVALID_PARAMETER,
            () -> c.server.admin.createAndUpdateTopicConfig(c.server.broker,
                new TopicConfig("SCHEDULE_TOPIC_XXXX", 1, 1, 6)));
    }

    private static void pullUnknown(Case c) throws Exception {
        DefaultMQPullConsumer reader = c.pull();
        String real = c.topic(1);
        MessageQueue q = Case.queues(c.producer(), real).get(0);
        // The client must have met the broker, else it would not ask it.
        reader.pull(q, "*", 0, 32);
        Check.code("a topic that nobody made", TOPIC_NOT_EXIST, () -> reader.pull(
            new MessageQueue(c.name("unknown"), q.getBrokerName(), 0), "*", 0, 32));
        Check.code("a queue that the topic does not have", INVALID_PARAMETER,
            () -> reader.pull(new MessageQueue(real, q.getBrokerName(), 5), "*", 0, 32));
    }

    private static void badSql(Case c) throws Exception {
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.subscribe(c.topic(1), MessageSelector.bySql("number >"));
        consumer.registerMessageListener(new Inbox());
        Check.code("a broken expression", SUBSCRIPTION_PARSE_FAILED, consumer::start);
    }

    private static void permission(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        MessageQueue q = Case.queues(p, topic).get(0);
        p.send(new Message(topic, Case.bytes("x")), q);
        c.server.admin.createAndUpdateTopicConfig(c.server.broker, new TopicConfig(topic, 1, 1, 2));
        DefaultMQPullConsumer reader = c.pull();
        Check.code("reading a write-only topic", NO_PERMISSION, () -> reader.pull(q, "*", 0, 32));
    }

    private static void unknownTopic(Case c) throws Exception {
        DefaultMQProducer p = c.producer();
        c.server.brokerSetting("autoCreateTopicEnable", "false");
        try {
            Check.code("sending to an unknown topic", TOPIC_NOT_EXIST,
                () -> p.send(new Message(c.name("unknown"), Case.bytes("x"))));
        } finally {
            c.server.brokerSetting("autoCreateTopicEnable", "true");
        }
        try {
            p.send(new Message(c.name("unknown"), Case.bytes("x")));
        } catch (MQClientException e) {
            // The original has taken the right to inherit from its template topic, for good: it has
            // to be given back, which is allowed only while system topics are not protected.
            c.server.brokerSetting("validateSystemTopicWhenUpdateTopic", "false");
            c.server.admin.createAndUpdateTopicConfig(c.server.broker,
                new TopicConfig("TBW102", 8, 8, 7));
            c.server.brokerSetting("validateSystemTopicWhenUpdateTopic", "true");
            p.send(new Message(c.name("unknown"), Case.bytes("x")));
        }
        c.readAll(c.producer(), c.name("unknown"), 1);
    }
}
