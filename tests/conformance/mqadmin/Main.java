import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Set;

import org.apache.rocketmq.client.producer.SendResult;

/** The commands, in an order in which each finds what it needs, with what they have to print. */
public final class Main {
    /**
     * Registered commands that are not run: what they manage does not exist in one broker without
     * replication, or is not served yet. docs/mqadmin.md has a row for each.
     */
    private static final Set<String> LEFT_OUT = Set.of(
        // Replication, controllers, containers.
        "addBroker", "removeBroker", "resetMasterFlushOffset", "haStatus", "getSyncStateSet",
        "getBrokerEpoch", "getControllerMetaData", "getControllerConfig",
        "updateControllerConfig", "electMaster", "cleanBrokerMetadata",
        // Static topics.
        "updateStaticTopic", "remappingStaticTopic",
        // Light topics.
        "getBrokerLiteInfo", "getParentTopicInfo", "getLiteTopicInfo", "getLiteClientInfo",
        "getLiteGroupInfo", "triggerLiteDispatch",
        // RocksDB, page cache and timer engine of the original; local files of its stores.
        "rocksDBConfigToJson", "exportMetadataInRocksDB", "checkRocksdbCqWriteProgress",
        "switchTimerEngine", "setCommitLogReadAheadMode", "getColdDataFlowCtrInfo",
        "updateColdDataFlowCtrGroupConfig", "removeColdDataFlowCtrGroupConfig",
        "dumpCompactionLog",
        // Access control.
        "createUser", "updateUser", "deleteUser", "getUser", "listUser", "copyUser",
        "createAcl", "updateAcl", "deleteAcl", "getAcl", "listAcl", "copyAcl");

    private static final String CLUSTER = "-c DefaultCluster ";

    private final Tool tool = new Tool();
    private final String namesrv = System.getenv("NAMESRV_ADDR");
    private final String addr = System.getenv("BROKER_ADDR");
    private final String broker = "-b " + addr + " ";
    private final String run = Long.toString(System.currentTimeMillis(), 36);
    private final String topic = "MqAdmin-" + run;
    private final String other = "MqAdmin-other-" + run;
    private final String group = "mqadmin-" + run;
    private final String second = "mqadmin-second-" + run;
    private final String producer = "mqadmin-producer-" + run;

    public static void main(String[] args) throws Exception {
        System.exit(new Main().all() ? 0 : 1);
    }

    private boolean all() throws Exception {
        System.setProperty("rocketmq.namesrv.addr", namesrv);
        topics();
        Traffic traffic = new Traffic(namesrv, topic, producer, group);
        traffic.consume();
        online(traffic);
        pushed(traffic);
        messages(traffic);
        brokers();
        traffic.sampled();
        // The original's counts of a day begin at its first sample, which may fall between ours.
        String counts = "java".equals(System.getenv("SERVER")) ? " +\\d+ +\\d+" : " +40 +80";
        tool.run("statsAll", "-t " + topic,
            topic + " +" + group + " +0 +\\d+\\.\\d+ +\\d+\\.\\d+" + counts);
        tool.run("statsAll", "-a", topic);
        nameServer();
        exports();
        traffic.stopConsumer();
        offline();
        clean();
        traffic.stop();
        tool.runFor(2000, "startMonitoring", ""); // it stays at work in threads of its own
        tool.complete(LEFT_OUT);
        tool.documented(Path.of(System.getProperty("table")));
        return tool.close();
    }

    private static String file(String name, String text) throws Exception {
        return Files.writeString(Path.of(name).toAbsolutePath(), text).toString();
    }

    private void topics() throws Exception {
        tool.run("updateTopic", CLUSTER + "-t " + topic + " -r 4 -w 4",
            "create topic to " + addr + " success", "readQueueNums=4");
        tool.run("updateTopic", broker + "-t " + other + " -r 1 -w 1",
            "create topic to .* success");
        String list = "[{\"topicName\":\"" + other + "-a\","
            + "\"readQueueNums\":1,\"writeQueueNums\":1},"
            + "{\"topicName\":\"" + other + "-b\",\"writeQueueNums\":1}]";
        tool.run("updateTopicList", broker + "-f " + file("topics.json", list),
            "submit batch of topic config to " + addr + " success");
        tool.run("topicList", "", "^" + topic + "$", "^" + other + "-b$");
        tool.run("topicList", "-c", "DefaultCluster +" + topic);
        tool.run("topicRoute", "-t " + topic, "\"brokerName\":\"broker-a\"",
            "\"readQueueNums\":4", addr);
        tool.run("topicRoute", "-l -t " + topic,
            "DefaultCluster +broker-a +\\{0=" + addr + "\\} +4 +4 +6");
        tool.run("topicClusterList", "-t " + topic, "^DefaultCluster$");
        tool.run("updateTopicPerm", broker + "-t " + other + " -p 4",
            "update topic perm from 6 to 4 in " + addr + " success");
        tool.run("updateOrderConf", "-t " + other + " -m put -v broker-a:1",
            "update orderConf success");
        tool.run("updateOrderConf", "-t " + other + " -m get", "broker-a:1");
        tool.run("updateOrderConf", "-t " + other + " -m delete", "delete orderConf success");
        tool.run("allocateMQ", "-t " + topic + " -i 10.0.0.1,10.0.0.2", "\"10.0.0.1\":\\[",
            "\"10.0.0.2\":\\[");
        tool.run("updateSubGroup", CLUSTER + "-g " + group,
            "create subscription group to " + addr + " success");
        tool.run("updateSubGroup", broker + "-g " + second + " -r 2 -q 1", "retryMaxTimes=2");
        String groups = "[{\"groupName\":\"" + second + "-a\"}]";
        tool.run("updateSubGroupList", broker + "-f " + file("groups.json", groups),
            "submit batch of group config to " + addr + " success");
        tool.run("setConsumeMode", broker + "-t " + other + " -g " + second + " -m POP -q 2",
            "set consume mode to " + addr + " success", "consume mode\\[POP\\]");
        tool.run("setConsumeMode", CLUSTER + "-t " + other + " -g " + second + " -m PULL",
            "set consume mode to " + addr + " success");
        tool.run("exportPopRecord", broker + "-d true", "Export broker records");
        tool.run("exportPopRecord", broker + "-d false", "Export broker records");
        tool.run("getConsumerConfig", "-g " + second, "groupName += +" + second,
            "retryMaxTimes += +2");
    }

    /** What there is to see of a group that consumes. */
    private void online(Traffic traffic) {
        String client = traffic.clientId();
        tool.run("topicStatus", "-t " + topic, "broker-a +0 +0 +10 +20", "Topic Put TPS");
        tool.run("producer", broker, producer, "remoteIP=/127.0.0.1:\\d+, language=JAVA");
        tool.run("producerConnection", "-g " + producer + " -t " + topic, "127.0.0.1:\\d+ +JAVA");
        tool.run("consumerConnection", "-g " + group, client + " +127.0.0.1:\\d+ +JAVA",
            "^" + topic + " +\\*$", "ConsumeType: CONSUME_PASSIVELY",
            "MessageModel: CLUSTERING", "ConsumeFromWhere: CONSUME_FROM_FIRST_OFFSET");
        String queue = topic + " +broker-a +3 +10 +10 +";
        tool.run("consumerProgress", "-g " + group, queue + "0 +0 +20\\d\\d-",
            "Consume Diff Total: 0", "Consume Inflight Total: 0");
        tool.run("consumerProgress", "-g " + group + " -t " + topic + " -s true",
            queue + client.split("@")[0] + " +0 +0 +20");
        tool.run("consumerProgress", "", group + " +1 +V5_5_0 +PUSH +CLUSTERING +\\d+ +0");
        tool.run("consumerStatus", "-g " + group, "1 +" + client + " +V5_5_0",
            "Same subscription in the same group of consumer", "Rebalance OK");
        tool.run("consumerStatus", "-g " + group + " -i " + client + " -s",
            "#Consumer Properties#", topic + " +broker-a +0 +10", "#Consumer jstack#");
        tool.run("brokerConsumeStats", broker, topic + " +" + group + " +broker-a +3 +10 +10 +0",
            "Diff Total: \\d+");
        // Online: the consumer goes on where it is told.
        tool.run("resetOffsetByTime", "-g " + group + " -t " + topic + " -s now",
            "broker-a +0 +10", "broker-a +3 +10");
        tool.run("skipAccumulatedMessage", "-g " + group + " -t " + topic,
            "#brokerName +#queueId +#offset", "broker-a +2 +10");
    }

    /** The other way to reset: the broker tells the consumer, which goes back by itself. */
    private void pushed(Traffic traffic) throws Exception {
        String key = broker + "-k useServerSideResetOffset -v ";
        tool.run("updateBrokerConfig", key + "false", "update broker config success, " + addr);
        tool.run("resetOffsetByTime", "-g " + group + " -t " + topic + " -s 0", "broker-a +0 +0",
            "broker-a +3 +0");
        long start = System.currentTimeMillis();
        boolean again = traffic.consumedTimes(2);
        tool.report("pushed-reset", again ? null : traffic.count() + " messages consumed, not 80",
            System.currentTimeMillis() - start);
        tool.run("updateBrokerConfig", key + "true", "update broker config success, " + addr);
    }

    private void messages(Traffic traffic) throws Exception {
        SendResult first = traffic.sent.get(0);
        String unique = first.getMsgId();
        String id = first.getOffsetMsgId();
        String details = "Message Body Path: ";
        tool.run("queryMsgById", "-t " + topic + " -i " + id, "Topic: +" + topic,
            "Keys: +\\[key0\\]", "Queue Offset: +0", details, group + ".*CONSUMED");
        tool.run("queryMsgById", "-t " + topic + " -i " + unique, id, details);
        tool.run("queryMsgById", "-t " + topic + " -i " + unique + " -g " + group + " -d "
            + traffic.clientId(), "consumeResult=CR_SUCCESS");
        tool.run("queryMsgByUniqueKey", "-t " + topic + " -i " + unique, "Queue Offset: +0",
            details, "MessageTrack .*consumerGroup=" + group);
        tool.run("queryMsgByUniqueKey", "-a -t " + topic + " -i " + unique, "Queue Offset: +0");
        tool.run("queryMsgByKey", "-t " + topic + " -k key7", traffic.sent.get(7).getMsgId()
            + " +3 +1");
        tool.run("queryMsgByOffset", "-t " + topic + " -b broker-a -i 3 -o 1", "Keys: +\\[key7\\]",
            details);
        tool.run("queryCq", "-t " + topic + " -q 0 -i 5 -c 3 " + broker,
            "max: 10, min: 0", "idx: 5", "idx: 7");
        tool.run("printMsg", "-t " + topic + " -d true", "BODY: body0", "BODY: body39",
            "minOffset=0, maxOffset=10");
        tool.run("printMsgByQueue", "-t " + topic + " -a broker-a -i 1 -p true -d true",
            "BODY: body1$", "BODY: body37");
        tool.run("printMsgByQueue", "-t " + topic + " -a broker-a -i 1 -f true",
            "Tag: tag +Count: 10");
        tool.run("consumeMessage", "-t " + topic + " -b broker-a -i 2 -o 3 -c 2",
            "Consume ok", "BODY: body14");
        tool.run("sendMessage", "-t " + other + "-a -p hello -k thekey -c thetag",
            "broker-a +0 +SEND_OK +\\w+");
        tool.run("printMsg", "-t " + other + "-a -s thetag -d true", "BODY: hello", "KEYS=thekey");
        tool.run("checkMsgSendRT", "-t " + other + "-a -a 3 -s 16", "broker-a +0 +true",
            "Avg RT: ");
        tool.run("sendMsgStatus", "-b broker-a -s 16 -c 2", "SendResult=.*sendStatus=SEND_OK");
        Thread.sleep(1500); // the producer writes its traces once a second
        tool.run("queryMsgTraceById", "-i " + unique, "#Type +#ProducerGroup", "Pub +" + producer);
    }

    private void brokers() {
        tool.run("clusterList", "", "DefaultCluster +broker-a +0 +" + addr + " +V5_5_0");
        tool.run("clusterList", "-m", "DefaultCluster +broker-a +\\d+ +\\d+ +\\d+ +\\d+");
        tool.runFor(3000, "clusterRT", "-a 2 -i 1 -s 16",
            "DefaultCluster +broker-a +\\d+\\.\\d+ +2 +0");
        tool.run("brokerStatus", broker, "^putTps +: ", "^brokerVersionDesc +: V5_5_0",
            "^msgPutTotalTodayNow +: [1-9]");
        tool.run("getBrokerConfig", broker, "brokerName += +broker-a", "useServerSideResetOffset");
        tool.run("updateBrokerConfig", broker + "-k transactionCheckMax -v 14",
            "update broker config success, " + addr);
        tool.run("getBrokerConfig", CLUSTER, "transactionCheckMax += +14");
        tool.run("updateBrokerConfig", CLUSTER + "-k transactionCheckMax -v 15",
            "update broker config success, " + addr);
        tool.run("cleanExpiredCQ", broker, "success");
        tool.run("cleanUnusedTopic", CLUSTER, "success");
        tool.run("deleteExpiredCommitLog", broker, "success");
    }

    private void nameServer() {
        tool.run("wipeWritePerm", "-b broker-a",
            "wipe write perm of broker\\[broker-a\\].* OK, \\d+");
        tool.run("topicRoute", "-t " + topic, "\"perm\":4");
        tool.run("addWritePerm", "-b broker-a",
            "add write perm of broker\\[broker-a\\].* OK, \\d+");
        tool.run("updateKvConfig", "-s NS-" + run + " -k k -v v",
            "create or update kv config to namespace success");
        tool.run("deleteKvConfig", "-s NS-" + run + " -k k",
            "delete kv config from namespace success");
        tool.run("getNamesrvConfig", "", "============" + namesrv + "============",
            "listenPort += +" + namesrv.split(":")[1]);
        tool.run("updateNamesrvConfig", "-k orderMessageEnable -v false",
            "update name server config success!", "orderMessageEnable : false");
    }

    private void exports() {
        tool.run("exportMetadata", broker + "-f . -t", "export .*topic.json success");
        tool.run("exportMetadata", CLUSTER + "-f .", "export .*metadata.json success");
        tool.run("exportConfigs", CLUSTER + "-f .", "export .*configs.json success");
        tool.run("exportMetrics", CLUSTER + "-f .", "export .*metrics.json success");
    }

    /** What can be done to a group that is not there. */
    private void offline() {
        String reset = "-g " + group + " -t " + topic;
        tool.run("resetOffsetByTime", reset + " -s 1990-01-01#00:00:00:000", "broker-a +3 +0");
        tool.run("consumerProgress", "-g " + group + " -t " + topic, "Consume Diff Total: 40");
        tool.run("resetOffsetByTime", reset + " -s " + System.currentTimeMillis() + " -f false",
            "broker-a +3 +10");
        tool.run("resetOffsetByTime", reset + " -s -1 " + broker + "-q 2 -o 4",
            "reset consumer offset to 4");
        tool.run("consumerProgress", "-g " + group + " -t " + topic, "broker-a +2 +10 +4 +6");
        tool.run("cloneGroupOffset", "-s " + group + " -d " + second + " -t " + topic + " -o true",
            "clone group offset success");
        tool.run("consumerProgress", "-g " + second + " -t " + topic, "broker-a +2 +10 +4 +6");
        tool.run("skipAccumulatedMessage", reset, "broker-a +2 +10");
    }

    private void clean() {
        for (String name : new String[] {other, other + "-a", other + "-b", topic}) {
            tool.run("deleteTopic", CLUSTER + "-t " + name, "delete topic \\[" + name
                + "\\] from cluster \\[DefaultCluster\\] success",
                "delete topic \\[" + name + "\\] from NameServer success");
        }
        for (String name : new String[] {second, second + "-a", group}) {
            tool.run("deleteSubGroup", broker + "-g " + name + " -r true",
                "delete subscription group \\[" + name + "\\] from broker \\[" + addr
                    + "\\] success");
        }
    }
}
