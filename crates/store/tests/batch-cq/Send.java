import java.util.Arrays;
import java.util.Collections;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** Makes a BatchCQ topic and sends a message, a batch of two and a message; see make.sh. */
public final class Send {
    public static void main(String[] args) throws Exception {
        DefaultMQAdminExt admin = new DefaultMQAdminExt(10_000);
        admin.setNamesrvAddr(args[0]);
        admin.start();
        TopicConfig topic = new TopicConfig("Cq", 1, 1, 6);
        topic.setAttributes(Collections.singletonMap("+queue.type", "BatchCQ"));
        admin.createAndUpdateTopicConfig(args[1], topic);
        Thread.sleep(3000);
        DefaultMQProducer producer = new DefaultMQProducer("p");
        producer.setNamesrvAddr(args[0]);
        producer.start();
        producer.send(new Message("Cq", "a", "one".getBytes()));
        producer.send(Arrays.asList(
            new Message("Cq", "a", "two".getBytes()), new Message("Cq", "b", "three".getBytes())));
        producer.send(new Message("Cq", "c", "four".getBytes()));
        Thread.sleep(2000);
        producer.shutdown();
        admin.shutdown();
    }
}
