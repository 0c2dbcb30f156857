package apogee.conformance;

import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.RequestTimeoutException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.message.Message;

/** One client asks by a message and gets the answer of the one that consumes it. */
final class RequestScenarios {
    private RequestScenarios() {
    }

    static void list(List<Scenario> l) {
        l.add(new Scenario("request-reply", 60, RequestScenarios::answered));
        l.add(new Scenario("request-timeout", 60, RequestScenarios::timeout));
    }

    /** Answers "re " and the question; what the broker says of each answer is kept. */
    private static void replier(Case c, String topic, CompletableFuture<SendResult> first) throws Exception {
        DefaultMQProducer replies = c.producer();
        DefaultMQPushConsumer consumer = c.newPush(c.name("group"));
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(m -> {
                try {
                    byte[] body = Case.bytes("re " + Inbox.text(m));
                    first.complete(replies.send(MessageUtil.createReplyMessage(m, body), 5000));
                } catch (Exception e) {
                    first.completeExceptionally(e);
                }
            });
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
    }

    private static void answered(Case c) throws Exception {
        String topic = c.topic(2);
        CompletableFuture<SendResult> told = new CompletableFuture<>();
        replier(c, topic, told);
        DefaultMQProducer p = c.producer();
        for (int i = 0; i < 10; i++) {
            // The first one waits until the consumer has its queues.
            Message answer = p.request(new Message(topic, Case.bytes("question " + i)), 20_000);
            Check.equal("answer", "re question " + i, new String(answer.getBody(), "UTF-8"));
        }
        Check.equal("status of the reply", SendStatus.SEND_OK, told.get(5, TimeUnit.SECONDS).getSendStatus());
    }

    private static void timeout(Case c) throws Exception {
        String topic = c.topic(1);
        DefaultMQProducer p = c.producer();
        try {
            p.request(new Message(topic, Case.bytes("nobody answers")), 500);
        } catch (RequestTimeoutException e) {
            return;
        }
        throw new Check.Wrong("no timeout");
    }
}
