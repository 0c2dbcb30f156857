//! A disk whose syncs take long: what waits for them waits, nothing else does.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::clock::{Clock, Stopwatch};
use broker::config::BrokerConfig;
use broker::{BrokerServer, World};
use net::client::Client;
use store::disk::{Act, Disk, Verdict};
use wire::codes::request as code;
use wire::header::Pairs;
use wire::requests::SendMessage;

const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    server: Option<BrokerServer>,
    /// How long a sync of the log takes, milliseconds.
    delay_ms: Arc<AtomicU64>,
    /// Syncs of the log that began.
    syncs: Arc<AtomicU64>,
    dir: std::path::PathBuf,
}

impl Fixture {
    fn start(name: &str) -> Fixture {
        let dir = std::env::temp_dir().join(format!("apogee-slow-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("directory");
        let text = format!(
            "storePathRootDir={}\nflushDiskType=SYNC_FLUSH\nbindAddress=127.0.0.1\n\
             mappedFileSizeCommitLog=1048576\n",
            dir.join("store").display()
        );
        let (config, _) = BrokerConfig::read("test", &text).expect("configuration");
        let (delay_ms, syncs) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (delay, count) = (Arc::clone(&delay_ms), Arc::clone(&syncs));
        let watch = move |act: Act, path: &Path| {
            if act == Act::Sync && path.to_string_lossy().contains("commitlog") {
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(delay.load(Ordering::SeqCst)));
            }
            Verdict::Go
        };
        let disk = Disk::default().watched(Arc::new(watch));
        let world = World { clock: Clock::system(), disk };
        let listen = "127.0.0.1:0".parse().expect("address");
        let server = broker::start(config, None, world, None, listen).expect("start");
        Fixture { server: Some(server), delay_ms, syncs, dir }
    }

    fn connect(&self) -> Client {
        let server = self.server.as_ref().expect("running");
        Client::connect(&server.local().to_string(), PATIENCE).expect("connect")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.delay_ms.store(0, Ordering::SeqCst);
        if let Some(server) = self.server.take() {
            let _ = server.stop(); // the test has said what it wanted to
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Sends a message and returns the code of its answer.
fn send(client: &mut Client, properties: &str) -> i32 {
    let request = SendMessage {
        producer_group: "p",
        topic: "T",
        default_topic: "TBW102",
        default_topic_queue_nums: 1,
        queue_id: 0,
        sys_flag: 0,
        born_timestamp: 1,
        flag: 0,
        properties: Some(properties),
        reconsume_times: Some(0),
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: None,
    };
    client.call(code::SEND_MESSAGE, &request, b"x").expect("an answer").code
}

fn stored(client: &mut Client) -> String {
    let fields = Pairs(&[("topic", "T"), ("queueId", "0")]);
    let answer = client.call(code::GET_MAX_OFFSET, &fields, b"").expect("an answer");
    answer.field("offset").unwrap_or_default().to_owned()
}

#[test]
fn sends_wait_for_a_slow_disk_and_nobody_else_does() {
    let fixture = Fixture::start("waits");
    let mut client = fixture.connect();
    assert_eq!(send(&mut client, ""), 0);
    fixture.delay_ms.store(50, Ordering::SeqCst);
    let watch = Stopwatch::start();
    assert_eq!(send(&mut client, ""), 0);
    assert!(watch.elapsed() >= Duration::from_millis(50));
    // Who does not want to wait does not.
    fixture.delay_ms.store(2000, Ordering::SeqCst);
    let before = fixture.syncs.load(Ordering::SeqCst);
    assert_eq!(send(&mut client, "WAIT\u{1}false\u{2}"), 0);
    // A heartbeat of another client is answered at once, hundreds of them within one sync.
    let mut other = fixture.connect();
    let (mut slowest, mut beats) = (Duration::ZERO, 0);
    while fixture.syncs.load(Ordering::SeqCst) <= before + 1 && beats < 300 {
        let beat = Stopwatch::start();
        let body = br#"{"clientID":"c","producerDataSet":[{"groupName":"p"}]}"#;
        let answer = other.call(code::HEART_BEAT, &Pairs(&[]), body).expect("an answer");
        assert_eq!(answer.code, 0);
        slowest = slowest.max(beat.elapsed());
        beats += 1;
    }
    assert_eq!(beats, 300, "the sync was over before; the slowest heartbeat took {slowest:?}");
}

#[test]
fn after_five_seconds_a_send_is_told_and_its_message_is_there() {
    let fixture = Fixture::start("told");
    let mut client = fixture.connect();
    assert_eq!(send(&mut client, ""), 0);
    fixture.delay_ms.store(6000, Ordering::SeqCst);
    let watch = Stopwatch::start();
    // FLUSH_DISK_TIMEOUT: Java's client shows it as a status, not as an error.
    assert_eq!(send(&mut client, ""), 10);
    assert!(watch.elapsed() >= Duration::from_millis(4900), "{:?}", watch.elapsed());
    assert_eq!(stored(&mut client), "1", "nobody sees it before it is on the disk");
    fixture.delay_ms.store(0, Ordering::SeqCst);
    for _ in 0..100 {
        if stored(&mut client) == "2" {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(stored(&mut client), "2");
    assert_eq!(send(&mut client, ""), 0);
    assert_eq!(stored(&mut client), "3");
}
