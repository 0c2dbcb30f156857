//! The broker's configuration: Java's keys in one table, and what follows from their values.

use base::config::{Row, Setting, Table, Warning};
use wire::codes::response;

/// Java's delay levels.
const DELAY_LEVELS: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";

/// Keys that cannot change at run time, whatever the caller. Java: `configBlackList`.
const BLACK_LIST: [&str; 3] = ["brokerConfigPath", "rocketmqHome", "configBlackList"];

/// How metrics are told. Java: `MetricsExporterType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsExporter {
    /// Not at all.
    Disable,
    /// On an HTTP port, for Prometheus.
    Prom,
}

impl Setting for MetricsExporter {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_uppercase().as_str() {
            "DISABLE" => Ok(MetricsExporter::Disable),
            "PROM" => Ok(MetricsExporter::Prom),
            "OTLP_GRPC" | "LOG" => Err("only PROM is served yet, or DISABLE".into()),
            _ => Err("PROM or DISABLE is wanted".into()),
        }
    }
    fn show(&self) -> String {
        if *self == MetricsExporter::Prom { "PROM".into() } else { "DISABLE".into() }
    }
}

/// When a message counts as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushDiskType {
    /// In the page cache.
    Async,
    /// On the disk.
    Sync,
}

impl Setting for FlushDiskType {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_uppercase().as_str() {
            "ASYNC_FLUSH" => Ok(FlushDiskType::Async),
            "SYNC_FLUSH" => Ok(FlushDiskType::Sync),
            _ => Err("ASYNC_FLUSH or SYNC_FLUSH is wanted".into()),
        }
    }
    fn show(&self) -> String {
        if *self == FlushDiskType::Sync { "SYNC_FLUSH".into() } else { "ASYNC_FLUSH".into() }
    }
}

base::config! {
    /// Settings of a broker.
    BrokerRows {
        "brokerClusterName" broker_cluster_name: String = "DefaultCluster".into(), Cold,
            "Cluster that the broker belongs to";
        "brokerName" broker_name: String = "broker-a".into(), Cold,
            "Name of the broker; master and slaves share it";
        "brokerId" broker_id: i64 = 0, Cold,
            "0 is the master";
        "brokerIP1" broker_ip1: String = String::new(), Cold,
            "Address for clients; empty: each client gets the address on which it reached us";
        "listenPort" listen_port: u16 = 10911, Cold,
            "Port of clients";
        "bindAddress" bind_address: String = "0.0.0.0".into(), Cold,
            "Address to listen on";
        "haListenPort" ha_listen_port: u16 = 10912, Cold,
            "Replication port that is announced; not listened on yet";
        "namesrvAddr" namesrv_addr: String = String::new(), Hot,
            "Name servers, separated by semicolons";
        "registerNameServerPeriod" register_name_server_period: i32 = 30_000, Hot,
            "Milliseconds between registrations, 10 s to 60 s";
        "brokerPermission" broker_permission: i32 [0..=7] = 6, Hot,
            "Permission bits of the broker: 4 read, 2 write";
        "autoCreateTopicEnable" auto_create_topic_enable: bool = true, Hot,
            "Whether a send to an unknown topic creates it";
        "autoCreateSubscriptionGroup" auto_create_subscription_group: bool = true, Hot,
            "Whether an unknown consumer group is created";
        "defaultTopicQueueNums" default_topic_queue_nums: i32 = 8, Cold,
            "Queues of the template of created topics";
        "clusterTopicEnable" cluster_topic_enable: bool = true, Cold,
            "Whether the topic named like the cluster can be used";
        "brokerTopicEnable" broker_topic_enable: bool = true, Cold,
            "Whether the topic named like the broker can be used";
        "traceTopicEnable" trace_topic_enable: bool = false, Cold,
            "Whether the trace topic exists";
        "msgTraceTopicName" msg_trace_topic_name: String = "RMQ_SYS_TRACE_TOPIC".into(), Cold,
            "Name of the trace topic";
        "regionId" region_id: String = "DefaultRegion".into(), Hot,
            "Region that every message carries";
        "traceOn" trace_on: bool = true, Hot,
            "Whether clients trace their messages";
        "maxMessageSize" max_message_size: i32 [1..=1_073_741_824] = 4_194_304, Hot,
            "Largest body in bytes";
        "messageDelayLevel" message_delay_level: String = DELAY_LEVELS.into(), Cold,
            "Durations of the delay levels: numbers with s, m, h or d";
        "longPollingEnable" long_polling_enable: bool = true, Hot,
            "Whether pulls wait as long as they ask for";
        "shortPollingTimeMills" short_polling_time_mills: i32 = 1000, Hot,
            "How long pulls wait when long polling is off";
        "litePullMessageEnable" lite_pull_message_enable: bool = true, Hot,
            "Whether code 361 is served";
        "maxTransferBytesOnMessageInMemory" max_transfer_bytes_on_message_in_memory: i32 =
            262_144, Hot,
            "Most bytes of a pull from memory";
        "maxTransferCountOnMessageInMemory" max_transfer_count_on_message_in_memory: i32 = 32, Hot,
            "Most messages of a pull from memory";
        "maxTransferBytesOnMessageInDisk" max_transfer_bytes_on_message_in_disk: i32 = 65_536, Hot,
            "Most bytes of a pull from disk";
        "maxTransferCountOnMessageInDisk" max_transfer_count_on_message_in_disk: i32 = 8, Hot,
            "Most messages of a pull from disk";
        "enablePropertyFilter" enable_property_filter: bool = true, Hot,
            "Whether consumers may filter by SQL92 expressions; off in the original";
        "maxMsgsNumBatch" max_msgs_num_batch: i32 = 64, Hot,
            "Most results of a query by key";
        "defaultQueryMaxNum" default_query_max_num: i32 = 32, Hot,
            "Most results of a query by unique id";
        "flushDiskType" flush_disk_type: FlushDiskType = FlushDiskType::Async, Cold,
            "ASYNC_FLUSH acknowledges from the page cache, SYNC_FLUSH from the disk";
        "flushIntervalCommitLog" flush_interval_commit_log: i32 [1..=3_600_000] = 500, Cold,
            "Milliseconds between disk syncs with ASYNC_FLUSH";
        "syncFlushTimeout" sync_flush_timeout: i32 = 5000, Hot,
            "Milliseconds that a send waits for the disk with SYNC_FLUSH";
        "mappedFileSizeCommitLog" mapped_file_size_commit_log: i64 [65_536..=1_073_741_824] =
            1_073_741_824, Cold,
            "Bytes of a commit log file; an existing store keeps its own";
        "mappedFileSizeConsumeQueue" mapped_file_size_consume_queue: i32 [20..=1_073_741_820] =
            6_000_000, Cold,
            "Bytes of a consume queue file, rounded up to entries of 20";
        "messageIndexEnable" message_index_enable: bool = true, Cold,
            "Whether messages are indexed by key";
        "storePathRootDir" store_path_root_dir: String = String::new(), Cold,
            "Directory of the store; empty: store under the data directory";
        "storePathCommitLog" store_path_commit_log: String = String::new(), Cold,
            "Directory of the commit log; empty: commitlog under the store";
        "fileReservedTime" file_reserved_time: i32 = 72, Cold,
            "Hours that log files are kept; negative: never deleted by age";
        "deleteWhen" delete_when: String = "04".into(), Cold,
            "Hours of the day in which expired files are deleted, separated by semicolons";
        "diskMaxUsedSpaceRatio" disk_max_used_space_ratio: i32 = 75, Cold,
            "Percent of the disk in use from which on expired files are deleted at any hour";
        "minDiskFreeBytes" min_disk_free_bytes: i64 [0..=2_147_483_647] = 33_554_432, Cold,
            "With fewer free bytes messages are refused and the oldest log files go. Ours";
        "rejectTransactionMessage" reject_transaction_message: bool = false, Hot,
            "Whether transactional sends are refused";
        "transactionTimeOut" transaction_time_out: i64 [0..=2_147_483_647] = 6000, Hot,
            "Milliseconds before the first question about an open transaction";
        "transactionCheckInterval" transaction_check_interval: i64 [1..=2_147_483_647] = 30_000,
            Hot, "Milliseconds between questions about an open transaction";
        "transactionCheckMax" transaction_check_max: i32 [0..=65_535] = 15, Hot,
            "Questions after which an open transaction is parked in TRANS_CHECK_MAX_TIME_TOPIC";
        "maxOpenTransactions" max_open_transactions: i32 [1..=100_000_000] = 1_000_000, Hot,
            "Limit: transactions open at the same time; more half messages are refused. Ours";
        "timerWheelEnable" timer_wheel_enable: bool = true, Hot,
            "Whether messages for any time are taken";
        "timerMaxDelaySec" timer_max_delay_sec: i64 [0..=2_147_483_647] = 259_200, Hot,
            "Seconds that a message may wait at most";
        "maxPendingTimers" max_pending_timers: i32 [1..=1_000_000_000] = 10_000_000, Hot,
            "Limit: messages that wait for their time; more are refused. Ours";
        "enableLmq" enable_lmq: bool = false, Cold,
            "Whether light queues (%LMQ%...) may be read and get offsets";
        "enableMultiDispatch" enable_multi_dispatch: bool = false, Cold,
            "Whether messages are shown in the light queues that they name";
        "enableLmqQuota" enable_lmq_quota: bool = false, Hot,
            "Whether maxLmqConsumeQueueNum counts";
        "maxLmqConsumeQueueNum" max_lmq_consume_queue_num: i32 [1..=10_000_000] = 20_000, Hot,
            "Limit: light queues";
        "clearRetryTopicWhenDeleteTopic" clear_retry_topic_when_delete_topic: bool = true, Hot,
            "Whether the retry topics of pops are deleted with their topic";
        "popFromRetryProbability" pop_from_retry_probability: i32 [0..=100] = 20, Hot,
            "Percent of pops that look into the group's retry topic first";
        "popFromRetryProbabilityForPriority" pop_from_retry_probability_for_priority:
            i32 [0..=100] = 0, Hot,
            "The same, for topics with priorities";
        "priorityOrderAsc" priority_order_asc: bool = true, Hot,
            "Whether a pop over all queues walks from the highest queue down";
        "enableRetryTopicV2" enable_retry_topic_v2: bool = false, Hot,
            "Whether retry topics of pops are named %RETRY%group+topic instead of _";
        "retrieveMessageFromPopRetryTopicV1" retrieve_message_from_pop_retry_topic_v1:
            bool = true, Hot,
            "Whether retry topics with the other name are read as well";
        "popPollingSize" pop_polling_size: i32 [1..=1_000_000] = 1024, Hot,
            "Limit: pops that wait on one group, topic and queue";
        "maxPopPollingSize" max_pop_polling_size: i32 [1..=100_000_000] = 100_000, Hot,
            "Limit: pops that wait in all";
        "initPopOffsetByCheckMsgInMem" init_pop_offset_by_check_msg_in_mem: bool = true, Hot,
            "Whether a new group pops a young queue from its beginning in any mode";
        "enablePopMessageThreshold" enable_pop_message_threshold: bool = false, Hot,
            "Whether popInflightMessageThreshold counts";
        "popInflightMessageThreshold" pop_inflight_message_threshold:
            i32 [1..=100_000_000] = 10_000, Hot,
            "Limit: messages of a queue that a group has in flight";
        "maxPopInFlight" max_pop_in_flight: i32 [1..=1_000_000_000] = 10_000_000, Hot,
            "Limit: popped and not settled messages of all groups; then pops find nothing. Ours";
        "defaultMessageRequestMode" default_message_request_mode: String = "PULL".to_owned(), Hot,
            "How groups consume without setConsumeMode, if they ask the broker: PULL or POP";
        "defaultPopShareQueueNum" default_pop_share_queue_num: i32 = -1, Hot,
            "popShareQueueNum for them";
        "serverLoadBalancerEnable" server_load_balancer_enable: bool = true, Hot,
            "Whether the broker allots queues to clients that ask; else each gets all";
        "recallMessageEnable" recall_message_enable: bool = true, Hot,
            "Whether waiting messages may be recalled; off in the original";
        "maxClientQuestions" max_client_questions: i32 [1..=10_000_000] = 65_536, Hot,
            "Limit: questions that wait for a client's answer (307, 309, replies). Ours";
        "storeReplyMessageEnable" store_reply_message_enable: bool = true, Hot,
            "Whether replies of the request-reply model are stored, too";
        "useServerSideResetOffset" use_server_side_reset_offset: bool = true, Hot,
            "Whether a reset of offsets is kept here for the next pull; off: clients are told";
        "flushConsumerOffsetInterval" flush_consumer_offset_interval: i32 = 5000, Hot,
            "Milliseconds between saves of consumer offsets";
        "channelExpiredTimeout" channel_expired_timeout: i64 = 120_000, Hot,
            "Milliseconds without a heartbeat after which a client is dropped";
        "serverChannelMaxIdleTimeSeconds" server_channel_max_idle_time_seconds: i32 [1..=86_400] =
            120, Cold,
            "Seconds without a byte after which a connection is closed";
        "sendThreadPoolQueueCapacity" send_thread_pool_queue_capacity: i32 = 10_000, Hot,
            "Limit: sends that wait for the disk at once";
        "pullThreadPoolQueueCapacity" pull_thread_pool_queue_capacity: i32 = 100_000, Hot,
            "Limit: pulls parked at once";
        "metricsExporterType" metrics_exporter_type: MetricsExporter =
            MetricsExporter::Disable, Cold,
            "PROM tells metrics on an HTTP port, DISABLE does not";
        "metricsPromExporterHost" metrics_prom_exporter_host: String = String::new(), Cold,
            "Address of that port; empty: brokerIP1, else bindAddress";
        "metricsPromExporterPort" metrics_prom_exporter_port: u16 = 5557, Cold,
            "That port";
        "metricsLabel" metrics_label: String = String::new(), Cold,
            "Labels for all metrics: name:value, separated by commas";
        "estimateAccumulation" estimate_accumulation: bool = true, Hot,
            "Whether lag counts only what a group's filter of tags would pass";
        "maxConnections" max_connections: i32 [1..=1_000_000] = 20_000, Cold,
            "Limit: connections. Ours";
        "maxUnsentBytes" max_unsent_bytes: i32 [4096..=1_073_741_824] = 1_048_576, Cold,
            "Limit: unsent answers of a connection from which on it is not read. Ours";
        "maxFrameBytes" max_frame_bytes: i32 [1024..=67_108_864] = 16_777_216, Cold,
            "Limit: bytes of a frame. Ours";
        "tailRingBytes" tail_ring_bytes: i32 [0..=1_073_741_824] = 16_777_216, Cold,
            "Newest bytes of the log kept in memory. Ours";
        "loops" loops: i32 [0..=256] = 0, Cold,
            "Threads of the broker's loop; 0: by the processors. Ours";
    }
}

/// Settings of a broker with what is derived from them.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerConfig {
    rows: BrokerRows,
    delay_levels_ms: Vec<i64>,
    delete_hours: Vec<u8>,
    addresses: Vec<String>,
    metric_labels: Vec<(String, String)>,
}

impl std::ops::Deref for BrokerConfig {
    type Target = BrokerRows;
    fn deref(&self) -> &BrokerRows {
        &self.rows
    }
}

impl Default for BrokerConfig {
    fn default() -> Self {
        let rows = BrokerRows::default();
        let delay_levels_ms = parse_levels(&rows.message_delay_level).unwrap_or_default();
        BrokerConfig {
            rows,
            delay_levels_ms,
            delete_hours: vec![4],
            addresses: Vec::new(),
            metric_labels: Vec::new(),
        }
    }
}

impl Table for BrokerConfig {
    const ALIASES: &'static [(&'static str, &'static str)] = &[
        ("mapedFileSizeCommitLog", "mappedFileSizeCommitLog"),
        ("mapedFileSizeConsumeQueue", "mappedFileSizeConsumeQueue"),
    ];
    const ACCEPTED: &'static [(&'static str, &'static str)] = crate::config_keys::ACCEPTED;

    fn set(&mut self, key: &str, text: &str) -> Option<Result<(), String>> {
        self.rows.set_row(key, text)
    }

    fn rows(&self) -> Vec<Row> {
        self.rows.all_rows()
    }

    fn refuse(key: &str, text: &str) -> Option<String> {
        let on = text.eq_ignore_ascii_case("true");
        let reason = match key {
            "brokerRole" if text.eq_ignore_ascii_case("SLAVE") => "slaves are not served yet",
            "brokerRole" if text.eq_ignore_ascii_case("SYNC_MASTER") => {
                "replication is not served yet, so no send could wait for a slave; use ASYNC_MASTER"
            }
            "storeType" if !text.is_empty() && !text.eq_ignore_ascii_case("default") => {
                "only the file store is served; use default"
            }
            "enableDLegerCommitLog" | "enableControllerMode" if on => {
                "automatic failover is not served yet"
            }
            "aclEnable" | "authenticationEnabled" | "authorizationEnabled" if on => {
                "access control is not served yet: starting without it would let everybody in"
            }
            _ => return None,
        };
        Some(reason.to_owned())
    }

    fn settle(&mut self) -> Result<Vec<String>, (&'static str, String)> {
        let mut warnings = Vec::new();
        let rows = &mut self.rows;
        let size = rows.mapped_file_size_consume_queue;
        if size % 20 != 0 {
            rows.mapped_file_size_consume_queue = (size / 20 + 1) * 20;
            warnings.push(format!(
                "mappedFileSizeConsumeQueue={size} is no multiple of 20 and becomes {}",
                rows.mapped_file_size_consume_queue
            ));
        }
        let ratio = rows.disk_max_used_space_ratio;
        if !(10..=95).contains(&ratio) {
            rows.disk_max_used_space_ratio = ratio.clamp(10, 95);
            warnings.push(format!(
                "diskMaxUsedSpaceRatio={ratio} becomes {}",
                rows.disk_max_used_space_ratio
            ));
        }
        if rows.default_topic_queue_nums < 1 {
            let queues = std::mem::replace(&mut rows.default_topic_queue_nums, 1);
            warnings.push(format!("defaultTopicQueueNums={queues} becomes 1: topics need a queue"));
        }
        rows.broker_ip1 = address(&rows.broker_ip1).map_err(|problem| ("brokerIP1", problem))?;
        let (hours, bad) = parse_hours(&rows.delete_when);
        warnings.extend(
            bad.into_iter().map(|word| format!("deleteWhen: {word:?} is no hour and is ignored")),
        );
        self.delete_hours = hours;
        self.delay_levels_ms = parse_levels(&rows.message_delay_level)
            .map_err(|problem| ("messageDelayLevel", problem))?;
        let (addresses, told) =
            parse_addresses(&rows.namesrv_addr).map_err(|problem| ("namesrvAddr", problem))?;
        warnings.extend(told);
        self.addresses = addresses;
        let (labels, bad) = parse_labels(&self.rows.metrics_label);
        let odd = |part| format!("metricsLabel: {part:?} is not name:value and is left out");
        warnings.extend(bad.into_iter().map(odd));
        self.metric_labels = labels;
        Ok(warnings)
    }
}

/// Why a change at run time is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateRefused {
    /// Response code.
    pub code: i32,
    /// Text for a person.
    pub remark: String,
}

impl BrokerConfig {
    /// Reads a file's text over the defaults.
    pub fn read(
        file: &str,
        text: &str,
    ) -> Result<(BrokerConfig, Vec<Warning>), base::config::ConfigError> {
        BrokerConfig::load(file, text)
    }

    /// Durations of the delay levels, level 1 first.
    pub fn delay_levels_ms(&self) -> &[i64] {
        &self.delay_levels_ms
    }

    /// Hours in which expired files are deleted.
    pub fn delete_hours(&self) -> &[u8] {
        &self.delete_hours
    }

    /// Name servers as `host:port`.
    pub fn namesrv_addresses(&self) -> Vec<String> {
        self.addresses.clone()
    }

    /// Labels that every metric gets.
    pub fn metric_labels(&self) -> &[(String, String)] {
        &self.metric_labels
    }

    /// Whether sends wait for the disk.
    pub fn is_sync_flush(&self) -> bool {
        self.rows.flush_disk_type == FlushDiskType::Sync
    }

    /// Sets one value from outside the file, such as a command line option.
    pub fn put(&mut self, key: &'static str, text: &str) -> Result<(), (&'static str, String)> {
        self.set(key, text).unwrap_or_else(|| Err("no such key".into())).map_err(|e| (key, e))?;
        self.settle().map(drop)
    }

    /// Changes settings at run time and returns those that changed, as they are to be saved.
    /// Stricter than Java, which answers success to unknown keys and to values that do not parse:
    /// here nothing is applied then.
    pub fn update(&mut self, text: &str) -> Result<Vec<(String, String)>, UpdateRefused> {
        let refuse = |code, remark: String| UpdateRefused { code, remark };
        let entries = base::properties_file::parse(text)
            .map_err(|e| refuse(response::SYSTEM_ERROR, e.to_string()))?;
        let mut next = self.clone();
        let mut changed = Vec::new();
        for entry in entries {
            let key = entry.key.as_str();
            if BLACK_LIST.contains(&key) {
                let text = "Can not update config in black list.";
                return Err(refuse(response::NO_PERMISSION, text.to_owned()));
            }
            let problem =
                match (BrokerConfig::refuse(key, &entry.value), next.set(key, &entry.value)) {
                    (Some(reason), _) => Some(reason),
                    (None, Some(Err(problem))) => Some(problem),
                    (None, None) if !Self::ACCEPTED.iter().any(|(known, _)| *known == key) => {
                        Some("unknown key".to_owned())
                    }
                    _ => None,
                };
            if let Some(problem) = problem {
                let text = format!("{key}={}: {problem}; nothing was changed", entry.value);
                return Err(refuse(response::SYSTEM_ERROR, text));
            }
            changed.push((entry.key, entry.value));
        }
        next.settle().map_err(|(key, problem)| {
            refuse(response::SYSTEM_ERROR, format!("{key}: {problem}; nothing was changed"))
        })?;
        *self = next;
        Ok(changed)
    }
}

/// `1s 5m 2h 7d` as milliseconds.
fn parse_levels(text: &str) -> Result<Vec<i64>, String> {
    let word = |word: &str| {
        let unit = match word.chars().last() {
            Some('s') => 1000,
            Some('m') => 60_000,
            Some('h') => 3_600_000,
            Some('d') => 86_400_000,
            _ => return None,
        };
        let number: i64 = word[..word.len() - 1].parse().ok()?;
        number.checked_mul(unit).filter(|ms| *ms >= 0)
    };
    let levels: Result<Vec<i64>, String> = text
        .split_whitespace()
        .map(|w| {
            word(w).ok_or_else(|| format!("{w:?} is no duration; write numbers with s, m, h or d"))
        })
        .collect();
    levels
        .and_then(|l| if l.is_empty() { Err("at least one level is wanted".into()) } else { Ok(l) })
}

/// Labels of `name:value,name:value`, and the parts that are none.
fn parse_labels(text: &str) -> (Vec<(String, String)>, Vec<String>) {
    let is_name = |name: &str| {
        !name.starts_with(|c: char| c.is_ascii_digit())
            && !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let (mut labels, mut bad) = (Vec::new(), Vec::new());
    for part in text.split(',').filter(|part| !part.is_empty()) {
        match part.split_once(':') {
            Some((name, value)) if is_name(name) && !value.contains(':') => {
                labels.push((name.to_owned(), value.to_owned()));
            }
            _ => bad.push(part.to_owned()),
        }
    }
    (labels, bad)
}

/// Hours of `04;16`, and the words that are none.
fn parse_hours(text: &str) -> (Vec<u8>, Vec<String>) {
    let mut hours = Vec::new();
    let mut bad = Vec::new();
    for word in text.split(';').map(str::trim).filter(|word| !word.is_empty()) {
        match word.parse::<u8>() {
            Ok(hour) if hour < 24 => hours.push(hour),
            _ => bad.push(word.to_owned()),
        }
    }
    (hours, bad)
}

/// An address without brackets and scope; host names stay.
fn address(text: &str) -> Result<String, String> {
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    let bare = bare.split('%').next().unwrap_or_default();
    if bare.contains(':') && bare.parse::<std::net::Ipv6Addr>().is_err() {
        return Err(format!("{text:?} is no address; the port is set by listenPort"));
    }
    if bare.parse::<std::net::IpAddr>().is_ok() || bare.is_empty() {
        return Ok(bare.to_owned());
    }
    // A host name is resolved once: ids and routes carry numbers.
    let resolved = std::net::ToSocketAddrs::to_socket_addrs(&(bare, 0))
        .map_err(|e| format!("{bare:?} cannot be resolved: {e}"))?
        .next()
        .ok_or_else(|| format!("{bare:?} has no address"))?;
    Ok(resolved.ip().to_string())
}

/// `host:port` parts of a list, with what its writer should know.
fn parse_addresses(text: &str) -> Result<(Vec<String>, Option<String>), String> {
    let comma = text.contains(',');
    let mut addresses = Vec::new();
    for part in text.split([';', ',']).map(str::trim).filter(|part| !part.is_empty()) {
        if part.contains("://") {
            return Err(format!("{part:?} is a web address; write host:port"));
        }
        let (host, port) = part.rsplit_once(':').ok_or_else(|| format!("{part:?} has no port"))?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(format!("{part:?} is not host:port"));
        }
        addresses.push(part.to_owned());
    }
    let told = comma.then(|| "namesrvAddr: commas are taken as semicolons".to_owned());
    Ok((addresses, told))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str) -> Result<(BrokerConfig, Vec<String>), String> {
        let path = format!("{}/../../tests/cases/configs/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("case file");
        match BrokerConfig::load(name, &text) {
            Ok((config, warnings)) => Ok((config, warnings.into_iter().map(|w| w.text).collect())),
            Err(error) => Err(error.to_string()),
        }
    }

    fn load(text: &str) -> Result<BrokerConfig, String> {
        BrokerConfig::load("test", text).map(|(config, _)| config).map_err(|e| e.to_string())
    }

    #[test]
    fn b01_blanks_behind_values() {
        let (config, _) = case("01-spaces.conf").expect("starts");
        assert_eq!((config.broker_name.as_str(), config.listen_port), ("broker_a-1", 21911));
        assert_eq!((config.file_reserved_time, config.max_message_size), (48, 65_536));
        assert!(!config.auto_create_topic_enable && config.is_sync_flush());
        assert_eq!(config.namesrv_addresses(), ["127.0.0.1:21876", "127.0.0.1:21877"]);
    }

    #[test]
    fn b31_names_of_old_releases() {
        let (config, warnings) = case("02-old-names.conf").expect("starts");
        assert_eq!(config.mapped_file_size_commit_log, 16_777_216);
        assert_eq!(config.mapped_file_size_consume_queue, 300_000);
        assert_eq!(config.delete_hours(), [3, 4, 5]);
        assert_eq!(config.store_path_commit_log, "./data/other-disk/commitlog");
        assert!(warnings.iter().any(|w| w.contains("mapedFileSizeCommitLog")));
    }

    #[test]
    fn separators_comments_and_doubles() {
        let (config, warnings) = case("03-separators.conf").expect("starts");
        assert_eq!((config.broker_name.as_str(), config.broker_id), ("broker-colon", 0));
        assert_eq!(config.namesrv_addresses().len(), 2);
        assert_eq!(
            (config.delay_levels_ms().len(), config.delay_levels_ms()[20]),
            (21, 604_800_000)
        );
        assert_eq!(config.store_path_root_dir, "data:store");
        assert!(config.auto_create_topic_enable);
        for part in ["unknownSetting", "is autoCreateTopicEnable", "brokerId is set again"] {
            assert!(warnings.iter().any(|w| w.contains(part)), "{part}: {warnings:?}");
        }
    }

    #[test]
    fn windows_paths_are_refused_with_file_line_and_key() {
        let error = case("04-windows.properties").expect_err("refused");
        assert!(
            error.starts_with("04-windows.properties: line 6, key storePathRootDir"),
            "{error}"
        );
        let fixed =
            load("flushDiskType=async_flush\nstorePathRootDir=D:/rmq/store").expect("starts");
        assert!(!fixed.is_sync_flush());
    }

    #[test]
    fn b42_limits_are_kept_or_said() {
        let (config, warnings) = case("06-levels-and-limits.conf").expect("starts");
        assert_eq!(config.mapped_file_size_consume_queue, 300_020);
        assert_eq!((config.disk_max_used_space_ratio, config.default_topic_queue_nums), (95, 1));
        assert_eq!((config.file_reserved_time, config.broker_permission), (-1, 4));
        assert!(config.delete_hours().is_empty());
        assert_eq!(config.delay_levels_ms(), [1000, 2000, 3000, 60_000, 3_600_000, 86_400_000]);
        for key in ["mappedFileSizeConsumeQueue", "diskMax", "deleteWhen", "defaultTopicQueueNums"]
        {
            assert!(warnings.iter().any(|w| w.contains(key)), "{key}: {warnings:?}");
        }
    }

    #[test]
    fn b38_name_server_addresses() {
        assert_eq!(
            load("namesrvAddr=a_b:1; ;c:2;").expect("ok").namesrv_addresses(),
            ["a_b:1", "c:2"]
        );
        assert_eq!(load("namesrvAddr=a:1,b:2").expect("ok").namesrv_addresses().len(), 2);
        for bad in ["http://127.0.0.1:9876", "a", "a:", ":1", "a:b"] {
            let error = load(&format!("namesrvAddr={bad}")).expect_err(bad);
            assert!(error.contains("namesrvAddr"), "{error}");
        }
    }

    #[test]
    fn b37_addresses_lose_brackets_and_scope() {
        for (text, ip) in [("::1", "::1"), ("[::1]", "::1"), ("fe80::1%eth0", "fe80::1"), ("", "")]
        {
            assert_eq!(load(&format!("brokerIP1={text}")).expect("ok").broker_ip1, ip);
        }
        assert!(load("brokerIP1=10.0.0.1:10911").is_err());
    }

    #[test]
    fn b51_updates_are_all_or_nothing() {
        let mut config = BrokerConfig::default();
        for bad in
            ["unknown=1", "fileReservedTime=abc", "fileReservedTime=99999999999", "traceOn=yes"]
        {
            let refused = config.update(&format!("maxMsgsNumBatch=7\n{bad}")).expect_err(bad);
            assert!(refused.remark.contains(bad.split('=').next().unwrap_or_default()));
        }
        assert_eq!(config.update("brokerConfigPath=/x").expect_err("black").code, 16);
        assert_eq!(config, BrokerConfig::default());
        let changed = config.update("fileReservedTime=48 ").expect("ok");
        assert_eq!(changed, [("fileReservedTime".to_owned(), "48".to_owned())]);
        assert!(config.update("").expect("empty").is_empty());
    }

    #[test]
    fn unsafe_pretences_are_refused() {
        for bad in [
            "brokerRole=SLAVE",
            "aclEnable=true",
            "storeType=defaultRocksDB",
            "listenPort=99999",
            "autoCreateTopicEnable=maybe",
            "messageDelayLevel=1s 5x",
        ] {
            let error = load(bad).expect_err(bad);
            assert!(error.starts_with("test: line 1, key "), "{error}");
        }
        assert!(
            load("brokerRole=ASYNC_MASTER\naclEnable=false\nuseEpollNativeSelector=true").is_ok()
        );
    }
}
