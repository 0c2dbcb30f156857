//! Topics and groups over kills and stops, as a Java broker that comes next would find them.

use anyhow::{Context, Result, ensure};
use net::client::Client;
use testkit::{Server, TempDir, call, create_topic};
use wire::body::{GroupConfig, Member};
use wire::codes::request as code;
use wire::json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");

fn group(client: &mut Client, name: &str) -> Result<()> {
    let config = GroupConfig { group_name: name.to_owned(), ..GroupConfig::default() };
    let body = config.write().to_text();
    let code = code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
    ensure!(call(client, code, &[], body.as_bytes())?.code == 0);
    Ok(())
}

/// Whether the broker has a topic and a group.
fn has(client: &mut Client, topic: &str, group: &str) -> Result<(bool, bool)> {
    let topics = call(client, code::GET_ALL_TOPIC_CONFIG, &[], b"")?;
    let groups = call(client, code::GET_ALL_SUBSCRIPTIONGROUP_CONFIG, &[], b"")?;
    let of = |body: &[u8], table: &str, name: &str| -> Result<bool> {
        let body = Value::parse_bytes(body)?;
        Ok(body.get(table).context("a table")?.get(name).is_some())
    };
    Ok((
        of(&topics.body, "topicConfigTable", topic)?,
        of(&groups.body, "subscriptionGroupTable", group)?,
    ))
}

#[test]
fn changes_outlive_a_kill_and_a_clean_stop_leaves_only_the_files() -> Result<()> {
    let dir = TempDir::new("saved")?;
    let config = dir.path().join("data/store/config");
    let mut server = Server::start(BINARY, dir.path(), "")?;
    let mut client = server.connect()?;
    for name in ["Kept", "Gone"] {
        create_topic(&mut client, name, 1)?;
        group(&mut client, name)?;
    }
    ensure!(call(&mut client, code::DELETE_TOPIC_IN_BROKER, &[("topic", "Gone")], b"")?.code == 0);
    let gone = [("groupName", "Gone")];
    ensure!(call(&mut client, code::DELETE_SUBSCRIPTIONGROUP, &gone, b"")?.code == 0);
    server.kill()?;
    ensure!(config.join("apogee-topics.journal").exists());
    server.restart()?;
    let mut client = server.connect()?;
    ensure!(has(&mut client, "Kept", "Kept")? == (true, true), "after a kill");
    ensure!(has(&mut client, "Gone", "Gone")? == (false, false), "after a kill");
    create_topic(&mut client, "Late", 1)?;
    group(&mut client, "Late")?;
    server.stop()?;
    for (name, table) in
        [("topics", "topicConfigTable"), ("subscriptionGroup", "subscriptionGroupTable")]
    {
        ensure!(!config.join(format!("apogee-{name}.journal")).exists(), "{name}");
        let file = std::fs::read_to_string(config.join(format!("{name}.json")))?;
        let file = Value::parse(&file)?;
        let table = file.get(table).context("a table")?;
        ensure!(table.get("Kept").is_some() && table.get("Late").is_some(), "{name}");
        ensure!(table.get("Gone").is_none(), "{name}");
    }
    // A kill, and then a Java broker that knows the file only and writes it.
    server.restart()?;
    let mut client = server.connect()?;
    create_topic(&mut client, "Unknown", 1)?;
    group(&mut client, "Unknown")?;
    server.kill()?;
    for name in ["topics.json", "subscriptionGroup.json"] {
        let path = config.join(name);
        let file = std::fs::read_to_string(&path)?;
        std::fs::write(&path, file.replace("\"Late\"", "\"Java\""))?;
    }
    server.restart()?;
    let mut client = server.connect()?;
    ensure!(has(&mut client, "Java", "Java")? == (true, true), "the file wins");
    ensure!(has(&mut client, "Unknown", "Unknown")? == (false, false), "the journal is stale");
    Ok(())
}
