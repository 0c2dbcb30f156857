package apogee.conformance;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.AckCallback;
import org.apache.rocketmq.client.consumer.AckResult;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.PopCallback;
import org.apache.rocketmq.client.consumer.PopResult;
import org.apache.rocketmq.client.consumer.PopStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageRequestMode;
import org.apache.rocketmq.remoting.protocol.header.AckMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ChangeInvisibleTimeRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ExtraInfoUtil;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.subscription.ExponentialRetryPolicy;
import org.apache.rocketmq.remoting.protocol.subscription.GroupRetryPolicy;
import org.apache.rocketmq.remoting.protocol.subscription.GroupRetryPolicyType;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;

/**
 * Consumption by pop: by the push consumer in this mode, and by the calls of the client library that
 * the original's proxy uses. Only for clients of 5.x; see client.sh.
 */
final class PopScenarios {
    private PopScenarios() {
    }

    /** What waits long goes first. */
    static void list(List<Scenario> together, List<Scenario> alone) {
        together.add(0, new Scenario("pop-switch", 90, PopScenarios::switched));
        together.add(0, new Scenario("pop-retry", 60, PopScenarios::retry));
        together.add(new Scenario("retry-back-off", 60, PopScenarios::backOff));
        together.add(new Scenario("pop-push", 40, PopScenarios::push));
        together.add(new Scenario("pop-members", 60, PopScenarios::members));
        together.add(new Scenario("pop-tags", 40, PopScenarios::tags));
        together.add(new Scenario("pop-sql", 40, PopScenarios::sql));
        together.add(new Scenario("pop-invisible", 40, PopScenarios::invisible));
        together.add(new Scenario("pop-change", 40, PopScenarios::change));
        together.add(new Scenario("pop-batch-ack", 40, PopScenarios::batchAck));
        together.add(new Scenario("pop-order", 40, PopScenarios::order));
        together.add(new Scenario("pop-long-poll", 40, PopScenarios::longPoll));
        alone.add(new Scenario("pop-broker-killed", 150, PopScenarios::killed));
    }

    private static void popMode(Case c, String topic, String group) throws Exception {
        c.server.admin.setMessageRequestMode(
            c.server.broker, topic, group, MessageRequestMode.POP, 0, 5000);
    }

    /** A push consumer that asks the broker for its queues. */
    private static DefaultMQPushConsumer consumer(Case c, String topic, Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.setClientRebalance(false);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(inbox);
        return consumer;
    }

    private static String makeGroup(Case c) throws Exception {
        return makeGroup(c, new SubscriptionGroupConfig());
    }

    private static String makeGroup(Case c, SubscriptionGroupConfig config) throws Exception {
        config.setGroupName(c.name("group"));
        c.server.admin.createAndUpdateSubscriptionGroupConfig(c.server.broker, config);
        return c.name("group");
    }

    /** By pull; it is here for the classes of 5.x. The policy counts when the consumer names no level. */
    private static void backOff(Case c) throws Exception {
        String topic = c.topic(1);
        GroupRetryPolicy policy = new GroupRetryPolicy();
        policy.setType(GroupRetryPolicyType.EXPONENTIAL);
        policy.setExponentialRetryPolicy(new ExponentialRetryPolicy(500, 1500, 2));
        SubscriptionGroupConfig config = new SubscriptionGroupConfig();
        config.setGroupRetryPolicy(policy);
        String group = makeGroup(c, config);
        c.server.makeTopic("%RETRY%" + group, 1);
        // The original asks it in its proxy only: levels there, of which the first is enough.
        long[] waits = c.server.original ? new long[] {10_000} : new long[] {500, 1000, 1500};
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.newPush(group);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(inbox::add);
            return messages.get(0).getReconsumeTimes() < waits.length
                ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        c.producer().send(new Message(topic, Case.bytes("again")));
        inbox.awaitExactly(waits.length + 1, 40_000, 300);
        for (int i = 0; i < waits.length; i++) {
            long gap = inbox.timeOf(i + 1) - inbox.timeOf(i);
            Check.that(gap >= waits[i] - 20 && gap < waits[i] + 4000,
                "delivery " + (i + 1) + " came after " + gap + " ms, not " + waits[i]);
            Check.equal("count", i + 1, inbox.all().get(i + 1).getReconsumeTimes());
        }
    }

    private static void allPopped(Inbox inbox) {
        for (MessageExt m : inbox.all()) {
            Check.that(m.getProperty(MessageConst.PROPERTY_POP_CK) != null, "it came by pop");
        }
    }

    private static void push(Case c) throws Exception {
        String topic = c.topic(4);
        popMode(c, topic, makeGroup(c));
        Inbox inbox = new Inbox();
        consumer(c, topic, inbox).start();
        Case.sendNumbers(c.producer(), topic, 0, 200);
        inbox.awaitExactly(200, 20_000, 2000);
        Check.equal("bodies", Case.numbers(0, 200), inbox.bodies());
        allPopped(inbox);
    }

    private static void members(Case c) throws Exception {
        String topic = c.topic(2);
        popMode(c, topic, makeGroup(c));
        Inbox all = new Inbox();
        List<Inbox> each = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            Inbox mine = new Inbox();
            each.add(mine);
            DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
            consumer.setClientRebalance(false);
            consumer.setPopBatchNums(1);
            consumer.subscribe(topic, "*");
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                messages.forEach(mine::add);
                messages.forEach(all::add);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            consumer.start();
        }
        DefaultMQProducer p = c.producer();
        int sent = 0;
        // More members than queues, and yet each one gets some.
        for (int round = 0; round < 100; round++) {
            Case.sendNumbers(p, topic, sent, sent + 8);
            sent += 8;
            all.await(sent, 20_000);
            if (each.stream().allMatch(inbox -> inbox.all().size() > 2)) {
                all.awaitExactly(sent, 1000, 500);
                Check.equal("bodies", Case.numbers(0, sent), all.bodies());
                return;
            }
        }
        throw new Check.Wrong("a member got nothing");
    }

    private static void tags(Case c) throws Exception {
        String topic = c.topic(4);
        popMode(c, topic, makeGroup(c));
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = consumer(c, topic, inbox);
        consumer.subscribe(topic, "a || b");
        consumer.start();
        DefaultMQProducer p = c.producer();
        Set<String> wanted = new TreeSet<>();
        for (int i = 0; i < 60; i++) {
            String tag = Arrays.asList("a", "b", "c", "").get(i % 4);
            Message m = new Message(topic, tag, Case.bytes(tag + i));
            p.send(m);
            if (tag.equals("a") || tag.equals("b")) {
                wanted.add(tag + i);
            }
        }
        inbox.awaitExactly(30, 20_000, 1000);
        Check.equal("bodies", wanted, inbox.bodies());
        allPopped(inbox);
    }

    private static void sql(Case c) throws Exception {
        String topic = c.topic(2);
        popMode(c, topic, makeGroup(c));
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = consumer(c, topic, inbox);
        consumer.subscribe(topic, MessageSelector.bySql("n BETWEEN 10 AND 19 AND kind = 'x'"));
        consumer.start();
        DefaultMQProducer p = c.producer();
        for (int i = 0; i < 40; i++) {
            Message m = new Message(topic, Case.bytes(Integer.toString(i)));
            m.putUserProperty("n", Integer.toString(i));
            m.putUserProperty("kind", i % 2 == 0 ? "x" : "y");
            p.send(m);
        }
        inbox.awaitExactly(5, 20_000, 1000);
        Check.equal("bodies", new TreeSet<>(Arrays.asList("10", "12", "14", "16", "18")), inbox.bodies());
    }

    private static void retry(Case c) throws Exception {
        String topic = c.topic(2);
        popMode(c, topic, makeGroup(c));
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.setClientRebalance(false);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(inbox::add);
            return messages.get(0).getReconsumeTimes() == 0
                ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        Message m = new Message(topic, "tag", "key", Case.bytes("once more"));
        m.putUserProperty("mine", "kept");
        c.producer().send(m);
        List<MessageExt> got = inbox.awaitExactly(2, 30_000, 3000);
        long waited = inbox.timeOf(1) - inbox.timeOf(0);
        Check.that(waited >= 9_500 && waited < 14_000, "again after " + waited + " ms");
        MessageExt again = got.get(1);
        Check.equal("times", 1, again.getReconsumeTimes());
        Check.equal("topic", topic, again.getTopic());
        Check.equal("tag", "tag", again.getTags());
        Check.equal("key", "key", again.getKeys());
        Check.equal("property", "kept", again.getUserProperty("mine"));
        Check.equal("unique id", got.get(0).getMsgId(), again.getMsgId());
    }

    /** A running group changes from pull to pop. Its clients ask anew every 20 s. */
    private static void switched(Case c) throws Exception {
        String topic = c.topic(2);
        String group = makeGroup(c);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = consumer(c, topic, inbox);
        consumer.setPersistConsumerOffsetInterval(500);
        consumer.start();
        DefaultMQProducer p = c.producer();
        Case.sendNumbers(p, topic, 0, 20);
        inbox.await(20, 20_000);
        for (MessageExt m : inbox.all()) {
            Check.that(m.getProperty(MessageConst.PROPERTY_POP_CK) == null, "it came by pull");
        }
        Thread.sleep(1500);
        popMode(c, topic, group);
        Set<String> popped = new HashSet<>();
        for (int i = 20; popped.size() < 20 && i < 400; i++) {
            Case.sendNumbers(p, topic, i, i + 1);
            inbox.await(i + 1, 20_000);
            for (MessageExt m : inbox.all()) {
                if (m.getProperty(MessageConst.PROPERTY_POP_CK) != null) {
                    popped.add(Inbox.text(m));
                }
            }
            Thread.sleep(150);
        }
        Check.that(popped.size() >= 20, "popped " + popped.size());
        Check.that(inbox.bodies().containsAll(Case.numbers(0, 20)), "nothing is missing");
    }

    /** The calls of the client library, waiting for their answers. */
    private static final class Api {
        final Case c;
        final String topic;
        final String group;
        final MQClientAPIImpl api;

        Api(Case c, int queues) throws Exception {
            this.c = c;
            topic = c.topic(queues);
            group = makeGroup(c);
            DefaultMQProducer p = c.producer();
            api = p.getDefaultMQProducerImpl().getMqClientFactory().getMQClientAPIImpl();
        }

        PopMessageRequestHeader header(int max, long invisibleMs, long pollMs) {
            PopMessageRequestHeader h = new PopMessageRequestHeader();
            h.setConsumerGroup(group);
            h.setTopic(topic);
            h.setQueueId(-1);
            h.setMaxMsgNums(max);
            h.setInvisibleTime(invisibleMs);
            h.setPollTime(pollMs);
            h.setBornTime(System.currentTimeMillis());
            h.setInitMode(0);
            h.setExpType("TAG");
            h.setExp("*");
            return h;
        }

        PopResult pop(PopMessageRequestHeader header) throws Exception {
            CompletableFuture<PopResult> answer = new CompletableFuture<>();
            api.popMessageAsync("broker-a", c.server.broker, header, header.getPollTime() + 10_000,
                new PopCallback() {
                    @Override
                    public void onSuccess(PopResult result) {
                        answer.complete(result);
                    }

                    @Override
                    public void onException(Throwable e) {
                        answer.completeExceptionally(e);
                    }
                });
            return answer.get(20, TimeUnit.SECONDS);
        }

        /** Pops until so many came. */
        List<MessageExt> popAll(int count, long invisibleMs, long ms) throws Exception {
            List<MessageExt> got = new ArrayList<>();
            long end = System.currentTimeMillis() + ms;
            while (got.size() < count && System.currentTimeMillis() < end) {
                PopResult r = pop(header(32, invisibleMs, 500));
                if (r.getPopStatus() == PopStatus.FOUND) {
                    got.addAll(r.getMsgFoundList());
                }
            }
            Check.equal("messages", count, got.size());
            return got;
        }

        private AckCallback into(CompletableFuture<AckResult> answer) {
            return new AckCallback() {
                @Override
                public void onSuccess(AckResult result) {
                    answer.complete(result);
                }

                @Override
                public void onException(Throwable e) {
                    answer.completeExceptionally(e);
                }
            };
        }

        private String realTopic(MessageExt m) {
            String[] info = ExtraInfoUtil.split(m.getProperty(MessageConst.PROPERTY_POP_CK));
            return ExtraInfoUtil.getRealTopic(info, topic, group);
        }

        AckResult ack(MessageExt m) throws Exception {
            String info = m.getProperty(MessageConst.PROPERTY_POP_CK);
            AckMessageRequestHeader h = new AckMessageRequestHeader();
            h.setConsumerGroup(group);
            h.setTopic(realTopic(m));
            h.setQueueId(ExtraInfoUtil.getQueueId(ExtraInfoUtil.split(info)));
            h.setOffset(ExtraInfoUtil.getQueueOffset(ExtraInfoUtil.split(info)));
            h.setExtraInfo(info);
            CompletableFuture<AckResult> answer = new CompletableFuture<>();
            api.ackMessageAsync(c.server.broker, 5000, into(answer), h);
            return answer.get(10, TimeUnit.SECONDS);
        }

        AckResult change(MessageExt m, long invisibleMs) throws Exception {
            String info = m.getProperty(MessageConst.PROPERTY_POP_CK);
            ChangeInvisibleTimeRequestHeader h = new ChangeInvisibleTimeRequestHeader();
            h.setConsumerGroup(group);
            h.setTopic(realTopic(m));
            h.setQueueId(ExtraInfoUtil.getQueueId(ExtraInfoUtil.split(info)));
            h.setOffset(ExtraInfoUtil.getQueueOffset(ExtraInfoUtil.split(info)));
            h.setExtraInfo(info);
            h.setInvisibleTime(invisibleMs);
            CompletableFuture<AckResult> answer = new CompletableFuture<>();
            api.changeInvisibleTimeAsync("broker-a", c.server.broker, h, 5000, into(answer));
            return answer.get(10, TimeUnit.SECONDS);
        }
    }

    private static Set<String> bodies(List<MessageExt> messages) {
        Set<String> s = new TreeSet<>();
        messages.forEach(m -> s.add(Inbox.text(m)));
        return s;
    }

    /** What is not acknowledged comes again, with its count, and only that. */
    private static void invisible(Case c) throws Exception {
        Api api = new Api(c, 4);
        Case.sendNumbers(c.producer(), api.topic, 0, 40);
        long begin = System.currentTimeMillis();
        List<MessageExt> first = api.popAll(40, 5000, 10_000);
        Check.equal("bodies", Case.numbers(0, 40), bodies(first));
        Set<String> open = new TreeSet<>();
        for (int i = 0; i < 40; i++) {
            if (i % 4 == 0) {
                open.add(Inbox.text(first.get(i)));
            } else {
                api.ack(first.get(i));
            }
        }
        Check.equal("while invisible", PopStatus.POLLING_NOT_FOUND,
            api.pop(api.header(32, 5000, 1000)).getPopStatus());
        List<MessageExt> again = api.popAll(10, 20_000, 15_000);
        long waited = System.currentTimeMillis() - begin;
        long latest = c.server.original ? 20_000 : 10_000;
        Check.that(waited >= 4_900 && waited < latest, "again after " + waited + " ms");
        Check.equal("again", open, bodies(again));
        for (MessageExt m : again) {
            Check.equal("times", 1, m.getReconsumeTimes());
            Check.equal("topic", api.topic, m.getTopic());
            Check.equal("origin group", api.group, m.getProperty("ORIGIN_GROUP"));
            api.ack(m);
        }
        Check.equal("at the end", PopStatus.POLLING_NOT_FOUND,
            api.pop(api.header(32, 5000, 1000)).getPopStatus());
    }

    /** A new time gives a new receipt; the old one is dead. */
    private static void change(Case c) throws Exception {
        Api api = new Api(c, 1);
        Case.sendNumbers(c.producer(), api.topic, 0, 2);
        List<MessageExt> first = api.popAll(2, 30_000, 10_000);
        MessageExt sooner = first.get(0);
        AckResult changed = api.change(sooner, 1000);
        Check.that(changed.getExtraInfo() != null, "a new receipt");
        api.ack(sooner);
        List<MessageExt> again = api.popAll(1, 30_000, 10_000);
        Check.equal("again", Inbox.text(sooner), Inbox.text(again.get(0)));
        Check.equal("times", 1, again.get(0).getReconsumeTimes());
        api.ack(again.get(0));
        api.ack(first.get(1));
    }

    private static void batchAck(Case c) throws Exception {
        Api api = new Api(c, 2);
        Case.sendNumbers(c.producer(), api.topic, 0, 30);
        List<MessageExt> first = api.popAll(30, 5000, 10_000);
        List<String> receipts = new ArrayList<>();
        Set<String> open = new TreeSet<>();
        for (int i = 0; i < 30; i++) {
            if (i % 3 == 0) {
                open.add(Inbox.text(first.get(i)));
            } else {
                receipts.add(first.get(i).getProperty(MessageConst.PROPERTY_POP_CK));
            }
        }
        CompletableFuture<AckResult> answer = new CompletableFuture<>();
        api.api.batchAckMessageAsync(c.server.broker, 5000, api.into(answer), api.topic, api.group, receipts);
        answer.get(10, TimeUnit.SECONDS);
        List<MessageExt> again = api.popAll(10, 20_000, 15_000);
        Check.equal("again", open, bodies(again));
    }

    /** One batch of a queue at a time. */
    private static void order(Case c) throws Exception {
        Api api = new Api(c, 1);
        Case.sendNumbers(c.producer(), api.topic, 0, 6);
        PopMessageRequestHeader header = api.header(3, 5000, 5000);
        header.setOrder(true);
        header.setAttemptId("one");
        List<MessageExt> batch = api.pop(header).getMsgFoundList();
        Check.equal("first", "[0, 1, 2]", bodies(batch).toString());
        PopMessageRequestHeader other = api.header(3, 5000, 500);
        other.setOrder(true);
        other.setAttemptId("two");
        Check.equal("held up", PopStatus.POLLING_NOT_FOUND, api.pop(other).getPopStatus());
        header.setBornTime(System.currentTimeMillis());
        Check.equal("same attempt", "[0, 1, 2]", bodies(batch = api.pop(header).getMsgFoundList()).toString());
        api.ack(batch.get(0));
        api.ack(batch.get(2));
        long begin = System.currentTimeMillis();
        other = api.header(3, 5000, 9000);
        other.setOrder(true);
        other.setAttemptId("two");
        batch = api.pop(other).getMsgFoundList();
        long waited = System.currentTimeMillis() - begin;
        Check.that(waited > 3000 && waited < 8000, "freed after " + waited + " ms");
        Check.equal("next", "[1, 2, 3]", bodies(batch).toString());
        Check.equal("times of 1", 1, batch.get(0).getReconsumeTimes());
        Check.equal("times of 3", 0, batch.get(2).getReconsumeTimes());
        for (MessageExt m : batch) {
            api.ack(m);
        }
        other.setBornTime(System.currentTimeMillis());
        Check.equal("last", "[4, 5]", bodies(api.pop(other).getMsgFoundList()).toString());
    }

    private static void longPoll(Case c) throws Exception {
        Api api = new Api(c, 8);
        DefaultMQProducer p = c.producer();
        Case.sendNumbers(p, api.topic, 0, 1);
        api.popAll(1, 60_000, 10_000);
        for (int i = 1; i < 6; i++) {
            int number = i;
            CompletableFuture<PopResult> waiting = CompletableFuture.supplyAsync(() -> {
                try {
                    return api.pop(api.header(32, 60_000, 8000));
                } catch (Exception e) {
                    throw new IllegalStateException(e);
                }
            });
            Thread.sleep(400);
            long begin = System.currentTimeMillis();
            Case.sendNumbers(p, api.topic, number, number + 1);
            PopResult r = waiting.get(10, TimeUnit.SECONDS);
            Check.equal("status", PopStatus.FOUND, r.getPopStatus());
            long waited = System.currentTimeMillis() - begin;
            Check.that(waited < 2000, "after " + waited + " ms");
        }
    }

    /** What is in flight comes again after a kill; what is acknowledged may, on the original. */
    private static void killed(Case c) throws Exception {
        Api api = new Api(c, 4);
        DefaultMQProducer p = c.producer();
        Case.sendNumbers(p, api.topic, 0, 60);
        List<MessageExt> first = api.popAll(60, 15_000, 10_000);
        Set<String> open = new TreeSet<>();
        for (int i = 0; i < 60; i++) {
            if (i % 2 == 0) {
                open.add(Inbox.text(first.get(i)));
            } else {
                api.ack(first.get(i));
            }
        }
        c.server.shell("KILL_BROKER", 120);
        Set<String> again = new TreeSet<>();
        long end = System.currentTimeMillis() + 60_000;
        while (!again.containsAll(open) && System.currentTimeMillis() < end) {
            try {
                PopResult r = api.pop(api.header(32, 60_000, 2000));
                if (r.getPopStatus() == PopStatus.FOUND) {
                    again.addAll(bodies(r.getMsgFoundList()));
                }
            } catch (Exception e) {
                Thread.sleep(200);
            }
        }
        Check.that(again.containsAll(open), "missing after the kill: " + (open.size() - again.size()));
    }
}
