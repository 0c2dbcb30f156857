import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

import org.apache.rocketmq.client.consumer.AckCallback;
import org.apache.rocketmq.client.consumer.AckResult;
import org.apache.rocketmq.client.consumer.PopCallback;
import org.apache.rocketmq.client.consumer.PopResult;
import org.apache.rocketmq.client.consumer.PopStatus;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.protocol.header.AckMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ExtraInfoUtil;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;

/** Pop and acknowledgement by the calls that the original's proxy uses. */
final class Pop {
    /** What to do with a popped message. */
    interface Each {
        /** Whether it is acknowledged. */
        boolean take(MessageExt message) throws Exception;
    }

    private final Clients clients;
    private final String topic;

    Pop(Clients clients, String topic) throws Exception {
        this.clients = clients;
        this.topic = topic;
        clients.group(Clients.GROUP_POP);
    }

    /** Pops until so many came or the time is over; the number that came. */
    int take(int count, long invisibleMs, long limitMs, Each each) throws Exception {
        long end = System.currentTimeMillis() + limitMs;
        int got = 0;
        while (got < count && System.currentTimeMillis() < end) {
            PopResult result = pop(Math.min(count - got, 4), invisibleMs);
            if (result.getPopStatus() != PopStatus.FOUND) {
                continue;
            }
            for (MessageExt m : result.getMsgFoundList()) {
                got++;
                if (each.take(m)) {
                    ack(m);
                }
            }
        }
        return got;
    }

    private PopResult pop(int max, long invisibleMs) throws Exception {
        PopMessageRequestHeader h = new PopMessageRequestHeader();
        h.setConsumerGroup(Clients.GROUP_POP);
        h.setTopic(topic);
        h.setQueueId(-1);
        h.setMaxMsgNums(max);
        h.setInvisibleTime(invisibleMs);
        h.setPollTime(1000);
        h.setBornTime(System.currentTimeMillis());
        h.setInitMode(0);
        h.setExpType("TAG");
        h.setExp("*");
        CompletableFuture<PopResult> answer = new CompletableFuture<>();
        clients.api().popMessageAsync("broker-a", clients.broker, h, 15_000, new PopCallback() {
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

    private void ack(MessageExt m) throws Exception {
        String info = m.getProperty(MessageConst.PROPERTY_POP_CK);
        String[] parts = ExtraInfoUtil.split(info);
        AckMessageRequestHeader h = new AckMessageRequestHeader();
        h.setConsumerGroup(Clients.GROUP_POP);
        h.setTopic(ExtraInfoUtil.getRealTopic(parts, topic, Clients.GROUP_POP));
        h.setQueueId(ExtraInfoUtil.getQueueId(parts));
        h.setOffset(ExtraInfoUtil.getQueueOffset(parts));
        h.setExtraInfo(info);
        CompletableFuture<AckResult> answer = new CompletableFuture<>();
        clients.api().ackMessageAsync(clients.broker, 5000, new AckCallback() {
            @Override
            public void onSuccess(AckResult result) {
                answer.complete(result);
            }

            @Override
            public void onException(Throwable e) {
                answer.completeExceptionally(e);
            }
        }, h);
        answer.get(10, TimeUnit.SECONDS);
    }
}
