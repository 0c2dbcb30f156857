//! Every request that a name server serves. Java: `DefaultRequestProcessor`,
//! `ClientRequestProcessor`.

use std::collections::BTreeMap;

use base::config::Table;
use net::{Call, Class, Handled, Refusal, Reply, Router};
use wire::body::{
    BrokerData, DataVersion, Member, RegisterBrokerBody, TopicConfig, TopicConfigWrapper,
    TopicRouteData,
};
use wire::codes::{VERSION_STRICT_JSON, perm, request as code, response};
use wire::compress::{Kind, decompress};
use wire::header::NoFields;
use wire::json::{Value, object};
use wire::requests::{
    AddedAnswer, BrokerHeader, BrokerName, ClusterHeader, DataVersionAnswer, KvAnswer, KvHeader,
    RegisterBroker, RegisterBrokerAnswer, TopicHeader, WipedAnswer,
};
use wire::text::crc31;

use crate::config::NamesrvConfig;
use crate::kv::ORDER_TOPICS;
use crate::routes::{Address, Registration};
use crate::server::NamesrvLoop;

/// Java leaves this text on answers whose handler sets only the code.
const NOT_SET: &str = "not set any response code";
/// Keys that code 318 refuses. Java: `configBlackList`.
const BLACK_LIST: [&str; 3] = ["configBlackList", "configStorePath", "kvConfigPath"];
/// Largest registration body after decompression.
const MAX_BODY: usize = 64 << 20;
/// From this version on a compressed registration has a fourth part. Java: `V5_0_0`.
const VERSION_FOUR_PARTS: i32 = 413;

/// The table of all requests.
pub(crate) fn router() -> Router<NamesrvLoop> {
    use Class::{Admin, Query};
    Router::default()
        .on(code::PUT_KV_CONFIG, Admin, put_kv)
        .on_with_ext(code::GET_KV_CONFIG, Admin, get_kv)
        .on(code::DELETE_KV_CONFIG, Admin, delete_kv)
        .on(code::GET_KVLIST_BY_NAMESPACE, Admin, kv_list)
        .on_with_ext(code::REGISTER_BROKER, Admin, register)
        .on(code::UNREGISTER_BROKER, Admin, unregister)
        .on(code::BROKER_HEARTBEAT, Admin, heartbeat)
        .on_with_ext(code::QUERY_DATA_VERSION, Admin, query_version)
        .on(code::GET_BROKER_MEMBER_GROUP, Admin, members)
        .on(code::GET_ROUTEINFO_BY_TOPIC, Query, route)
        .on(code::GET_BROKER_CLUSTER_INFO, Admin, cluster_info)
        .on_with_ext(code::WIPE_WRITE_PERM_OF_BROKER, Admin, wipe_write)
        .on_with_ext(code::ADD_WRITE_PERM_OF_BROKER, Admin, add_write)
        .on(code::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, Admin, all_topics)
        .on(code::DELETE_TOPIC_IN_NAMESRV, Admin, delete_topic)
        .on(code::REGISTER_TOPIC_IN_NAMESRV, Admin, register_topic)
        .on(code::GET_TOPICS_BY_CLUSTER, Admin, topics_of_cluster)
        .on(code::GET_SYSTEM_TOPIC_LIST_FROM_NS, Admin, system_topics)
        .on(code::GET_UNIT_TOPIC_LIST, Admin, unit_topics)
        .on(code::GET_HAS_UNIT_SUB_TOPIC_LIST, Admin, unit_sub_topics)
        .on(code::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST, Admin, unit_sub_not_unit_topics)
        .on(code::UPDATE_NAMESRV_CONFIG, Admin, update_config)
        .on(code::GET_NAMESRV_CONFIG, Admin, get_config)
}

fn failed(text: impl Into<String>) -> Refusal {
    Refusal::new(response::SYSTEM_ERROR, text.into())
}

fn io_failed(error: std::io::Error) -> Refusal {
    failed(format!("cannot save: {error}"))
}

fn put_kv(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let (namespace, key) = (call.header.ext.get("namespace"), call.header.ext.get("key"));
    let (Some(namespace), Some(key)) = (namespace, key) else {
        return Err(failed("namespace or key is null"));
    };
    let value = call.header.ext.get("value").unwrap_or_default();
    server.server.state.lock().kv.put(namespace, key, value).map_err(io_failed)?;
    Ok(Reply::Ok)
}

fn get_kv(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: KvHeader<'_> = call.fields()?;
    let key = request.key.unwrap_or_default();
    let state = server.server.state.lock();
    let value = state.kv.get(request.namespace, key).ok_or_else(|| {
        let text = format!("No config item, Namespace: {} Key: {key}", request.namespace);
        Refusal::new(response::QUERY_NOT_FOUND, text)
    })?;
    call.ok(&KvAnswer { value: Some(value) })
}

fn delete_kv(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: KvHeader<'_> = call.fields()?;
    let mut state = server.server.state.lock();
    state.kv.delete(request.namespace, request.key.unwrap_or_default()).map_err(io_failed)?;
    Ok(Reply::Ok)
}

fn kv_list(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: KvHeader<'_> = call.fields()?;
    let state = server.server.state.lock();
    let table = state.kv.table(request.namespace).ok_or_else(|| {
        let text = format!("No config item, Namespace: {}", request.namespace);
        Refusal::new(response::QUERY_NOT_FOUND, text)
    })?;
    call.ok_body(object([("table", table.write())]).to_text().as_bytes())
}

/// 103: a broker and its topics.
fn register(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: RegisterBroker<'_> = call.fields()?;
    let crc = request.body_crc32.unwrap_or(0);
    if crc != 0 && crc != crc31(call.body) {
        return Err(failed("crc32 not match"));
    }
    let topics = if request.compressed {
        compressed_topics(call.body, call.header.version).map_err(failed)?
    } else if call.body.is_empty() {
        TopicConfigWrapper::default()
    } else {
        let body = Value::parse_bytes(call.body).map_err(|e| failed(format!("the body is {e}")))?;
        RegisterBrokerBody::read(&body).unwrap_or_default().topics
    };
    let registration = Registration {
        cluster: request.cluster_name.to_owned(),
        broker: request.broker_name.to_owned(),
        id: request.broker_id,
        address: Address::Fixed(request.broker_addr.to_owned()),
        ha_address: request.ha_server_addr.unwrap_or_default().to_owned(),
        timeout_ms: request.heartbeat_timeout_millis,
        enable_acting_master: request.enable_acting_master,
        zone: request.zone_name.map(str::to_owned),
        topics,
        peer: call.peer.id(),
    };
    let now_ms = server.server.clock.now_ms();
    let mut state = server.server.state.lock();
    let registered = state.routes.register(&registration, now_ms);
    let registered = registered.ok_or_else(|| failed("register broker failed"))?;
    state.tell(registered.min_id);
    let order = state.config.return_order_topic_config_to_broker;
    let order = order.then(|| state.kv.table(ORDER_TOPICS).cloned().unwrap_or_default());
    drop(state);
    let master = registered.master.map(|(ha, a)| (ha, a.for_client(call.peer.local.ip())));
    let fields = RegisterBrokerAnswer {
        ha_server_addr: master.as_ref().map(|(ha, _)| ha.as_str()),
        master_addr: master.as_ref().map(|(_, address)| address.as_str()),
    };
    let body = order.map(|table| object([("table", table.write())]).to_text());
    call.answer(response::SUCCESS, None, &fields, |out| {
        out.extend_from_slice(body.unwrap_or_default().as_bytes());
    })
}

/// The topics of a compressed registration: version, topics as blank-separated text, filter
/// servers, and from 5.0 on static-topic mappings.
fn compressed_topics(body: &[u8], version: i32) -> Result<TopicConfigWrapper, String> {
    let plain = decompress(Kind::Zlib, body, MAX_BODY).map_err(|e| e.to_string())?;
    let mut parts = Parts { bytes: &plain };
    let data_version = Value::parse_bytes(parts.sized()?).map_err(|e| e.to_string())?;
    let mut wrapper = TopicConfigWrapper {
        data_version: DataVersion::read(&data_version).unwrap_or_default(),
        ..TopicConfigWrapper::default()
    };
    for _ in 0..parts.number()? {
        let text = std::str::from_utf8(parts.sized()?).map_err(|e| e.to_string())?;
        let config = topic_from_text(text).ok_or_else(|| format!("no topic: {text:?}"))?;
        wrapper.topic_config_table.insert(config.topic_name.clone(), config);
    }
    parts.sized()?;
    if version >= VERSION_FOUR_PARTS {
        for _ in 0..parts.number()? {
            parts.sized()?;
        }
    }
    Ok(wrapper)
}

struct Parts<'a> {
    bytes: &'a [u8],
}

impl<'a> Parts<'a> {
    fn number(&mut self) -> Result<usize, String> {
        let (head, rest) = self.bytes.split_at_checked(4).ok_or("the body is cut")?;
        self.bytes = rest;
        Ok(u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize)
    }

    fn sized(&mut self) -> Result<&'a [u8], String> {
        let len = self.number()?;
        let (part, rest) = self.bytes.split_at_checked(len).ok_or("the body is cut")?;
        self.bytes = rest;
        Ok(part)
    }
}

/// `name read write perm filterType attributesJson`. Java: `TopicConfig.decode`.
fn topic_from_text(text: &str) -> Option<TopicConfig> {
    let mut words = text.splitn(6, ' ');
    let mut config = TopicConfig {
        topic_name: words.next()?.to_owned(),
        read_queue_nums: words.next()?.parse().ok()?,
        write_queue_nums: words.next()?.parse().ok()?,
        perm: words.next()?.parse().ok()?,
        topic_filter_type: words.next()?.to_owned(),
        ..TopicConfig::default()
    };
    if let Some(attributes) = words.next().and_then(|text| Value::parse(text).ok()) {
        config.attributes = BTreeMap::read(&attributes).unwrap_or_default();
    }
    Some(config)
}

fn unregister(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: BrokerHeader<'_> = call.fields()?;
    let address = Address::Fixed(request.broker_addr.unwrap_or_default().to_owned());
    let mut state = server.server.state.lock();
    let id = request.broker_id.unwrap_or(0);
    let change = state.routes.unregister(request.cluster_name, request.broker_name, id, &address);
    state.tell(change);
    Ok(Reply::Ok)
}

fn heartbeat(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: BrokerHeader<'_> = call.fields()?;
    let now_ms = server.server.clock.now_ms();
    let address = request.broker_addr.unwrap_or_default();
    server.server.state.lock().routes.heartbeat(request.cluster_name, address, now_ms);
    Ok(Reply::Ok)
}

fn query_version(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: BrokerHeader<'_> = call.fields()?;
    let sent = Value::parse_bytes(call.body).ok().and_then(|v| DataVersion::read(&v));
    let address = request.broker_addr.unwrap_or_default();
    let now_ms = server.server.clock.now_ms();
    let mut state = server.server.state.lock();
    let sent = sent.unwrap_or_default();
    let (changed, known) = state.routes.query_version(request.cluster_name, address, &sent, now_ms);
    let body = known.map(|version| version.write().to_text()).unwrap_or_default();
    call.answer(response::SUCCESS, None, &DataVersionAnswer { changed }, |out| {
        out.extend_from_slice(body.as_bytes());
    })
}

fn members(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: BrokerHeader<'_> = call.fields()?;
    let state = server.server.state.lock();
    let (cluster, name) = (request.cluster_name, request.broker_name);
    let addresses = state.routes.members(cluster, name, call.peer.local.ip());
    let group = object([
        ("brokerAddrs", addresses.write()),
        ("brokerName", Value::from(name)),
        ("cluster", Value::from(cluster)),
    ]);
    let body = object([("brokerMemberGroup", group)]).to_text();
    call.answer(response::SUCCESS, Some(NOT_SET), &NoFields, |out| {
        out.extend_from_slice(body.as_bytes());
    })
}

/// 105: the route of a topic.
fn route(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let topic = call.header.ext.get("topic").unwrap_or("null");
    let ext = &call.header.ext;
    let zone = (ext.get("__ZONE_MODE").is_some_and(|mode| mode.eq_ignore_ascii_case("true")))
        .then(|| ext.get("__ZONE_NAME"))
        .flatten();
    let state = server.server.state.lock();
    let ready_ms = server.server.start_ms + i64::from(state.config.wait_seconds_for_service) * 1000;
    if state.config.need_wait_for_service && server.server.clock.now_ms() < ready_ms {
        return Err(failed("name server not ready"));
    }
    let found = state.routes.route(topic, call.peer.local.ip(), zone);
    let mut found: TopicRouteData = found.ok_or_else(|| {
        let text = format!(
            "No topic route info in name server for the topic: {topic}\nSee \
             https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
        );
        Refusal::new(response::TOPIC_NOT_EXIST, text)
    })?;
    if state.config.order_message_enable {
        found.order_topic_conf = state.kv.get(ORDER_TOPICS, topic).map(str::to_owned);
    }
    drop(state);
    let strict = call.header.version >= VERSION_STRICT_JSON
        || ext.get("acceptStandardJsonOnly").is_some_and(|only| only.eq_ignore_ascii_case("true"));
    let body = found.write();
    let body = if strict { body.to_strict_text() } else { body.to_text() };
    call.ok_body(body.as_bytes())
}

fn cluster_info(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let state = server.server.state.lock();
    let brokers: Vec<BrokerData> = state.routes.all_brokers(call.peer.local.ip());
    let brokers = brokers.iter().map(|broker| (broker.broker_name.as_str(), broker.write()));
    let clusters = state.routes.clusters().iter();
    let clusters = clusters.map(|(cluster, names)| {
        (cluster.as_str(), Value::from(names.iter().map(String::as_str).collect::<Vec<_>>()))
    });
    let body =
        object([("brokerAddrTable", object(brokers)), ("clusterAddrTable", object(clusters))]);
    call.ok_body(body.to_text().as_bytes())
}

fn wipe_write(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: BrokerName<'_> = call.fields()?;
    let mut state = server.server.state.lock();
    let count = state.routes.change_perm(request.broker_name, |perm| perm & !perm::WRITE);
    call.ok(&WipedAnswer { wipe_topic_count: count })
}

fn add_write(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: BrokerName<'_> = call.fields()?;
    let mut state = server.server.state.lock();
    let count = state.routes.change_perm(request.broker_name, |_| perm::READ | perm::WRITE);
    call.ok(&AddedAnswer { add_topic_count: count })
}

fn topic_list(call: &mut Call<'_>, topics: Vec<String>) -> Handled {
    call.ok_body(object([("topicList", topics)]).to_text().as_bytes())
}

fn all_topics(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let state = server.server.state.lock();
    if !state.config.enable_all_topic_list {
        return Err(failed("disable"));
    }
    topic_list(call, state.routes.topic_names(None))
}

fn delete_topic(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: TopicHeader<'_> = call.fields()?;
    let cluster = request.cluster_name.filter(|cluster| !cluster.is_empty());
    server.server.state.lock().routes.delete_topic(request.topic, cluster);
    Ok(Reply::Ok)
}

fn register_topic(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: TopicHeader<'_> = call.fields()?;
    let body = Value::parse_bytes(call.body).ok().and_then(|v| TopicRouteData::read(&v));
    if let Some(route) = body {
        server.server.state.lock().routes.add_topic(request.topic, &route.queue_datas);
    }
    Ok(Reply::Ok)
}

/// Refuses a list that is switched off.
fn listed(config: &NamesrvConfig) -> Result<(), Refusal> {
    if config.enable_topic_list { Ok(()) } else { Err(failed("disable")) }
}

fn topics_of_cluster(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let request: ClusterHeader<'_> = call.fields()?;
    let state = server.server.state.lock();
    listed(&state.config)?;
    topic_list(call, state.routes.topic_names(Some(request.cluster)))
}

/// 304: in truth the names of clusters and brokers, and the address of one broker.
fn system_topics(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let state = server.server.state.lock();
    listed(&state.config)?;
    let brokers = state.routes.all_brokers(call.peer.local.ip());
    let mut names: Vec<String> = state.routes.clusters().keys().cloned().collect();
    names.extend(brokers.iter().map(|broker| broker.broker_name.clone()));
    let address = brokers.first().and_then(|broker| broker.broker_addrs.values().next().cloned());
    let body = object([("brokerAddr", Value::from(address)), ("topicList", Value::from(names))]);
    call.ok_body(body.to_text().as_bytes())
}

/// topicSysFlag bits. Java: `TopicSysFlag`.
const UNIT: i32 = 1;
const UNIT_SUB: i32 = 2;

fn by_flag(server: &NamesrvLoop, call: &mut Call<'_>, wanted: fn(i32) -> bool) -> Handled {
    let state = server.server.state.lock();
    listed(&state.config)?;
    topic_list(call, state.routes.topics_by_flag(wanted))
}

fn unit_topics(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    by_flag(server, call, |flag| flag & UNIT != 0)
}

fn unit_sub_topics(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    by_flag(server, call, |flag| flag & UNIT_SUB != 0)
}

fn unit_sub_not_unit_topics(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    by_flag(server, call, |flag| flag & UNIT == 0 && flag & UNIT_SUB != 0)
}

/// 318: all of it or nothing; the file keeps its comments.
fn update_config(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let text = String::from_utf8_lossy(call.body);
    let entries = base::properties_file::parse(&text).map_err(|e| failed(e.to_string()))?;
    let mut state = server.server.state.lock();
    let mut next = state.config.clone();
    for entry in &entries {
        let key = entry.key.as_str();
        if BLACK_LIST.contains(&key) {
            let text = "Can not update config in black list.";
            return Err(Refusal::new(response::NO_PERMISSION, text));
        }
        match next.set(key, &entry.value) {
            Some(Ok(())) => {}
            Some(Err(problem)) => {
                return Err(failed(format!("{key}: {problem}; nothing was changed")));
            }
            None if NamesrvConfig::ACCEPTED.iter().any(|(known, _)| *known == key) => {}
            None => return Err(failed(format!("{key}: unknown key; nothing was changed"))),
        }
    }
    if let Some(path) = &state.config_file {
        let mut file = std::fs::read_to_string(path).unwrap_or_default();
        for entry in &entries {
            file = base::properties_file::rewrite(&file, &entry.key, &entry.value);
        }
        std::fs::write(path, file).map_err(io_failed)?;
    }
    state.routes.options = next.route_options();
    state.config = next;
    Ok(Reply::Ok)
}

fn get_config(server: &mut NamesrvLoop, call: &mut Call<'_>) -> Handled {
    let text = server.server.state.lock().config.text();
    call.ok_body(text.as_bytes())
}
