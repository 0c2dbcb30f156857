import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;

import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Sends until the server is gone, and afterwards looks for what was acknowledged. */
final class Load {
    private static final int THREADS = 4;
    private static final long LIMIT_MS = 60_000;

    private Load() {
    }

    /** One in fifty waits, by level or by time, so that some wait when the server is killed. */
    private static Message message(Random random, String key, int number) {
        byte[] body = new byte[8000];
        random.nextBytes(body);
        Message m = new Message(number % 50 < 2 ? "HandLater" : "HandNormal", "load", key, body);
        if (number % 50 == 0) {
            m.setDelayTimeLevel(2);
        } else if (number % 50 == 1) {
            m.setDelayTimeMs(6000);
        }
        return m;
    }

    static void send(Clients clients, Ledger ledger, String run) throws Exception {
        clients.topic("HandNormal", 4);
        clients.topic("HandLater", 4);
        System.out.println("loading");
        AtomicInteger failed = new AtomicInteger();
        Thread[] threads = new Thread[THREADS];
        for (int t = 0; t < THREADS; t++) {
            int thread = t;
            threads[t] = new Thread(() -> {
                Random random = new Random(thread);
                for (int i = 0; failed.get() < THREADS * 3; i++) {
                    Message m = message(random, run + "-" + thread + "-" + i, i);
                    try {
                        SendResult r = clients.producer.send(
                            m, new MessageQueue(m.getTopic(), "broker-a", thread), 2000);
                        if (r.getSendStatus() == SendStatus.SEND_OK && i % 50 < 2) {
                            ledger.add("once", m.getTopic(), m.getKeys());
                        } else if (r.getSendStatus() == SendStatus.SEND_OK) {
                            ledger.add("sent", m.getTopic(), thread, r.getQueueOffset(), r.getMsgId());
                        }
                        Thread.sleep(5); // some log files a second
                    } catch (Exception e) {
                        failed.incrementAndGet();
                    }
                }
            });
            threads[t].start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        ledger.save();
    }

    /** Every acknowledged message is at its offset. */
    static void verify(Clients clients, Ledger ledger) throws Exception {
        Map<String, String> ids = new HashMap<>();
        Map<String, Set<String>> seen = new HashMap<>();
        int checks = 0;
        int wrong = 0;
        for (String[] words : ledger.all("sent")) {
            if (words[1].startsWith("HandGone")) {
                continue;
            }
            String queue = words[1] + " " + words[2];
            if (seen.putIfAbsent(queue, new HashSet<>()) == null) {
                for (MessageExt m : clients.all(words[1], Integer.parseInt(words[2]))) {
                    ids.put(queue + " " + m.getQueueOffset(), m.getMsgId());
                }
            }
            checks++;
            String found = ids.get(queue + " " + words[3]);
            if (!words[4].equals(found)) {
                wrong++;
                if (wrong < 10) {
                    System.out.println("wrong\t" + String.join(" ", words) + " but " + found);
                }
            }
        }
        System.out.printf("verified: %d checks, %d wrong, 0 twice%n", checks, wrong);
    }
}
