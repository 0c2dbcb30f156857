package apogee.conformance;

import java.util.Collections;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** The server under test: its addresses, the means to prepare it, and the names of this run. */
final class Server {
    final String label = System.getProperty("label");
    /** The original looks at what is due, and at its statistics, in turns of many seconds. */
    final boolean original = "java".equals(System.getenv("SERVER"));
    final String namesrv = need("NAMESRV_ADDR");
    final String broker = need("BROKER_ADDR");
    /** Makes the names of this run different from those of every other run. */
    final String run = "J" + Long.toString(System.currentTimeMillis(), 36);
    final DefaultMQAdminExt admin = new DefaultMQAdminExt(10_000);

    Server() throws MQClientException {
        admin.setNamesrvAddr(namesrv);
        admin.setInstanceName(run + "-admin");
        admin.start();
    }

    static String need(String name) {
        String value = System.getenv(name);
        if (value == null || value.isEmpty()) {
            throw new IllegalStateException("environment variable " + name + " is not set");
        }
        return value;
    }

    /** Makes a topic and waits until the name server tells its route. */
    void makeTopic(String topic, int queues) throws Exception {
        makeTopic(topic, queues, Collections.emptyMap());
    }

    /** The same with attributes, which topics have from 5.0 on. */
    void makeTopic(String topic, int queues, Map<String, String> attributes) throws Exception {
        TopicConfig config = new TopicConfig(topic, queues, queues, 6);
        if (!attributes.isEmpty()) {
            config.getClass().getMethod("setAttributes", Map.class).invoke(config, attributes);
        }
        admin.createAndUpdateTopicConfig(broker, config);
        Wait.until("route of " + topic, 10_000, () -> {
            try {
                return !admin.examineTopicRouteInfo(topic).getQueueDatas().isEmpty();
            } catch (MQClientException e) {
                return false;
            }
        });
    }

    void brokerSetting(String name, String value) throws Exception {
        Properties p = new Properties();
        p.setProperty(name, value);
        admin.updateBrokerConfig(broker, p);
    }

    /** Runs the shell command that stands in an environment variable. */
    void shell(String variable, int seconds) throws Exception {
        Process p = new ProcessBuilder("bash", "-c", need(variable))
            .redirectErrorStream(true)
            .redirectOutput(ProcessBuilder.Redirect.DISCARD)
            .start();
        if (!p.waitFor(seconds, TimeUnit.SECONDS)) {
            p.destroyForcibly();
            throw new Check.Wrong(variable + " did not end within " + seconds + " s");
        }
        Check.equal("exit code of " + variable, 0, p.exitValue());
    }
}
