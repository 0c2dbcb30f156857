//! Topics for operators: 17, 18, 21, 215, 305, 351. Java: `AdminBrokerProcessor`.

use std::collections::BTreeMap;

use net::{Call, Handled, Refusal, Reply};
use wire::body::{Member, TopicConfig};
use wire::codes::response;
use wire::json::object;
use wire::requests::{CreateTopic, GetAllTopics, GetAllTopicsAnswer, TopicHeader};
use wire::text::check_topic;

use crate::attributes;
use crate::handlers::client::json_body;
use crate::pop::take::retry_topic;
use crate::reply;
use crate::state::Broker;
use crate::turn::Turn;

/// Most entries of one page of 21 and 201. Java: `splitMetadataSize`.
pub const PAGE: i32 = 2000;
/// Most queues of a topic; beyond it the numbers are a mistake.
const MAX_QUEUES: i32 = 65_536;

fn invalid(text: String) -> Refusal {
    Refusal::new(response::INVALID_PARAMETER, text)
}

fn check(broker: &Broker, topic: &str) -> Result<(), Refusal> {
    check_topic(topic).map_err(invalid)?;
    if broker.topics.is_system(topic) {
        return Err(invalid(format!("The topic[{topic}] is conflict with system topic.")));
    }
    Ok(())
}

fn check_queues(config: &TopicConfig) -> Result<(), Refusal> {
    let most = config.read_queue_nums.max(config.write_queue_nums);
    if most > MAX_QUEUES {
        return Err(invalid(format!("{most} queues are more than the limit of {MAX_QUEUES}")));
    }
    Ok(())
}

/// 17: creates or changes a topic.
pub fn create(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: CreateTopic<'_> = call.fields()?;
    let broker = &turn.broker;
    check(broker, request.topic)?;
    let known = broker.topics.get(request.topic);
    let old = known.as_ref().map(|topic| &topic.config.attributes);
    let changes = attributes::parse(request.attributes.unwrap_or_default())
        .map_err(|text| Refusal::new(response::SYSTEM_ERROR, text))?;
    let attributes = attributes::apply(old, &changes)
        .map_err(|text| Refusal::new(response::SYSTEM_ERROR, text))?;
    let config = TopicConfig {
        topic_name: request.topic.to_owned(),
        read_queue_nums: request.read_queue_nums,
        write_queue_nums: request.write_queue_nums,
        perm: request.perm,
        topic_filter_type: request.topic_filter_type.to_owned(),
        topic_sys_flag: request.topic_sys_flag.unwrap_or(0),
        order: request.order,
        attributes,
    };
    check_queues(&config)?;
    tracing::info!(peer = ?call.peer, topic = request.topic, "topic created or changed");
    broker.topics.put(vec![config])?;
    broker.registrar.topics_put(&[request.topic]);
    call.plain(response::SUCCESS, Some(reply::NOT_SET))
}

/// 18: creates or changes several topics; none of them if one is illegal.
pub fn create_list(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let body = json_body(call)?;
    let broker = &turn.broker;
    let configs: Vec<TopicConfig> =
        body.get("topicConfigList").and_then(Member::read).unwrap_or_default();
    for config in &configs {
        check(broker, &config.topic_name)?;
        check_queues(config)?;
    }
    let settle = |mut config: TopicConfig| -> Result<TopicConfig, Refusal> {
        let known = broker.topics.get(&config.topic_name);
        let old = known.as_ref().map(|topic| &topic.config.attributes);
        config.attributes = attributes::apply(old, &config.attributes)
            .map_err(|text| Refusal::new(response::SYSTEM_ERROR, text))?;
        Ok(config)
    };
    let configs = configs.into_iter().map(settle).collect::<Result<Vec<_>, _>>()?;
    let topics = broker.topics.put(configs)?;
    let names: Vec<&str> = topics.iter().map(|topic| topic.config.topic_name.as_str()).collect();
    broker.registrar.topics_put(&names);
    call.plain(response::SUCCESS, Some(reply::NOT_SET))
}

/// 215: deletes a topic with its messages and offsets.
pub fn delete(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: TopicHeader<'_> = call.fields()?;
    let topic = request.topic;
    let broker = &turn.broker;
    if topic.trim().is_empty() {
        return Err(invalid("The specified topic is blank.".to_owned()));
    }
    if broker.topics.is_system(topic) {
        return Err(invalid(format!("The topic[{topic}] is conflict with system topic.")));
    }
    let mut gone = vec![topic.to_owned()];
    if broker.config().clear_retry_topic_when_delete_topic {
        // The topics to which pops of groups have retried messages of this one.
        let retries = broker
            .pops
            .groups_of(topic)
            .into_iter()
            .flat_map(|group| [false, true].map(|second| retry_topic(topic, &group, second)));
        gone.extend(retries.filter(|name| broker.topics.get(name).is_some()));
    }
    for name in &gone {
        if broker.topics.remove(name) {
            tracing::info!(peer = ?call.peer, topic = name, "topic deleted");
        }
        broker.offsets.remove_topic(name);
        broker.pops.remove_topic(name);
        broker.stats.forget_topic(name);
        broker.registrar.topic_deleted(name);
    }
    broker.offsets.save();
    Ok(Reply::Ok)
}

/// 21: all topics, or a page of them in name order.
pub fn get_all(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: GetAllTopics<'_> = call.fields()?;
    let mut wrapper = turn.broker.topics.wrapper();
    let total = wrapper.topic_config_table.len() as i32;
    if request.topic_seq.is_some() || request.max_topic_num.is_some() {
        let version = wrapper.data_version.write().to_text();
        let from = page_start(request.topic_seq, request.data_version, &version);
        let count = request.max_topic_num.unwrap_or(PAGE).clamp(0, PAGE) as usize;
        let page = wrapper.topic_config_table.into_iter().skip(from).take(count);
        wrapper.topic_config_table = page.collect::<BTreeMap<_, _>>();
    }
    let body = wrapper.write().to_text();
    let fields = GetAllTopicsAnswer { total_topic_num: total };
    call.answer(response::SUCCESS, None, &fields, |out| out.extend_from_slice(body.as_bytes()))
}

/// Where a page starts: at the beginning again when the table has changed since the first one.
pub fn page_start(seq: Option<i32>, version: Option<&str>, current: &str) -> usize {
    let same = version.is_some_and(|version| same_version(version, current));
    if same { usize::try_from(seq.unwrap_or(0)).unwrap_or(0) } else { 0 }
}

fn same_version(a: &str, b: &str) -> bool {
    let read = |text: &str| {
        let value = wire::json::Value::parse(text).ok()?;
        wire::body::DataVersion::read(&value)
    };
    read(a).is_some_and(|a| read(b).is_some_and(|b| a == b))
}

/// 351: one topic.
pub fn get_one(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: TopicHeader<'_> = call.fields()?;
    let topic = turn.broker.topics.get(request.topic).ok_or_else(|| {
        let text = format!("No topic in this broker. topic: {}", request.topic);
        Refusal::new(response::TOPIC_NOT_EXIST, text)
    })?;
    call.ok_body(topic.config.write().to_text().as_bytes())
}

/// 305: the topics of the system.
pub fn system_list(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let body = object([("topicList", turn.broker.topics.system_topics())]);
    call.ok_body(body.to_text().as_bytes())
}
