package apogee.conformance;

import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Half messages, their ends, and the broker's questions. The server asks after 2 s, each 2 s. */
final class TransactionScenarios {
    /** The original looks for what it has to ask about at times of its own. */
    private static final int ASKED_MS = 40_000;

    private TransactionScenarios() {
    }

    static void list(List<Scenario> l) {
        l.add(new Scenario("transaction-commit-rollback", 60, TransactionScenarios::ends));
        l.add(new Scenario("transaction-check-back", 90, TransactionScenarios::checkBack));
        l.add(new Scenario("transaction-other-producer", 90, TransactionScenarios::otherProducer));
    }

    /** Decides by the first letter of the body: c, r or u. What a question answers is set later. */
    static final class Decider implements TransactionListener {
        final Map<String, MessageExt> asked = new ConcurrentHashMap<>();
        volatile boolean decides = true;

        static LocalTransactionState state(Message m) {
            switch (m.getBody()[0]) {
                case 'c': return LocalTransactionState.COMMIT_MESSAGE;
                case 'r': return LocalTransactionState.ROLLBACK_MESSAGE;
                default: return LocalTransactionState.UNKNOW;
            }
        }

        @Override
        public LocalTransactionState executeLocalTransaction(Message m, Object arg) {
            return arg == null ? state(m) : (LocalTransactionState) arg;
        }

        @Override
        public LocalTransactionState checkLocalTransaction(MessageExt m) {
            asked.put(Inbox.text(m), m);
            return decides ? state(m) : LocalTransactionState.UNKNOW;
        }
    }

    static TransactionMQProducer producer(Case c, Decider decider) throws Exception {
        TransactionMQProducer p = c.newTransactionProducer();
        p.setTransactionListener(decider);
        p.start();
        return p;
    }

    static TransactionSendResult send(TransactionMQProducer p, String topic, String body,
        LocalTransactionState now) throws Exception {
        Message m = new Message(topic, "tag", "key-" + body, Case.bytes(body));
        TransactionSendResult r = p.sendMessageInTransaction(m, now);
        Check.equal("status", SendStatus.SEND_OK, r.getSendStatus());
        return r;
    }

    private static void ends(Case c) throws Exception {
        String topic = c.topic(1);
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "*", inbox);
        TransactionMQProducer p = producer(c, new Decider());
        for (String body : new String[] {"c1", "r1", "c2", "r2", "r3", "c3"}) {
            TransactionSendResult r = send(p, topic, body, null);
            Check.equal("state", Decider.state(new Message(topic, Case.bytes(body))),
                r.getLocalTransactionState());
            Check.equal("transaction id", r.getMsgId(), r.getTransactionId());
        }
        List<MessageExt> got = inbox.awaitExactly(3, 20_000, 3_000);
        Check.equal("bodies", "[c1, c2, c3]", new TreeSet<>(inbox.bodies()).toString());
        for (MessageExt m : got) {
            Check.equal("topic", topic, m.getTopic());
            Check.equal("tags", "tag", m.getTags());
            Check.equal("keys", "key-" + Inbox.text(m), m.getKeys());
            Check.equal("transaction id", m.getMsgId(), m.getTransactionId());
            Check.that(m.getProperty("REAL_TOPIC") == null, "REAL_TOPIC is still there");
        }
    }

    private static void checkBack(Case c) throws Exception {
        String topic = c.topic(1);
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "*", inbox);
        Decider decider = new Decider();
        TransactionMQProducer p = producer(c, decider);
        long sent = System.currentTimeMillis();
        for (String body : new String[] {"c1", "r1", "c2"}) {
            send(p, topic, body, LocalTransactionState.UNKNOW);
        }
        inbox.awaitExactly(2, ASKED_MS, 3_000);
        Check.that(inbox.timeOf(0) - sent >= 2000, "asked before its time");
        Check.equal("bodies", "[c1, c2]", inbox.bodies().toString());
        Check.equal("asked about", "[c1, c2, r1]", new TreeSet<>(decider.asked.keySet()).toString());
        MessageExt m = decider.asked.get("c1");
        Check.equal("topic of a question", topic, m.getTopic());
        Check.equal("keys of a question", "key-c1", m.getKeys());
        Check.equal("transaction id of a question", m.getProperty("UNIQ_KEY"), m.getTransactionId());
    }

    /** The one that sent it is gone; another one of its group decides. */
    private static void otherProducer(Case c) throws Exception {
        String topic = c.topic(1);
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "*", inbox);
        Decider gone = new Decider();
        TransactionMQProducer first = producer(c, gone);
        send(first, topic, "c1", LocalTransactionState.UNKNOW);
        send(first, topic, "r1", LocalTransactionState.UNKNOW);
        first.shutdown();
        Decider decider = new Decider();
        TransactionMQProducer second = producer(c, decider);
        // A producer introduces itself to a broker once it has its address from a route.
        send(second, topic, "c2", null);
        inbox.awaitExactly(2, ASKED_MS, 3_000);
        Check.equal("bodies", "[c1, c2]", inbox.bodies().toString());
        Check.that(decider.asked.containsKey("r1"), "not asked about r1");
        Check.equal("questions to the one that is gone", 0, gone.asked.size());
    }
}
