//! 315: how much passed in the last minute, hour and day. Java: `BrokerStatsManager`,
//! `AdminBrokerProcessor.ViewBrokerStatsData`.

use net::{Call, Handled, Refusal};
use wire::codes::response;
use wire::json::{Value, object};
use wire::requests::StatsItem;

use crate::state::Broker;
use crate::stats::{Figure, Totals};
use crate::turn::Turn;

fn messages(totals: &Totals) -> u64 {
    totals.messages
}

fn bytes(totals: &Totals) -> u64 {
    totals.bytes
}

/// 315: one item of the statistics.
pub fn view(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: StatsItem<'_> = call.fields()?;
    let (name, key) = (request.stats_name, request.stats_key);
    let [minute, hour, day] = find(&turn.broker, name, key, turn.now_ms).ok_or_else(|| {
        let text = format!("The stats <{name}> <{key}> not exist");
        Refusal::new(response::SYSTEM_ERROR, text)
    })?;
    let body = object([
        ("statsDay", shown(day)),
        ("statsHour", shown(hour)),
        ("statsMinute", shown(minute)),
    ]);
    call.ok_body(body.to_text().as_bytes())
}

/// The figures of an item; `None` when there is no such name, or nothing was counted for the key.
fn find(broker: &Broker, name: &str, key: &str, now_ms: i64) -> Option<[Figure; 3]> {
    let stats = &broker.stats;
    let topic_puts = |count| broker.topics.get(key)?.puts.figures(now_ms, count);
    // Neither topics nor groups have an @ in their names.
    let group = || key.split_once('@').and_then(|(topic, group)| stats.known_group(group, topic));
    let of_broker = key == broker.config().broker_cluster_name;
    match name {
        "TOPIC_PUT_NUMS" => topic_puts(messages),
        "TOPIC_PUT_SIZE" => topic_puts(bytes),
        "GROUP_GET_NUMS" => group()?.gets.figures(now_ms, messages),
        "GROUP_GET_SIZE" => group()?.gets.figures(now_ms, bytes),
        "SNDBCK_PUT_NUMS" => group()?.send_backs.figures(now_ms, messages),
        "BROKER_PUT_NUMS" => of_broker.then(|| stats.all_puts(now_ms)),
        "BROKER_PUT_NUMS_WITHOUT_SYSTEM_TOPIC" if of_broker => {
            stats.user_puts.figures(now_ms, messages)
        }
        "BROKER_GET_NUMS" | "BROKER_GET_NUMS_WITHOUT_SYSTEM_TOPIC" if of_broker => {
            stats.user_gets.figures(now_ms, messages)
        }
        _ => None,
    }
}

/// Java: `BrokerStatsItem`.
fn shown(figure: Figure) -> Value {
    object([
        ("avgpt", Value::from(figure.avgpt)),
        ("sum", Value::from(i64::try_from(figure.sum).unwrap_or(i64::MAX))),
        ("tps", Value::from(figure.tps)),
    ])
}
