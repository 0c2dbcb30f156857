//! The custom header fields of every command, declared once: Java's names, V2 letters, types.
//!
//! A field of a plain type is required, an `Option` or a `bool` is not. The macro gives each
//! struct its decoder for both names and codecs, its encoder, and an entry for the fuzzer.

use crate::header::{Ext, ExtFields, FieldError, FieldValue, Fields};

macro_rules! headers {
    ($(
        $(#[$doc:meta])*
        $name:ident $([$life:lifetime])? {
            $($field:ident: $ty:ty = $java:literal $(| $short:literal)?,)*
        }
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub struct $name $(<$life>)? {
                $(#[doc = concat!("`", $java, "`")] pub $field: $ty,)*
            }

            impl<'e> Fields<'e> for headers!(@life $name $($life)?) {
                fn decode(ext: &Ext<'e>) -> Result<Self, FieldError> {
                    $(let mut $field = None;)*
                    for (name, value) in ext.iter() {
                        match name {
                            $($java $(| $short)? => $field = Some(value),)*
                            _ => {}
                        }
                    }
                    Ok($name { $($field: field($field, $java)?,)* })
                }

                fn each(&self, short: bool, write: &mut impl FnMut(&str, &str)) {
                    let _ = short;
                    $(
                        let name = headers!(@name short, $java $(, $short)?);
                        self.$field.write(|text| write(name, text));
                    )*
                }
            }

            impl $(<$life>)? ExtFields for $name $(<$life>)? {
                const PRESENT: bool = true;
                fn each_field(&self, short: bool, write: &mut impl FnMut(&str, &str)) {
                    self.each(short, write);
                }
            }
        )*

        /// Decodes `ext` as every known command; for fuzzing. Returns how many accepted it.
        pub fn decode_as_all(ext: &Ext<'_>) -> usize {
            0 $(+ usize::from($name::decode(ext).is_ok()))*
        }
    };
    (@life $name:ident) => { $name };
    (@life $name:ident $life:lifetime) => { $name<'e> };
    (@name $flag:ident, $java:literal) => { $java };
    (@name $flag:ident, $java:literal, $short:literal) => { if $flag { $short } else { $java } };
}

fn field<'a, T: FieldValue<'a>>(
    text: Option<&'a str>,
    name: &'static str,
) -> Result<T, FieldError> {
    match text {
        Some(text) => T::parse(text).map_err(|problem| FieldError { field: name, problem }),
        None if T::REQUIRED => Err(FieldError { field: name, problem: "missing" }),
        None => Ok(T::absent()),
    }
}

headers! {
    /// 10, 310, 320, 324, 325. Java: `SendMessageRequestHeader`, `SendMessageRequestHeaderV2`.
    SendMessage ['a] {
        producer_group: &'a str = "producerGroup" | "a",
        topic: &'a str = "topic" | "b",
        default_topic: &'a str = "defaultTopic" | "c",
        default_topic_queue_nums: i32 = "defaultTopicQueueNums" | "d",
        queue_id: i32 = "queueId" | "e",
        sys_flag: i32 = "sysFlag" | "f",
        born_timestamp: i64 = "bornTimestamp" | "g",
        flag: i32 = "flag" | "h",
        properties: Option<&'a str> = "properties" | "i",
        reconsume_times: Option<i32> = "reconsumeTimes" | "j",
        unit_mode: bool = "unitMode" | "k",
        max_reconsume_times: Option<i32> = "maxReconsumeTimes" | "l",
        batch: bool = "batch" | "m",
        broker_name: Option<&'a str> = "bname" | "n",
    }
    /// Answer of all sends. Java: `SendMessageResponseHeader` with the two plain fields.
    SendMessageAnswer ['a] {
        msg_id: &'a str = "msgId",
        queue_id: i32 = "queueId",
        queue_offset: i64 = "queueOffset",
        transaction_id: Option<&'a str> = "transactionId",
        batch_uniq_id: Option<&'a str> = "batchUniqId",
        recall_handle: Option<&'a str> = "recallHandle",
        region: &'a str = "MSG_REGION",
        trace_on: &'a str = "TRACE_ON",
    }
    /// 11, 361. Java: `PullMessageRequestHeader`.
    PullMessage ['a] {
        consumer_group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        queue_offset: i64 = "queueOffset",
        max_msg_nums: i32 = "maxMsgNums",
        sys_flag: i32 = "sysFlag",
        commit_offset: i64 = "commitOffset",
        suspend_timeout_millis: i64 = "suspendTimeoutMillis",
        subscription: Option<&'a str> = "subscription",
        sub_version: i64 = "subVersion",
        expression_type: Option<&'a str> = "expressionType",
    }
    /// Answer of a pull. Java: `PullMessageResponseHeader`.
    PullMessageAnswer {
        suggest_which_broker_id: i64 = "suggestWhichBrokerId",
        next_begin_offset: i64 = "nextBeginOffset",
        min_offset: i64 = "minOffset",
        max_offset: i64 = "maxOffset",
        topic_sys_flag: Option<i32> = "topicSysFlag",
        group_sys_flag: Option<i32> = "groupSysFlag",
        forbidden_type: Option<i32> = "forbiddenType",
    }
    /// 14. Java: `QueryConsumerOffsetRequestHeader`.
    QueryConsumerOffset ['a] {
        consumer_group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
    }
    /// 15. Java: `UpdateConsumerOffsetRequestHeader`.
    UpdateConsumerOffset ['a] {
        consumer_group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: Option<i32> = "queueId",
        commit_offset: Option<i64> = "commitOffset",
    }
    /// 29. Java: `SearchOffsetRequestHeader`.
    SearchOffset ['a] {
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        timestamp: i64 = "timestamp",
        boundary_type: Option<&'a str> = "boundaryType",
    }
    /// 30, 31, 32: one queue.
    QueueHeader ['a] {
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
    }
    /// Answer of 14, 29, 30, 31.
    OffsetAnswer {
        offset: Option<i64> = "offset",
    }
    /// Answer of 32.
    TimestampAnswer {
        timestamp: i64 = "timestamp",
    }
    /// 33. Java: `ViewMessageRequestHeader`.
    ViewMessage ['a] {
        topic: Option<&'a str> = "topic",
        offset: i64 = "offset",
    }
    /// 12. Java: `QueryMessageRequestHeader`.
    QueryMessage ['a] {
        topic: &'a str = "topic",
        key: &'a str = "key",
        max_num: i32 = "maxNum",
        begin_timestamp: i64 = "beginTimestamp",
        end_timestamp: i64 = "endTimestamp",
        index_type: Option<&'a str> = "indexType",
        unique_key_query: bool = "_UNIQUE_KEY_QUERY",
    }
    /// Answer of 12.
    QueryMessageAnswer {
        index_last_update_timestamp: i64 = "indexLastUpdateTimestamp",
        index_last_update_phyoffset: i64 = "indexLastUpdatePhyoffset",
    }
    /// 35. Java: `UnregisterClientRequestHeader`.
    UnregisterClient ['a] {
        client_id: &'a str = "clientID",
        producer_group: Option<&'a str> = "producerGroup",
        consumer_group: Option<&'a str> = "consumerGroup",
    }
    /// 36. Java: `ConsumerSendMsgBackRequestHeader`.
    SendMessageBack ['a] {
        offset: i64 = "offset",
        group: &'a str = "group",
        delay_level: i32 = "delayLevel",
        origin_msg_id: Option<&'a str> = "originMsgId",
        origin_topic: Option<&'a str> = "originTopic",
        unit_mode: bool = "unitMode",
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
    }
    /// 200050. Java: `PopMessageRequestHeader`.
    PopMessage ['a] {
        consumer_group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        max_msg_nums: i32 = "maxMsgNums",
        invisible_time: i64 = "invisibleTime",
        poll_time: i64 = "pollTime",
        born_time: i64 = "bornTime",
        init_mode: i32 = "initMode",
        exp_type: Option<&'a str> = "expType",
        exp: Option<&'a str> = "exp",
        order: bool = "order",
        attempt_id: Option<&'a str> = "attemptId",
    }
    /// Answer of 200050 and 200052. Java: `PopMessageResponseHeader`. The three texts are entries
    /// joined by `;`: `flag queueId startOffset`, `flag queueId offset,offset`, and former
    /// deliveries; flag is 0 for the topic itself, 1 and 2 for its retry topics.
    PopMessageAnswer ['a] {
        pop_time: i64 = "popTime",
        invisible_time: i64 = "invisibleTime",
        revive_qid: i32 = "reviveQid",
        rest_num: i64 = "restNum",
        start_offset_info: Option<&'a str> = "startOffsetInfo",
        msg_offset_info: Option<&'a str> = "msgOffsetInfo",
        order_count_info: Option<&'a str> = "orderCountInfo",
    }
    /// 200051. Java: `AckMessageRequestHeader`.
    AckMessage ['a] {
        consumer_group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        extra_info: &'a str = "extraInfo",
        offset: i64 = "offset",
    }
    /// 200053. Java: `ChangeInvisibleTimeRequestHeader`.
    ChangeInvisibleTime ['a] {
        consumer_group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        extra_info: &'a str = "extraInfo",
        offset: i64 = "offset",
        invisible_time: i64 = "invisibleTime",
        suspend: bool = "suspend",
    }
    /// Answer of 200053.
    ChangeInvisibleTimeAnswer {
        pop_time: i64 = "popTime",
        invisible_time: i64 = "invisibleTime",
        revive_qid: i32 = "reviveQid",
    }
    /// 200052, 200055. Java: `PeekMessageRequestHeader`, `PollingInfoRequestHeader`.
    GroupQueue ['a] {
        consumer_group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        max_msg_nums: Option<i32> = "maxMsgNums",
    }
    /// 200054. Java: `NotificationRequestHeader`.
    Notification ['a] {
        consumer_group: &'a str = "consumerGroup",
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        poll_time: i64 = "pollTime",
        born_time: i64 = "bornTime",
        order: bool = "order",
        attempt_id: Option<&'a str> = "attemptId",
        exp_type: Option<&'a str> = "expType",
        exp: Option<&'a str> = "exp",
    }
    /// Answer of 200054.
    NotificationAnswer {
        has_msg: bool = "hasMsg",
        polling_full: bool = "pollingFull",
    }
    /// Answer of 200055.
    PollingInfoAnswer {
        polling_num: i32 = "pollingNum",
    }
    /// 326. Java: `ReplyMessageRequestHeader`.
    ReplyMessage ['a] {
        producer_group: &'a str = "producerGroup",
        topic: &'a str = "topic",
        default_topic: &'a str = "defaultTopic",
        default_topic_queue_nums: i32 = "defaultTopicQueueNums",
        queue_id: i32 = "queueId",
        sys_flag: i32 = "sysFlag",
        born_timestamp: i64 = "bornTimestamp",
        flag: i32 = "flag",
        properties: Option<&'a str> = "properties",
        reconsume_times: Option<i32> = "reconsumeTimes",
        unit_mode: bool = "unitMode",
        born_host: &'a str = "bornHost",
        store_host: &'a str = "storeHost",
        store_timestamp: i64 = "storeTimestamp",
        broker_name: &'a str = "bname",
    }
    /// 370. Java: `RecallMessageRequestHeader`.
    RecallMessage ['a] {
        producer_group: Option<&'a str> = "producerGroup",
        topic: &'a str = "topic",
        recall_handle: Option<&'a str> = "recallHandle",
    }
    /// Answer of 370.
    RecallMessageAnswer ['a] {
        msg_id: &'a str = "msgId",
        region: &'a str = "MSG_REGION",
    }
    /// 37. Java: `EndTransactionRequestHeader`.
    EndTransaction ['a] {
        producer_group: &'a str = "producerGroup",
        tran_state_table_offset: i64 = "tranStateTableOffset",
        commit_log_offset: i64 = "commitLogOffset",
        commit_or_rollback: i32 = "commitOrRollback",
        from_transaction_check: bool = "fromTransactionCheck",
        msg_id: Option<&'a str> = "msgId",
        transaction_id: Option<&'a str> = "transactionId",
    }
    /// 39. Java: `CheckTransactionStateRequestHeader`.
    CheckTransaction ['a] {
        topic: &'a str = "topic",
        tran_state_table_offset: i64 = "tranStateTableOffset",
        commit_log_offset: i64 = "commitLogOffset",
        msg_id: Option<&'a str> = "msgId",
        transaction_id: Option<&'a str> = "transactionId",
        offset_msg_id: &'a str = "offsetMsgId",
        broker_name: &'a str = "bname",
    }
    /// 900001. Ours: which transactions are open.
    ListTransactions {
        from: Option<i64> = "from",
        max_nums: Option<i32> = "maxNums",
    }
    /// 900002. Ours: an operator decides a transaction.
    ResolveTransaction {
        half_offset: i64 = "halfOffset",
        commit_or_rollback: i32 = "commitOrRollback",
    }
    /// 900003. Ours: dead letters go on their way again.
    Redrive ['a] {
        consumer_group: &'a str = "consumerGroup",
        offset: Option<i64> = "offset",
        from: Option<i64> = "from",
        max_nums: Option<i32> = "maxNums",
        expression_type: Option<&'a str> = "expressionType",
        expression: Option<&'a str> = "expression",
    }
    /// 323. Java: `ResumeCheckHalfMessageRequestHeader`.
    ResumeCheck ['a] {
        topic: Option<&'a str> = "topic",
        msg_id: &'a str = "msgId",
    }
    /// 38, 40, 203, 208: a consumer group, and for 208 a topic.
    ConsumerGroup ['a] {
        consumer_group: &'a str = "consumerGroup",
        topic: Option<&'a str> = "topic",
    }
    /// 204.
    ProducerGroup ['a] {
        producer_group: &'a str = "producerGroup",
    }
    /// 17. Java: `CreateTopicRequestHeader`.
    CreateTopic ['a] {
        topic: &'a str = "topic",
        default_topic: Option<&'a str> = "defaultTopic",
        read_queue_nums: i32 = "readQueueNums",
        write_queue_nums: i32 = "writeQueueNums",
        perm: i32 = "perm",
        topic_filter_type: &'a str = "topicFilterType",
        topic_sys_flag: Option<i32> = "topicSysFlag",
        order: bool = "order",
        attributes: Option<&'a str> = "attributes",
        force: bool = "force",
    }
    /// 202, 215, 351 and the name server's 105, 217: a topic.
    TopicHeader ['a] {
        topic: &'a str = "topic",
        cluster_name: Option<&'a str> = "clusterName",
        accept_standard_json_only: bool = "acceptStandardJsonOnly",
    }
    /// 21.
    GetAllTopics ['a] {
        topic_seq: Option<i32> = "topicSeq",
        data_version: Option<&'a str> = "dataVersion",
        max_topic_num: Option<i32> = "maxTopicNum",
    }
    /// Answer of 21.
    GetAllTopicsAnswer {
        total_topic_num: i32 = "totalTopicNum",
    }
    /// 201.
    GetAllGroups ['a] {
        group_seq: Option<i32> = "groupSeq",
        data_version: Option<&'a str> = "dataVersion",
        max_group_num: Option<i32> = "maxGroupNum",
    }
    /// Answer of 201.
    GetAllGroupsAnswer {
        total_group_num: i32 = "totalGroupNum",
    }
    /// 26: the version of the configuration, JSON of a DataVersion.
    ConfigAnswer ['a] {
        version: &'a str = "version",
    }
    /// 207.
    DeleteGroup ['a] {
        group_name: &'a str = "groupName",
        clean_offset: bool = "cleanOffset",
    }
    /// 352.
    GroupHeader ['a] {
        group: &'a str = "group",
    }
    /// 100, 101, 102, 219.
    KvHeader ['a] {
        namespace: &'a str = "namespace",
        key: Option<&'a str> = "key",
        value: Option<&'a str> = "value",
    }
    /// Answer of 101.
    KvAnswer ['a] {
        value: Option<&'a str> = "value",
    }
    /// 103. Java: `RegisterBrokerRequestHeader`.
    RegisterBroker ['a] {
        broker_name: &'a str = "brokerName",
        broker_addr: &'a str = "brokerAddr",
        cluster_name: &'a str = "clusterName",
        ha_server_addr: Option<&'a str> = "haServerAddr",
        broker_id: i64 = "brokerId",
        heartbeat_timeout_millis: Option<i64> = "heartbeatTimeoutMillis",
        enable_acting_master: Option<bool> = "enableActingMaster",
        compressed: bool = "compressed",
        body_crc32: Option<i32> = "bodyCrc32",
        zone_name: Option<&'a str> = "__ZONE_NAME",
    }
    /// Answer of 103.
    RegisterBrokerAnswer ['a] {
        ha_server_addr: Option<&'a str> = "haServerAddr",
        master_addr: Option<&'a str> = "masterAddr",
    }
    /// 104, 322, 901, 904: a broker; fields that a code does not use are absent there.
    BrokerHeader ['a] {
        broker_name: &'a str = "brokerName",
        cluster_name: &'a str = "clusterName",
        broker_addr: Option<&'a str> = "brokerAddr",
        broker_id: Option<i64> = "brokerId",
    }
    /// Answer of 322.
    DataVersionAnswer {
        changed: bool = "changed",
    }
    /// 205, 327.
    BrokerName ['a] {
        broker_name: &'a str = "brokerName",
    }
    /// Answer of 205.
    WipedAnswer {
        wipe_topic_count: i32 = "wipeTopicCount",
    }
    /// Answer of 327.
    AddedAnswer {
        add_topic_count: i32 = "addTopicCount",
    }
    /// 224.
    ClusterHeader ['a] {
        cluster: &'a str = "cluster",
    }
    /// 905.
    MinBrokerIdChange ['a] {
        min_broker_id: Option<i64> = "minBrokerId",
        broker_name: Option<&'a str> = "brokerName",
        min_broker_addr: Option<&'a str> = "minBrokerAddr",
        offline_broker_addr: Option<&'a str> = "offlineBrokerAddr",
        ha_broker_addr: Option<&'a str> = "haBrokerAddr",
    }
    /// 300, 303, 343, 345: who consumes what.
    TopicGroup ['a] {
        topic: Option<&'a str> = "topic",
        group: Option<&'a str> = "group",
    }
    /// 222.
    ResetOffset ['a] {
        topic: &'a str = "topic",
        group: &'a str = "group",
        timestamp: i64 = "timestamp",
        is_force: bool = "isForce",
        queue_id: Option<i32> = "queueId",
        offset: Option<i64> = "offset",
    }
    /// 208. Java: `GetConsumeStatsRequestHeader`; the list is separated by semicolons.
    ConsumeStats ['a] {
        consumer_group: &'a str = "consumerGroup",
        topic: Option<&'a str> = "topic",
        topic_list: Option<&'a str> = "topicList",
    }
    /// 317. Java: `GetConsumeStatsInBrokerHeader`.
    OrderOnly {
        is_order: bool = "isOrder",
    }
    /// 308. Java: `QueryCorrectionOffsetHeader`; the filtered groups are separated by commas.
    CorrectionOffset ['a] {
        filter_groups: Option<&'a str> = "filterGroups",
        compare_group: &'a str = "compareGroup",
        topic: &'a str = "topic",
    }
    /// 314. Java: `CloneGroupOffsetRequestHeader`.
    CloneOffset ['a] {
        src_group: &'a str = "srcGroup",
        dest_group: &'a str = "destGroup",
        topic: Option<&'a str> = "topic",
        offline: bool = "offline",
    }
    /// 223. Java: `GetConsumerStatusRequestHeader`.
    ConsumerStatus ['a] {
        topic: &'a str = "topic",
        group: &'a str = "group",
        client_addr: Option<&'a str> = "clientAddr",
    }
    /// 315. Java: `ViewBrokerStatsDataRequestHeader`.
    StatsItem ['a] {
        stats_name: &'a str = "statsName",
        stats_key: &'a str = "statsKey",
    }
    /// 353. Java: `UpdateGroupForbiddenRequestHeader`; without `readable` nothing changes.
    GroupForbidden ['a] {
        group: &'a str = "group",
        topic: &'a str = "topic",
        readable: Option<bool> = "readable",
    }
    /// 307, 309.
    ClientOfGroup ['a] {
        consumer_group: &'a str = "consumerGroup",
        client_id: Option<&'a str> = "clientId",
        msg_id: Option<&'a str> = "msgId",
    }
    /// 321.
    QueryConsumeQueue ['a] {
        topic: &'a str = "topic",
        queue_id: i32 = "queueId",
        index: i64 = "index",
        count: i32 = "count",
        consumer_group: Option<&'a str> = "consumerGroup",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{self, Serialize};
    use crate::header::{Head, Header, Scratch, write_frame};

    #[test]
    fn long_and_short_names_are_the_same_request() {
        let send = SendMessage {
            producer_group: "p",
            topic: "t",
            default_topic: "TBW102",
            default_topic_queue_nums: 4,
            queue_id: -1,
            sys_flag: 0,
            born_timestamp: 1_700_000_000_000,
            flag: 0,
            properties: Some("A\u{1}b\u{2}"),
            reconsume_times: None,
            unit_mode: false,
            max_reconsume_times: Some(16),
            batch: true,
            broker_name: None,
        };
        for short in [false, true] {
            let mut bytes = Vec::new();
            write_frame(&mut bytes, &Head::request(310, 1, false), &send, short, |_| {});
            assert_eq!(bytes.windows(4).any(|w| w == b"\"e\":"), short);
            let (got, _) = frame::split(&bytes, 10_000).expect("ok").expect("whole");
            let mut scratch = Scratch::default();
            let header = Header::decode(got.serialize, got.header, &mut scratch).expect("header");
            assert_eq!(SendMessage::decode(&header.ext), Ok(send));
        }
    }

    #[test]
    fn missing_and_bad_fields_are_named() {
        let mut scratch = Scratch::default();
        let text = br#"{"code":30,"extFields":{"topic":"t","queueId":"x"}}"#;
        let header = Header::decode(Serialize::Json, text, &mut scratch).expect("header");
        let error = QueueHeader::decode(&header.ext).expect_err("bad number");
        assert_eq!(error.to_string(), "the field queueId is not a 32-bit number");
        let error = SearchOffset::decode(&header.ext).expect_err("bad");
        assert_eq!(error.field, "queueId");
        assert!(decode_as_all(&header.ext) > 0);
    }
}
