//! Roles as processes of their own, and what a person reads when one cannot start.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use net::client::Client;
use testkit::{PATIENCE, Process, Server, TempDir, call, create_topic, free_port, pull_from, send};
use wire::codes::request as code;

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");

fn start(arguments: &[&str]) -> Result<Process> {
    let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
    Process::start(Path::new(BINARY), &arguments)
}

fn refused(arguments: &[&str]) -> Result<String> {
    let Output { status, stderr, .. } = Command::new(BINARY).args(arguments).output()?;
    ensure!(!status.success(), "it must not start");
    Ok(String::from_utf8(stderr)?)
}

/// The route of a topic, once a name server has one.
fn route(namesrv: &str, topic: &str) -> Result<String> {
    let mut client = Client::connect(namesrv, PATIENCE)?;
    #[allow(clippy::disallowed_methods)] // only ends a wait that would be for ever
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let answer = call(&mut client, code::GET_ROUTEINFO_BY_TOPIC, &[("topic", topic)], b"")?;
        if answer.code == 0 {
            return Ok(String::from_utf8(answer.body)?);
        }
        std::thread::sleep(Duration::from_millis(10)); // the registration is on its way
    }
    bail!("no route to {topic}")
}

/// B38: of several name servers one is dead and one is given twice; the living ones know the broker
/// and its topics at once, and forget them when it stops.
#[test]
fn b38_a_broker_registers_with_every_living_name_server() -> Result<()> {
    let dir = TempDir::new("roles")?;
    let data = dir.path().display().to_string();
    let ports = [free_port()?, free_port()?, free_port()?];
    let [first, second, dead] = ports.map(|port| format!("127.0.0.1:{port}"));
    let _first = start(&["namesrv", "--listen", &first, "--data", &format!("{data}/n1")])?;
    let _second = start(&["namesrv", "--listen", &second, "--data", &format!("{data}/n2")])?;
    let config = dir.path().join("broker.conf");
    std::fs::write(&config, format!("listenPort={}\nbindAddress=127.0.0.1\n", free_port()?))?;
    let config = config.display().to_string();
    let list = format!("{dead};{first}; ;{second};");
    let mut broker = start(&["broker", "-c", &config, "-n", &list, "--data", &data])?;
    let greeting = broker.greeting.join("\n");
    ensure!(broker.greeting.len() == 5, "{greeting}");
    let address = greeting.split("broker ").nth(1).and_then(|rest| rest.split(';').next());
    let mut client = Client::connect(address.context("no address")?, PATIENCE)?;
    create_topic(&mut client, "Everywhere", 3)?;
    for namesrv in [&first, &second] {
        let route = route(namesrv, "Everywhere")?;
        ensure!(route.contains(r#""writeQueueNums":3"#), "{route}");
    }
    broker.stop()?;
    for namesrv in [&first, &second] {
        let mut client = Client::connect(namesrv, PATIENCE)?;
        let fields = [("topic", "Everywhere")];
        let answer = call(&mut client, code::GET_ROUTEINFO_BY_TOPIC, &fields, b"")?;
        ensure!(answer.code == 17, "the broker has left: {answer:?}");
    }
    Ok(())
}

#[test]
fn a_taken_port_and_a_taken_directory_are_named() -> Result<()> {
    let dir = TempDir::new("taken")?;
    let server = Server::start(BINARY, dir.path(), "")?;
    let data = dir.path().join("data").display().to_string();
    let error = refused(&["namesrv", "--listen", &server.namesrv])?;
    ensure!(error.contains(&server.namesrv) && error.contains("another process"), "{error}");
    ensure!(error.contains("--listen"), "{error}");
    let config = dir.path().join("second.conf");
    let settings = format!("listenPort={}\nbindAddress=127.0.0.1\n", free_port()?);
    std::fs::write(&config, settings)?;
    let config = config.display().to_string();
    let error = refused(&["broker", "-c", &config, "-n", &server.namesrv, "--data", &data])?;
    ensure!(error.contains(&format!("{}", server.pid())) && error.contains("store"), "{error}");
    let error = refused(&["broker", "-c", &config, "--data", &data])?;
    ensure!(error.contains("namesrvAddr") && error.contains("-n"), "{error}");
    Ok(())
}

#[test]
fn the_effective_configuration_is_printed() -> Result<()> {
    let output = Command::new(BINARY).arg("-p").output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success());
    for line in ["# name server", "# broker", "listenPort=10911", "flushDiskType=ASYNC_FLUSH"] {
        ensure!(text.lines().any(|found| found == line), "{line} is missing in {text}");
    }
    Ok(())
}

/// A stop does not wait for clients: not for idle ones, not for pulls that are parked.
#[test]
fn a_stop_ends_in_time_with_clients_connected() -> Result<()> {
    let dir = TempDir::new("stop")?;
    let mut server = Server::start(BINARY, dir.path(), "")?;
    let mut client = server.connect()?;
    create_topic(&mut client, "T", 1)?;
    let sent = send(&mut client, "T", 0, "", b"kept")?;
    ensure!(sent.code == 0);
    let mut pull = pull_from("T", 0, 1);
    (pull.sys_flag, pull.suspend_timeout_millis) = (6, 30_000);
    client.send(code::PULL_MESSAGE, &pull, b"", false)?;
    let _idle = server.connect()?;
    #[allow(clippy::disallowed_methods)] // compared with a generous limit
    let started = Instant::now();
    server.stop()?;
    ensure!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    server.restart()?;
    let kept = testkit::pull_all(&mut server.connect()?, "T", 0, 0)?;
    ensure!(kept.len() == 1 && kept[0].body == b"kept");
    Ok(())
}
