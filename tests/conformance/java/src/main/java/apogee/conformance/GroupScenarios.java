package apogee.conformance;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;

/** Members of a group that come, go and crash. */
final class GroupScenarios {
    private GroupScenarios() {
    }

    static void list(List<Scenario> l) {
        // First in line, because it takes longest.
        l.add(0, new Scenario("rebalance-with-crash", 90, GroupScenarios::rebalance));
        l.add(new Scenario("rebalance-spreads-queues", 40, GroupScenarios::spread));
    }

    private static void rebalance(Case c) throws Exception {
        String topic = c.topic(8);
        String group = c.name("group");
        DefaultMQProducer p = c.producer();
        Inbox one = new Inbox();
        c.push(group, topic, "*", one);
        Case.sendNumbers(p, topic, 0, 100);
        one.await(50, 20_000);

        Inbox two = new Inbox();
        c.push(group, topic, "*", two);
        Set<String> crashed = new TreeSet<>();
        Process victim = startVictim(topic, group);
        int sent = 100;
        try {
            AtomicBoolean ended = new AtomicBoolean();
            Thread lines = readLines(victim, crashed, ended);
            // Goes on sending until all three have got some, so that each one owned queues.
            long end = System.nanoTime() + 40_000_000_000L;
            while (sent < 300 || two.size() < 5 || count(crashed) < 5) {
                Check.that(System.nanoTime() < end && !ended.get(),
                    "second got " + two.size() + ", victim got " + count(crashed));
                Case.sendNumbers(p, topic, sent, sent + 10);
                sent += 10;
                Thread.sleep(20);
            }
            // On Linux this is SIGKILL: the victim cannot say goodbye.
            victim.destroyForcibly();
            Case.sendNumbers(p, topic, sent, sent + 100);
            sent += 100;
            Check.that(victim.waitFor(10, TimeUnit.SECONDS), "the victim lives");
            lines.join(5000);
        } finally {
            victim.destroyForcibly();
        }
        Set<String> all = Case.numbers(0, sent);
        Wait.until("all " + sent + " messages consumed", 40_000, () -> {
            Set<String> got = one.bodies();
            got.addAll(two.bodies());
            synchronized (crashed) {
                got.addAll(crashed);
            }
            return got.containsAll(all);
        });
    }

    private static int count(Set<String> s) {
        synchronized (s) {
            return s.size();
        }
    }

    private static Process startVictim(String topic, String group) throws Exception {
        return new ProcessBuilder(System.getProperty("java.home") + File.separator + "bin/java",
            "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Djava.net.preferIPv4Stack=true", "-Duser.home=" + System.getProperty("user.home"),
            "-Drocketmq.client.logRoot=" + System.getProperty("rocketmq.client.logRoot"),
            "-cp", System.getProperty("java.class.path"), Main.class.getName(), "victim", topic, group)
            .redirectError(ProcessBuilder.Redirect.DISCARD)
            .start();
    }

    private static Thread readLines(Process victim, Set<String> bodies, AtomicBoolean ended) {
        Thread t = new Thread(() -> {
            try (BufferedReader r = new BufferedReader(
                new InputStreamReader(victim.getInputStream(), StandardCharsets.UTF_8))) {
                for (String line = r.readLine(); line != null; line = r.readLine()) {
                    if (line.startsWith("got ")) {
                        synchronized (bodies) {
                            bodies.add(line.substring(4));
                        }
                    }
                }
            } catch (IOException e) {
                // The pipe of a killed process may break in the middle of a line.
            } finally {
                ended.set(true);
            }
        });
        t.setDaemon(true);
        t.start();
        return t;
    }

    private static void spread(Case c) throws Exception {
        String topic = c.topic(8);
        String group = c.name("group");
        DefaultMQPushConsumer one = c.push(group, topic, "*", new Inbox());
        DefaultMQPushConsumer two = c.push(group, topic, "*", new Inbox());
        Wait.until("each member has four queues", 25_000,
            () -> owned(one, topic) == 4 && owned(two, topic) == 4);
        two.shutdown();
        // The broker tells the rest of the group: no need to wait for the next round of 20 s.
        Wait.until("the member that stays has all", 10_000, () -> owned(one, topic) == 8);
    }

    private static long owned(DefaultMQPushConsumer c, String topic) {
        return c.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet().stream()
            .filter(q -> q.getTopic().equals(topic)).count();
    }
}
