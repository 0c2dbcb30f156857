package apogee.conformance;

import java.io.PrintStream;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;

/** A consumer in a process of its own, which tells what it has got until it is killed. */
final class Victim {
    private Victim() {
    }

    static void run(String topic, String group, PrintStream out) throws Exception {
        DefaultMQPushConsumer c = new DefaultMQPushConsumer(group);
        c.setNamesrvAddr(Server.need("NAMESRV_ADDR"));
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.subscribe(topic, "*");
        c.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            // Told before it is acknowledged: what is not told must come to somebody else.
            messages.forEach(m -> out.println("got " + Inbox.text(m)));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        // An end of its own, in case nobody kills it.
        Thread.sleep(120_000);
        Runtime.getRuntime().halt(1);
    }
}
