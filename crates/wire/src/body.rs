//! JSON bodies and configuration entries, with Java's member names and defaults.
//!
//! Members are declared in alphabetical order, the order in which Java writes them. Absent
//! members keep their default, unknown ones are ignored, numbers and texts are taken for each
//! other.

use std::collections::BTreeMap;

use crate::json::{Value, object};

/// A value inside a body.
pub trait Member: Sized {
    /// Reads it; `None` when it is not of this kind.
    fn read(value: &Value) -> Option<Self>;
    /// Writes it; null members are left out of their object.
    fn write(&self) -> Value;
}

impl Member for String {
    fn read(value: &Value) -> Option<Self> {
        value.text()
    }
    fn write(&self) -> Value {
        Value::Text(self.clone())
    }
}
impl Member for i64 {
    fn read(value: &Value) -> Option<Self> {
        value.int()
    }
    fn write(&self) -> Value {
        Value::Int(*self)
    }
}
impl Member for i32 {
    fn read(value: &Value) -> Option<Self> {
        value.int().map(|number| number as i32)
    }
    fn write(&self) -> Value {
        Value::from(*self)
    }
}
impl Member for bool {
    fn read(value: &Value) -> Option<Self> {
        value.truth()
    }
    fn write(&self) -> Value {
        Value::Bool(*self)
    }
}
impl Member for Value {
    fn read(value: &Value) -> Option<Self> {
        Some(value.clone())
    }
    fn write(&self) -> Value {
        self.clone()
    }
}
impl<T: Member> Member for Option<T> {
    fn read(value: &Value) -> Option<Self> {
        Some(T::read(value))
    }
    fn write(&self) -> Value {
        self.as_ref().map_or(Value::Null, Member::write)
    }
}
impl<T: Member> Member for Vec<T> {
    fn read(value: &Value) -> Option<Self> {
        Some(value.items().iter().filter_map(T::read).collect())
    }
    fn write(&self) -> Value {
        Value::Array(self.iter().map(Member::write).collect())
    }
}
impl<T: Member> Member for BTreeMap<String, T> {
    fn read(value: &Value) -> Option<Self> {
        let pairs = value.pairs().iter();
        Some(pairs.filter_map(|(key, value)| Some((key.text()?, T::read(value)?))).collect())
    }
    fn write(&self) -> Value {
        object(self.iter().map(|(key, value)| (key.as_str(), value.write())))
    }
}
impl<T: Member> Member for BTreeMap<i64, T> {
    fn read(value: &Value) -> Option<Self> {
        let pairs = value.pairs().iter();
        Some(pairs.filter_map(|(key, value)| Some((key.int()?, T::read(value)?))).collect())
    }
    fn write(&self) -> Value {
        object(self.iter().map(|(key, value)| (*key, value.write())))
    }
}

macro_rules! bodies {
    ($(
        $(#[$doc:meta])*
        $name:ident { $($field:ident: $ty:ty = $java:literal, $default:expr;)* }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(#[doc = concat!("`", $java, "`")] pub $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* }
            }
        }

        impl Member for $name {
            fn read(value: &Value) -> Option<Self> {
                if !matches!(value, Value::Object(_)) {
                    return None;
                }
                let mut body = $name::default();
                $(
                    if let Some(found) = value.get($java).and_then(Member::read) {
                        body.$field = found;
                    }
                )*
                Some(body)
            }
            fn write(&self) -> Value {
                object([$(($java, self.$field.write()),)*])
            }
        }
    )*};
}

bodies! {
    /// Version of a table: controller epoch, change time, change counter.
    DataVersion {
        counter: i64 = "counter", 0;
        state_version: i64 = "stateVersion", 0;
        timestamp: i64 = "timestamp", 0;
    }
    /// One topic. Java: `TopicConfig`, whose own default of 16 queues is used when members lack.
    TopicConfig {
        attributes: BTreeMap<String, String> = "attributes", BTreeMap::new();
        order: bool = "order", false;
        perm: i32 = "perm", 6;
        read_queue_nums: i32 = "readQueueNums", 16;
        topic_filter_type: String = "topicFilterType", "SINGLE_TAG".into();
        topic_name: String = "topicName", String::new();
        topic_sys_flag: i32 = "topicSysFlag", 0;
        write_queue_nums: i32 = "writeQueueNums", 16;
    }
    /// One consumer group. Java: `SubscriptionGroupConfig`.
    GroupConfig {
        attributes: BTreeMap<String, String> = "attributes", BTreeMap::new();
        broker_id: i64 = "brokerId", 0;
        consume_broadcast_enable: bool = "consumeBroadcastEnable", true;
        consume_enable: bool = "consumeEnable", true;
        consume_from_min_enable: bool = "consumeFromMinEnable", true;
        consume_message_orderly: bool = "consumeMessageOrderly", false;
        consume_timeout_minute: i32 = "consumeTimeoutMinute", 15;
        group_name: String = "groupName", String::new();
        group_retry_policy: Value = "groupRetryPolicy", object([("type", "CUSTOMIZED")]);
        group_sys_flag: i32 = "groupSysFlag", 0;
        notify_consumer_ids_changed_enable: bool = "notifyConsumerIdsChangedEnable", true;
        retry_max_times: i32 = "retryMaxTimes", 16;
        retry_queue_nums: i32 = "retryQueueNums", 1;
        subscription_data_set: Option<Value> = "subscriptionDataSet", None;
        which_broker_when_consume_slowly: i64 = "whichBrokerWhenConsumeSlowly", 1;
    }
    /// A queue of a broker.
    MessageQueue {
        broker_name: String = "brokerName", String::new();
        queue_id: i32 = "queueId", 0;
        topic: String = "topic", String::new();
    }
    /// One broker name of a route.
    BrokerData {
        broker_addrs: BTreeMap<i64, String> = "brokerAddrs", BTreeMap::new();
        broker_name: String = "brokerName", String::new();
        cluster: String = "cluster", String::new();
        enable_acting_master: bool = "enableActingMaster", false;
        zone_name: Option<String> = "zoneName", None;
    }
    /// The queues that one broker has of a topic.
    QueueData {
        broker_name: String = "brokerName", String::new();
        perm: i32 = "perm", 0;
        read_queue_nums: i32 = "readQueueNums", 0;
        topic_sys_flag: i32 = "topicSysFlag", 0;
        write_queue_nums: i32 = "writeQueueNums", 0;
    }
    /// Answer of 105.
    TopicRouteData {
        broker_datas: Vec<BrokerData> = "brokerDatas", Vec::new();
        filter_server_table: BTreeMap<String, Value> = "filterServerTable", BTreeMap::new();
        order_topic_conf: Option<String> = "orderTopicConf", None;
        queue_datas: Vec<QueueData> = "queueDatas", Vec::new();
    }
    /// All topics of a broker with their version.
    TopicConfigWrapper {
        data_version: DataVersion = "dataVersion", DataVersion::default();
        mapping_data_version: DataVersion = "mappingDataVersion", DataVersion::default();
        topic_config_table: BTreeMap<String, TopicConfig> = "topicConfigTable", BTreeMap::new();
        topic_queue_mapping_detail_map: BTreeMap<String, Value> =
            "topicQueueMappingDetailMap", BTreeMap::new();
        topic_queue_mapping_info_map: BTreeMap<String, Value> =
            "topicQueueMappingInfoMap", BTreeMap::new();
    }
    /// Body of 103.
    RegisterBrokerBody {
        filter_server_list: Vec<String> = "filterServerList", Vec::new();
        topics: TopicConfigWrapper = "topicConfigSerializeWrapper", TopicConfigWrapper::default();
    }
    /// Body of 34.
    HeartbeatData {
        client_id: String = "clientID", String::new();
        consumers: Vec<ConsumerData> = "consumerDataSet", Vec::new();
        fingerprint: i64 = "heartbeatFingerprint", 0;
        producers: Vec<ProducerData> = "producerDataSet", Vec::new();
        without_sub: bool = "withoutSub", false;
    }
    /// A producer group of a heartbeat.
    ProducerData {
        group_name: String = "groupName", String::new();
    }
    /// A consumer group of a heartbeat. The three enums are texts or, from C++, positions.
    ConsumerData {
        consume_from_where: Value = "consumeFromWhere", Value::Null;
        consume_type: Value = "consumeType", Value::Null;
        group_name: String = "groupName", String::new();
        message_model: Value = "messageModel", Value::Null;
        subscriptions: Vec<SubscriptionData> = "subscriptionDataSet", Vec::new();
        unit_mode: bool = "unitMode", false;
    }
    /// One subscription. Tag hashes are recomputed from the text: clients send odd ones.
    SubscriptionData {
        class_filter_mode: bool = "classFilterMode", false;
        code_set: Vec<i64> = "codeSet", Vec::new();
        expression_type: String = "expressionType", "TAG".into();
        sub_string: String = "subString", String::new();
        sub_version: i64 = "subVersion", 0;
        tags_set: Vec<String> = "tagsSet", Vec::new();
        topic: String = "topic", String::new();
    }
    /// Body of 41 and 42.
    LockBatch {
        client_id: String = "clientId", String::new();
        consumer_group: String = "consumerGroup", String::new();
        queues: Vec<MessageQueue> = "mqSet", Vec::new();
        only_this_broker: bool = "onlyThisBroker", false;
    }
    /// One connection in the answers of 203 and 204.
    Connection {
        client_addr: String = "clientAddr", String::new();
        client_id: String = "clientId", String::new();
        language: String = "language", String::new();
        version: i32 = "version", 0;
    }
}

impl DataVersion {
    /// The next version after a change at `now_ms`.
    pub fn advance(&mut self, now_ms: i64) {
        self.timestamp = now_ms;
        self.counter += 1;
    }
}

impl MessageQueue {
    /// The queue as the key of a map: Java writes the object itself.
    pub fn key(topic: &str, broker_name: &str, queue_id: i32) -> Value {
        object([
            ("brokerName", Value::from(broker_name)),
            ("queueId", Value::from(queue_id)),
            ("topic", Value::from(topic)),
        ])
    }
}

/// The name of an enum member that is given as text, in any case, or as its position.
pub fn enum_name(value: &Value, names: &[&'static str]) -> Option<&'static str> {
    match value {
        Value::Text(text) => names.iter().copied().find(|name| name.eq_ignore_ascii_case(text)),
        Value::Int(position) => names.get(usize::try_from(*position).ok()?).copied(),
        _ => None,
    }
}

/// Java: `ConsumeType`.
pub const CONSUME_TYPES: [&str; 3] = ["CONSUME_ACTIVELY", "CONSUME_PASSIVELY", "CONSUME_POP"];
/// Java: `MessageModel`.
pub const MESSAGE_MODELS: [&str; 2] = ["BROADCASTING", "CLUSTERING"];
/// Java: `ConsumeFromWhere`.
pub const CONSUME_FROM_WHERE: [&str; 6] = [
    "CONSUME_FROM_LAST_OFFSET",
    "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
    "CONSUME_FROM_MIN_OFFSET",
    "CONSUME_FROM_MAX_OFFSET",
    "CONSUME_FROM_FIRST_OFFSET",
    "CONSUME_FROM_TIMESTAMP",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_shapes_round_trip() {
        let topic = r#"{"attributes":{"message.type":"FIFO"},"order":false,"perm":6,"readQueueNums":4,"topicFilterType":"SINGLE_TAG","topicName":"t","topicSysFlag":0,"writeQueueNums":4}"#;
        let read = TopicConfig::read(&Value::parse(topic).expect("json")).expect("topic");
        assert_eq!(read.write().to_text(), topic);
        let group = GroupConfig { group_name: "g".into(), ..GroupConfig::default() };
        assert_eq!(
            group.write().to_text(),
            r#"{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,"consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"g","groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}"#
        );
        let route = r#"{"brokerDatas":[{"brokerAddrs":{0:"127.0.0.2:19911"},"brokerName":"broker-a","cluster":"c","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[]}"#;
        let read = TopicRouteData::read(&Value::parse(route).expect("json")).expect("route");
        assert_eq!(read.write().to_text(), route);
    }

    #[test]
    fn heartbeats_of_odd_clients_are_read() {
        let cpp = r#"{"clientID":"c","consumerDataSet":[{"groupName":"g","consumeType":1,"messageModel":1,"subscriptionDataSet":[{"topic":"t","subVersion":"17","codeSet":["0"]}]}]}"#;
        let beat = HeartbeatData::read(&Value::parse(cpp).expect("json")).expect("beat");
        let consumer = &beat.consumers[0];
        assert_eq!(enum_name(&consumer.message_model, &MESSAGE_MODELS), Some("CLUSTERING"));
        assert_eq!(enum_name(&Value::from("push"), &CONSUME_TYPES), None);
        assert_eq!((consumer.subscriptions[0].sub_version, beat.producers.len()), (17, 0));
    }
}
