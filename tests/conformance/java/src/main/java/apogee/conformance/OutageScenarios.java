package apogee.conformance;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** The broker goes away and comes back while clients are at work. */
final class OutageScenarios {
    private OutageScenarios() {
    }

    static void list(List<Scenario> l) {
        l.add(new Scenario("push-orderly-restart", 150, OutageScenarios::orderly));
        l.add(new Scenario("broker-killed", 150, OutageScenarios::killed));
        l.add(new Scenario("transaction-broker-killed", 150, OutageScenarios::transaction));
    }

    private static CompletableFuture<Void> outage(Case c, String variable) {
        return CompletableFuture.runAsync(() -> {
            try {
                c.server.shell(variable, 120);
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
    }

    /** Tries until the message is accepted: a try that failed may have stored it all the same. */
    private static SendResult insist(DefaultMQProducer p, Message m, MessageQueue q) throws Exception {
        long end = System.nanoTime() + 120_000_000_000L;
        while (true) {
            try {
                SendResult r = p.send(m, q);
                if (r.getSendStatus() == SendStatus.SEND_OK) {
                    return r;
                }
            } catch (Exception e) {
                if (System.nanoTime() > end) {
                    throw e;
                }
            }
            Thread.sleep(100);
        }
    }

    private static void orderly(Case c) throws Exception {
        String topic = c.topic(4);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            messages.forEach(inbox::add);
            return ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
        DefaultMQProducer p = c.newProducer();
        p.setSendMsgTimeout(3000);
        p.start();
        List<MessageQueue> queues = Case.queues(p, topic);
        CompletableFuture<Void> outage = null;
        for (int step = 0; step < 10; step++) {
            if (step == 5) {
                inbox.await(60, 20_000);
                outage = outage(c, "RESTART_BROKER");
            }
            for (int key = 0; key < 20; key++) {
                insist(p, new Message(topic, Case.bytes(key + " " + step)), queues.get(key % 4));
            }
        }
        outage.get();
        Wait.until("all 200 received", 60_000, () -> inbox.bodies().size() == 200);
        // Repeats are allowed, but nothing may be passed over: each step at most one ahead.
        Map<String, Integer> seen = new HashMap<>();
        for (MessageExt m : inbox.all()) {
            String[] w = Inbox.text(m).split(" ");
            int step = Integer.parseInt(w[1]);
            int last = seen.getOrDefault(w[0], -1);
            Check.that(step <= last + 1, "key " + w[0] + ": step " + step + " after " + last);
            seen.put(w[0], Math.max(last, step));
        }
    }

    private static void killed(Case c) throws Exception {
        String topic = c.topic(4);
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "*", inbox);
        DefaultMQProducer p = c.newProducer();
        p.setSendMsgTimeout(3000);
        p.start();
        List<MessageQueue> queues = Case.queues(p, topic);
        int sent = 0;
        // The original takes its time to start.
        for (int kills = c.server.original ? 1 : 10; kills > 0; kills--) {
            CompletableFuture<Void> outage = null;
            int first = sent;
            // Every message that was acknowledged must arrive, those just before the kill as well.
            while (sent < first + 300 || !outage.isDone()) {
                if (sent == first + 200) {
                    outage = outage(c, "KILL_BROKER");
                }
                insist(p, new Message(topic, Case.bytes("" + sent)), queues.get(sent % 4));
                sent++;
                Check.that(sent < first + 100_000, "the outage does not end");
                if (sent > first + 250) {
                    Thread.sleep(10);
                }
            }
            outage.get();
        }
        Set<String> all = new TreeSet<>(Case.numbers(0, sent));
        Wait.until("all " + sent + " received", 60_000, () -> inbox.bodies().containsAll(all));
    }

    /** Undecided before the kill, decided by a question after it. */
    private static void transaction(Case c) throws Exception {
        String topic = c.topic(1);
        Inbox inbox = new Inbox();
        c.push(c.name("group"), topic, "*", inbox);
        TransactionScenarios.Decider decider = new TransactionScenarios.Decider();
        decider.decides = false;
        TransactionMQProducer p = TransactionScenarios.producer(c, decider);
        for (String body : new String[] {"c1", "r1", "c2"}) {
            TransactionScenarios.send(p, topic, body, LocalTransactionState.UNKNOW);
        }
        TransactionScenarios.send(p, topic, "c3", null);
        inbox.await(1, 20_000);
        c.server.shell("KILL_BROKER", 120);
        decider.decides = true;
        Wait.until("both committed", 60_000, () -> inbox.bodies().size() == 3);
        Check.equal("bodies", "[c1, c2, c3]", inbox.bodies().toString());
    }
}
