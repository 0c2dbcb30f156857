import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Waits for everything that a ledger says is to come, and says what did not and what came twice. */
final class Settle {
    private static final long LATE_MS = 6000;
    private static final long LIMIT_MS = 75_000;

    private final Clients clients;
    private final Ledger ledger;
    private int checks;
    private final List<String> wrong = new ArrayList<>();
    private final Set<String> twice = new TreeSet<>();

    Settle(Clients clients, Ledger ledger) {
        this.clients = clients;
        this.ledger = ledger;
    }

    /** Store times of the messages of a topic, by key. */
    private static Map<String, List<Long>> keys(Clients clients, String topic) throws Exception {
        Map<String, List<Long>> keys = new HashMap<>();
        int queues = topic.startsWith("%") ? 1 : 4;
        for (int queueId = 0; queueId < queues; queueId++) {
            for (MessageExt m : clients.all(topic, queueId)) {
                keys.computeIfAbsent(m.getKeys(), key -> new ArrayList<>()).add(m.getStoreTimestamp());
            }
        }
        return keys;
    }

    static void await(Clients clients, String topic, String key, long limitMs) throws Exception {
        long end = System.currentTimeMillis() + limitMs;
        while (!keys(clients, topic).containsKey(key)) {
            if (System.currentTimeMillis() > end) {
                throw new IllegalStateException(key + " does not come in " + topic);
            }
            Thread.sleep(100);
        }
    }

    /** With `late` the server was down when some were due. */
    void all(boolean late) throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer(Clients.GROUP_TRANSACTION);
        producer.setNamesrvAddr(clients.namesrv);
        producer.setTransactionListener(new Fill.Decider(true));
        producer.start();
        // The broker asks producers that it knows: those that have sent something to it.
        producer.send(new Message("HandWake", Clients.bytes("wake")));
        producer.getDefaultMQProducerImpl().getMqClientFactory().sendHeartbeatToAllBrokerWithLock();
        popped();
        long end = System.currentTimeMillis() + LIMIT_MS;
        while (!judge(late, false) && System.currentTimeMillis() < end) {
            Thread.sleep(500);
        }
        // What might come though it must not, or twice, has a moment to do so.
        Thread.sleep(4000);
        judge(late, true);
        producer.shutdown();
        for (String one : twice) {
            System.out.println("twice\t" + one);
        }
        for (String one : wrong) {
            System.out.println("wrong\t" + one);
        }
        System.out.printf("settled: %d checks, %d wrong, %d twice%n", checks, wrong.size(), twice.size());
    }

    /** Whether everything is there; the last time each thing counts. */
    private boolean judge(boolean late, boolean last) throws Exception {
        Map<String, Map<String, List<Long>>> topics = new HashMap<>();
        boolean complete = true;
        for (String kind : List.of("due", "once", "none")) {
            for (String[] words : ledger.all(kind)) {
                if (!topics.containsKey(words[1])) {
                    topics.put(words[1], keys(clients, words[1]));
                }
                List<Long> times = topics.get(words[1]).getOrDefault(words[2], List.of());
                boolean wanted = !kind.equals("none");
                complete &= !wanted || !times.isEmpty();
                if (!last) {
                    continue;
                }
                check(wanted == !times.isEmpty(), kind + " " + words[2] + " came " + times.size());
                if (times.size() > 1) {
                    twice.add(words[1] + " " + words[2] + " came " + times.size());
                }
                if (kind.equals("due") && !times.isEmpty()) {
                    long after = times.get(0) - Long.parseLong(words[3]);
                    check(after >= -1000, words[2] + " is early by " + -after);
                    check(late || after < LATE_MS, words[2] + " is late by " + after);
                }
            }
        }
        return complete;
    }

    private void check(boolean right, String text) {
        checks++;
        if (!right) {
            wrong.add(text);
        }
    }

    /** Everything in flight comes again, and what was never popped comes. */
    private void popped() throws Exception {
        for (String[] words : ledger.all("popped")) {
            String topic = words[1];
            Set<String> acked = new HashSet<>();
            Set<String> wanted = new HashSet<>();
            ledger.all("acked").stream().filter(w -> w[1].equals(topic)).forEach(w -> acked.add(w[2]));
            String run = "run" + topic.substring("HandPop".length()) + "-pop";
            for (int i = 0; i < Integer.parseInt(words[2]); i++) {
                wanted.add(run + i);
            }
            wanted.removeAll(acked);
            ledger.all("seen").stream().filter(w -> w[1].equals(topic)).forEach(w -> wanted.remove(w[2]));
            int count = wanted.size();
            long end = System.currentTimeMillis() + LIMIT_MS;
            Pop pop = new Pop(clients, topic);
            do {
                // With something left over: acknowledged ones that come again are counted.
                pop.take(16, 20_000, wanted.isEmpty() ? 3000 : 5000, m -> {
                    if (acked.contains(m.getKeys()) || !wanted.remove(m.getKeys())) {
                        twice.add(topic + " " + m.getKeys() + " popped again");
                    }
                    ledger.add("seen", topic, m.getKeys());
                    return true;
                });
            } while (!wanted.isEmpty() && System.currentTimeMillis() < end);
            check(wanted.isEmpty(), topic + ": popped ones did not come again: " + wanted);
            checks += count;
        }
        ledger.save();
    }
}
