package apogee.conformance;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.message.MessageExt;

/** Collects what consumers receive; used as listener it accepts everything. */
final class Inbox implements MessageListenerConcurrently {
    private final List<MessageExt> got = new ArrayList<>();
    private final List<Long> times = new ArrayList<>();

    @Override
    public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> l, ConsumeConcurrentlyContext x) {
        l.forEach(this::add);
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
    }

    synchronized void add(MessageExt m) {
        got.add(m);
        times.add(System.currentTimeMillis());
        notifyAll();
    }

    synchronized int size() {
        return got.size();
    }

    synchronized List<MessageExt> all() {
        return new ArrayList<>(got);
    }

    synchronized long timeOf(int index) {
        return times.get(index);
    }

    /** Waits for at least so many and returns all that is there. */
    synchronized List<MessageExt> await(int count, long ms) throws InterruptedException {
        long end = System.nanoTime() + ms * 1_000_000;
        while (got.size() < count) {
            long left = (end - System.nanoTime()) / 1_000_000;
            if (left <= 0) {
                throw new Check.Wrong("received " + got.size() + " of " + count + " in " + ms + " ms");
            }
            wait(left);
        }
        return all();
    }

    /** Waits for exactly so many: one more within the time after the last is an error. */
    synchronized List<MessageExt> awaitExactly(int count, long ms, long quietMs)
        throws InterruptedException {
        await(count, ms);
        long end = System.nanoTime() + quietMs * 1_000_000;
        long left = quietMs;
        while (left > 0 && got.size() == count) {
            wait(left);
            left = (end - System.nanoTime()) / 1_000_000;
        }
        Check.equal("number of messages", count, got.size());
        return all();
    }

    synchronized Set<String> bodies() {
        Set<String> s = new TreeSet<>();
        for (MessageExt m : got) {
            s.add(text(m));
        }
        return s;
    }

    static String text(MessageExt m) {
        return new String(m.getBody(), StandardCharsets.UTF_8);
    }
}
