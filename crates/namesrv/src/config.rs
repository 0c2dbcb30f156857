//! The name server's configuration. Java: `NamesrvConfig`, `NettyServerConfig`.

use base::config::{Row, Table};

use crate::routes::RouteOptions;

base::config! {
    /// Settings of a name server.
    NamesrvConfig {
        "listenPort" listen_port: u16 = 9876, Cold, "Port";
        "bindAddress" bind_address: String = "0.0.0.0".into(), Cold, "Address to listen on";
        "kvConfigPath" kv_config_path: String = String::new(), Cold,
            "File of the KV configuration; empty: namesrv/kvConfig.json under the data directory";
        "configStorePath" config_store_path: String = String::new(), Cold,
            "File that changes at run time are saved to; empty: the file given with -c";
        "orderMessageEnable" order_message_enable: bool = false, Hot,
            "Whether routes carry the queue list of ordered topics";
        "returnOrderTopicConfigToBroker" return_order_topic_config_to_broker: bool = true, Hot,
            "Whether brokers get the list of ordered topics when they register";
        "supportActingMaster" support_acting_master: bool = false, Hot,
            "Whether the smallest slave is shown as master while there is none";
        "enableAllTopicList" enable_all_topic_list: bool = true, Hot, "Whether 206 is served";
        "enableTopicList" enable_topic_list: bool =
            true, Hot, "Whether 224, 304, 311 to 313 are served";
        "notifyMinBrokerIdChanged" notify_min_broker_id_changed: bool = false, Hot,
            "Whether brokers are told that the smallest id of their name changed";
        "needWaitForService" need_wait_for_service: bool = false, Cold,
            "Whether routes are refused for a while after the start";
        "waitSecondsForService" wait_seconds_for_service: i32 = 45, Cold, "How long that is";
        "deleteTopicWithBrokerRegistration" delete_topic_with_broker_registration: bool =
            false, Hot,
            "Whether a topic that a broker does not list any more leaves its routes";
        "scanNotActiveBrokerInterval" scan_not_active_broker_interval: i64 [100 ..= 3_600_000] =
            5000, Cold,
            "Milliseconds between looks for silent brokers";
        "serverChannelMaxIdleTimeSeconds" server_channel_max_idle_time_seconds: i32 [1 ..= 86_400] =
            120, Cold,
            "Seconds without a byte after which a connection is closed";
        "maxConnections" max_connections: i32 [1 ..= 1_000_000] =
            20_000, Cold, "Limit: connections. Ours";
    }
}

impl Table for NamesrvConfig {
    const ALIASES: &'static [(&'static str, &'static str)] = &[];
    const ACCEPTED: &'static [(&'static str, &'static str)] = &[
        ("clientRequestThreadPoolNums", "8"),
        ("clientRequestThreadPoolQueueCapacity", "50000"),
        ("clusterTest", "false"),
        ("configBlackList", "configBlackList;configStorePath;kvConfigPath"),
        ("defaultThreadPoolNums", "16"),
        ("defaultThreadPoolQueueCapacity", "10000"),
        ("enableControllerInNamesrv", "false"),
        ("enableShutdownGracefully", "false"),
        ("productEnvName", "center"),
        ("rocketmqHome", ""),
        ("serverAsyncSemaphoreValue", "64"),
        ("serverCallbackExecutorThreads", "0"),
        ("serverNettyWorkerGroupEnable", "true"),
        ("serverOnewaySemaphoreValue", "256"),
        ("serverPooledByteBufAllocatorEnable", "true"),
        ("serverSelectorThreads", "3"),
        ("serverSocketBacklog", "1024"),
        ("serverSocketRcvBufSize", "0"),
        ("serverSocketSndBufSize", "0"),
        ("serverWorkerThreads", "8"),
        ("shutdownWaitTimeSeconds", "30"),
        ("unRegisterBrokerQueueCapacity", "3000"),
        ("useEpollNativeSelector", "false"),
        ("writeBufferHighWaterMark", "0"),
        ("writeBufferLowWaterMark", "0"),
    ];

    fn set(&mut self, key: &str, text: &str) -> Option<Result<(), String>> {
        self.set_row(key, text)
    }

    fn rows(&self) -> Vec<Row> {
        self.all_rows()
    }

    fn refuse(key: &str, text: &str) -> Option<String> {
        let on = text.eq_ignore_ascii_case("true");
        (key == "enableControllerInNamesrv" && on)
            .then(|| "the controller is not served yet".to_owned())
    }
}

impl NamesrvConfig {
    /// The options that change routes.
    pub fn route_options(&self) -> RouteOptions {
        RouteOptions {
            support_acting_master: self.support_acting_master,
            delete_topic_with_registration: self.delete_topic_with_broker_registration,
            notify_min_broker_id: self.notify_min_broker_id_changed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_case_file_means_what_it_says() {
        let path = format!(
            "{}/../../tests/cases/configs/10-namesrv.properties",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(path).expect("case file");
        let (config, warnings) = NamesrvConfig::load("10", &text).expect("starts");
        assert_eq!((config.listen_port, config.bind_address.as_str()), (21876, "127.0.0.1"));
        assert!(config.order_message_enable && !config.enable_all_topic_list);
        assert!(config.route_options().support_acting_master);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }
}
