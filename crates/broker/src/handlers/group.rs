//! Consumer groups for operators: 200, 201, 207, 225, 352, 353. Java: `AdminBrokerProcessor`.

use net::{Call, Handled, Refusal, Reply};
use wire::body::{GroupConfig, Member};
use wire::codes::response;
use wire::header::NoFields;
use wire::json::{Value, object};
use wire::requests::{DeleteGroup, GetAllGroups, GetAllGroupsAnswer, GroupForbidden, GroupHeader};
use wire::text::{DLQ_PREFIX, RETRY_PREFIX, check_group};

use crate::handlers::client::json_body;
use crate::handlers::topic::{PAGE, page_start};
use crate::turn::Turn;

fn check(config: &GroupConfig) -> Result<(), Refusal> {
    check_group(&config.group_name).map_err(|text| Refusal::new(response::INVALID_PARAMETER, text))
}

/// 200: creates or changes a group. An empty body changes nothing and is a success, as in Java.
pub fn create(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    if call.body.is_empty() {
        return Ok(Reply::Ok);
    }
    let config = GroupConfig::read(&json_body(call)?).unwrap_or_default();
    check(&config)?;
    tracing::info!(peer = ?call.peer, group = config.group_name, "group created or changed");
    turn.broker.groups.put(vec![config])?;
    Ok(Reply::Ok)
}

/// 225: creates or changes several groups; none of them if one is illegal.
pub fn create_list(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let body = json_body(call)?;
    let configs: Vec<GroupConfig> =
        body.get("groupConfigList").and_then(Member::read).unwrap_or_default();
    configs.iter().try_for_each(check)?;
    turn.broker.groups.put(configs)?;
    Ok(Reply::Ok)
}

/// 207: deletes a group, and its offsets when asked.
pub fn delete(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: DeleteGroup<'_> = call.fields()?;
    let broker = &turn.broker;
    if broker.groups.remove(request.group_name) {
        tracing::info!(peer = ?call.peer, group = request.group_name, "group deleted");
    }
    // Whoever uses the name again goes on at the first message that was not settled.
    broker.pops.remove_group(request.group_name);
    if request.clean_offset {
        broker.offsets.remove_group(request.group_name);
        broker.offsets.save();
        for prefix in [RETRY_PREFIX, DLQ_PREFIX] {
            broker.stats.forget_topic(&format!("{prefix}{}", request.group_name));
        }
    }
    broker.stats.forget_group(request.group_name);
    Ok(Reply::Ok)
}

/// 201: all groups, or a page of them in name order.
pub fn get_all(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: GetAllGroups<'_> = call.fields()?;
    let groups = &turn.broker.groups;
    let total = groups.names().len() as i32;
    let page = (request.group_seq.is_some() || request.max_group_num.is_some()).then(|| {
        let version = groups.version().write().to_text();
        let from = page_start(request.group_seq, request.data_version, &version);
        (from, request.max_group_num.unwrap_or(PAGE).clamp(0, PAGE) as usize)
    });
    let body = groups.body(page).to_text();
    let fields = GetAllGroupsAnswer { total_group_num: total };
    call.answer(response::SUCCESS, None, &fields, |out| out.extend_from_slice(body.as_bytes()))
}

/// 352: one group; an unknown one is created when that is allowed.
pub fn get_one(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: GroupHeader<'_> = call.fields()?;
    let auto = turn.broker.config().auto_create_subscription_group;
    let group = turn.broker.groups.get_or_create(request.group, auto).ok_or_else(|| {
        let text = format!("No group in this broker. group: {}", request.group);
        Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, text)
    })?;
    call.ok_body(group.write().to_text().as_bytes())
}

/// 353: forbids or allows a group to read a topic, and tells which. Java:
/// `updateAndGetGroupForbidden`, which like this looks for neither of the two.
pub fn forbidden(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: GroupForbidden<'_> = call.fields()?;
    let (group, topic) = (request.group, request.topic);
    let groups = &turn.broker.groups;
    if let Some(readable) = request.readable {
        tracing::info!(peer = ?call.peer, group, topic, readable, "reading allowed or forbidden");
        groups.set_read_forbidden(group, topic, !readable)?;
    }
    let body = object([
        ("group", Value::from(group)),
        ("readable", Value::from(!groups.is_read_forbidden(group, topic))),
        ("topic", Value::from(topic)),
    ]);
    let text = body.to_text();
    let put = |out: &mut Vec<u8>| out.extend_from_slice(text.as_bytes());
    call.answer(response::SUCCESS, Some(""), &NoFields, put)
}
