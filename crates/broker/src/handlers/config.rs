//! 25 and 26: the configuration at run time. Java: `AdminBrokerProcessor`.
//!
//! Stricter than the original on purpose: it answers 0 to unknown keys and to values that do not
//! parse, and rewrites the whole file. Here both are refused by name with nothing applied, and the
//! file keeps its comments and order.

use net::{Call, Handled, Refusal, Reply};
use wire::body::{DataVersion, Member};
use wire::codes::response;
use wire::requests::ConfigAnswer;

use base::config::Table;

use crate::config::BrokerConfig;
use crate::state::Broker;
use crate::turn::Turn;

/// 26: all settings as properties text.
pub fn get(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let text = turn.broker.config().text();
    let version = DataVersion { timestamp: turn.broker.boot_ms, ..DataVersion::default() };
    let version = version.write().to_text();
    let fields = ConfigAnswer { version: &version };
    call.answer(response::SUCCESS, None, &fields, |out| out.extend_from_slice(text.as_bytes()))
}

/// 25: changes settings; keys that need a restart are stored for it.
pub fn update(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let broker = &turn.broker;
    let text = String::from_utf8_lossy(call.body);
    let _one_at_a_time = broker.config_change.lock();
    let mut config = BrokerConfig::clone(&broker.config());
    let changed =
        config.update(&text).map_err(|refused| Refusal::new(refused.code, refused.remark))?;
    tracing::info!(peer = ?call.peer, ?changed, "configuration changed");
    save(broker, &changed).map_err(|error| {
        Refusal::new(response::SYSTEM_ERROR, format!("the configuration cannot be saved: {error}"))
    })?;
    broker.registrar.set_addresses(&config.namesrv_addresses());
    let auto_create_changed =
        config.auto_create_topic_enable != broker.config().auto_create_topic_enable;
    broker.set_config(config);
    if auto_create_changed {
        broker.topics.switch_auto_create(&broker.config());
        broker.registrar.topics_changed();
    }
    Ok(Reply::Ok)
}

/// Changes the keys in the file that the broker was started with, if there is one.
fn save(broker: &Broker, changed: &[(String, String)]) -> std::io::Result<()> {
    let Some(path) = &broker.config_file else { return Ok(()) };
    let mut text = std::fs::read_to_string(path)?;
    for (key, value) in changed {
        text = base::properties_file::rewrite(&text, key, value);
    }
    store::config_file::save(path, &text)
}
