package apogee.conformance;

import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.apache.rocketmq.client.MQAdmin;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** What one scenario works with: names of its own, and clients that are shut down at its end. */
final class Case {
    final Server server;
    private final String name;
    private final List<Runnable> closers = new ArrayList<>();
    private int instances;

    Case(Server server, String name) {
        this.server = server;
        this.name = name;
    }

    /** A name of this scenario in this run. */
    String name(String suffix) {
        return server.run + "-" + name + (suffix.isEmpty() ? "" : "-" + suffix);
    }

    String topic(int queues) throws Exception {
        server.makeTopic(name(""), queues);
        return name("");
    }

    /** Every client object gets a connection of its own, as separate programs would have. */
    private synchronized String instance() {
        instances++;
        return name("i" + instances);
    }

    private synchronized void atEnd(Runnable closer) {
        closers.add(closer);
    }

    DefaultMQProducer newProducer() {
        DefaultMQProducer p = new DefaultMQProducer(name("producer"));
        p.setNamesrvAddr(server.namesrv);
        p.setInstanceName(instance());
        p.setSendMsgTimeout(10_000);
        atEnd(p::shutdown);
        return p;
    }

    TransactionMQProducer newTransactionProducer() {
        TransactionMQProducer p = new TransactionMQProducer(name("producer"));
        p.setNamesrvAddr(server.namesrv);
        p.setInstanceName(instance());
        p.setSendMsgTimeout(10_000);
        p.setHeartbeatBrokerInterval(1000);
        atEnd(p::shutdown);
        return p;
    }

    DefaultMQProducer producer() throws Exception {
        DefaultMQProducer p = newProducer();
        p.start();
        return p;
    }

    /**
     * A push consumer that is not started: the scenario adds subscription and listener. It sends
     * heartbeats each second: when queues are assigned while one is under way, the client skips the
     * one that tells its new subscription version, and the broker refuses its pulls with
     * SUBSCRIPTION_NOT_LATEST until the next, which by default comes 30 s later.
     */
    DefaultMQPushConsumer newPush(String group) {
        DefaultMQPushConsumer c = new DefaultMQPushConsumer(group);
        c.setNamesrvAddr(server.namesrv);
        c.setInstanceName(instance());
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.setHeartbeatBrokerInterval(1000);
        c.setConsumeThreadMin(4);
        c.setConsumeThreadMax(4);
        atEnd(c::shutdown);
        return c;
    }

    DefaultMQPushConsumer push(String group, String topic, String tags, Inbox inbox) throws Exception {
        DefaultMQPushConsumer c = newPush(group);
        c.subscribe(topic, tags);
        c.registerMessageListener(inbox);
        c.start();
        return c;
    }

    DefaultMQPullConsumer pull() throws Exception {
        DefaultMQPullConsumer c = new DefaultMQPullConsumer(name("puller"));
        c.setNamesrvAddr(server.namesrv);
        c.setInstanceName(instance());
        atEnd(c::shutdown);
        c.start();
        return c;
    }

    DefaultLitePullConsumer newLite(String group) {
        DefaultLitePullConsumer c = new DefaultLitePullConsumer(group);
        c.setNamesrvAddr(server.namesrv);
        c.setInstanceName(instance());
        c.setHeartbeatBrokerInterval(1000);
        c.setPullThreadNums(2);
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        atEnd(c::shutdown);
        return c;
    }

    /** The class of the parameter moved to another package between 4.x and 5.x. */
    static void broadcasting(DefaultMQPushConsumer c) throws Exception {
        for (Method m : c.getClass().getMethods()) {
            if (m.getName().equals("setMessageModel")) {
                for (Object model : m.getParameterTypes()[0].getEnumConstants()) {
                    if (model.toString().equals("BROADCASTING")) {
                        m.invoke(c, model);
                    }
                }
            }
        }
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /** Sends bodies "0", "1", ... round robin over the queues. */
    static void sendNumbers(DefaultMQProducer p, String topic, int from, int to) throws Exception {
        for (int i = from; i < to; i++) {
            SendResult r = p.send(new Message(topic, bytes(Integer.toString(i))));
            Check.equal("status", SendStatus.SEND_OK, r.getSendStatus());
        }
    }

    static Set<String> numbers(int from, int to) {
        Set<String> s = new TreeSet<>();
        for (int i = from; i < to; i++) {
            s.add(Integer.toString(i));
        }
        return s;
    }

    static List<MessageQueue> queues(DefaultMQProducer p, String topic) throws Exception {
        List<MessageQueue> l = new ArrayList<>(p.fetchPublishMessageQueues(topic));
        l.sort(Comparator.comparingInt(MessageQueue::getQueueId));
        return l;
    }

    /** Everything that a queue holds, once there is as much as expected. */
    static List<MessageExt> read(DefaultMQPullConsumer c, MessageQueue q, int count) throws Exception {
        awaitStored(c, q, count);
        return read(c, q);
    }

    /** A message can be read only some moments after its sending was answered. */
    static void awaitStored(MQAdmin client, MessageQueue q, int count) throws Exception {
        Wait.until(count + " messages in " + q, 10_000, () -> client.maxOffset(q) >= count);
    }

    /** Everything that a queue holds now. */
    static List<MessageExt> read(DefaultMQPullConsumer c, MessageQueue q) throws Exception {
        List<MessageExt> l = new ArrayList<>();
        long offset = 0;
        while (true) {
            PullResult r = c.pull(q, "*", offset, 32);
            if (r.getPullStatus() != PullStatus.FOUND) {
                return l;
            }
            l.addAll(r.getMsgFoundList());
            offset = r.getNextBeginOffset();
        }
    }

    /** Everything that a topic holds, once there is as much as expected. */
    List<MessageExt> readAll(DefaultMQProducer p, String topic, int count) throws Exception {
        DefaultMQPullConsumer c = pull();
        List<MessageExt> l = new ArrayList<>();
        Wait.until(count + " messages in " + topic, 10_000, () -> {
            l.clear();
            for (MessageQueue q : queues(p, topic)) {
                l.addAll(read(c, q));
            }
            return l.size() >= count;
        });
        Check.equal("messages in " + topic, count, l.size());
        return l;
    }

    /** Shuts the clients down beside the next scenario: an old client takes its time. */
    void close() {
        List<Runnable> l;
        synchronized (this) {
            l = new ArrayList<>(closers);
        }
        ExecutorService thread = Executors.newSingleThreadExecutor(r -> {
            Thread t = new Thread(r);
            t.setDaemon(true);
            return t;
        });
        for (int i = l.size() - 1; i >= 0; i--) {
            thread.submit(l.get(i));
        }
        thread.shutdown();
    }
}
