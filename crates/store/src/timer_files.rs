//! The files in which a Java broker knows what waits for a time: `timerwheel`, `timerlog/` and
//! `config/timercheck`. Java: `TimerWheel`, `TimerLog`, `TimerCheckpoint`.
//!
//! This store does not need them: what waits is found in the queue itself. They are read once when
//! a Java broker was here, and written at a clean stop so that a Java broker can go on. While we
//! run there is only `timercheck`, which names the oldest record that may wait: after a kill a Java
//! broker looks through the queue from there, so nothing is lost and some may come twice.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, Present};

/// Bytes of `timercheck`.
const CHECK_BYTES: u64 = 4096;
/// Java's seven fields and four of our own behind them: says that this store wrote the file, with
/// copies of two fields that Java moves once a second, so that they differ when it was here.
const OWN_MARK: i64 = 0x4150_4F47_4545_0002;
/// Where the fields of our own are.
const OWN: usize = 8;
/// Two weeks of seconds. Java: `TIMER_WHEEL_TTL_DAY` times two.
const SLOTS: i64 = 2 * 7 * 86_400;
/// Bytes of a slot: second, first and last position in the log, number, zero.
const SLOT_BYTES: i64 = 32;
/// Java: `timerPrecisionMs`.
const PRECISION_MS: i64 = 1000;
/// What is due later than this waits in the wheel for a shorter time and is put in again then.
/// Java: `timerRollWindowSlot`.
const WINDOW_MS: i64 = 172_800 * PRECISION_MS;
/// Bytes of one message in the log. Java: `TimerLog.UNIT_SIZE`.
const UNIT_BYTES: usize = 52;
/// Bytes that close a file of the log, and what they begin and end with.
const BLANK_BYTES: usize = 16;
const BLANK_MAGIC: u32 = 0xCBD4_3194;
/// Size of a file of the log. Java: `mappedFileSizeTimerLog`.
const LOG_FILE_BYTES: u64 = 104_857_600;

/// What `timercheck` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerCheck {
    /// Records that were put into the wheel and were due before this time (epoch milliseconds, by
    /// their `TIMER_OUT_MS`) are delivered.
    pub read_ms: i64,
    /// Records of the timer queue below this offset were put into the wheel.
    pub queue_offset: i64,
    /// This store wrote the file, and no Java broker has run since.
    pub own: bool,
}

impl TimerCheck {
    /// Whether a Java broker that left this has delivered the record at `offset` whose
    /// `TIMER_OUT_MS` is `out_ms`. What it had not put into its wheel it did not deliver.
    pub fn passed(&self, offset: i64, out_ms: i64) -> bool {
        offset < self.queue_offset && out_ms < self.read_ms
    }
}

/// A message that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingTimer {
    /// When it is due, epoch milliseconds.
    pub due_ms: i64,
    /// Where its record is.
    pub physical_offset: i64,
    /// Bytes of the record.
    pub size: i32,
    /// It recalls another message.
    pub recalls: bool,
}

/// The three files of one store.
#[derive(Debug)]
pub struct TimerFiles {
    disk: Disk,
    root: PathBuf,
}

/// One slot of the wheel.
#[derive(Debug, Clone, Copy)]
struct Slot {
    first: i64,
    last: i64,
    count: i32,
}

/// Reads `timercheck`: its numbers, when there are any.
fn fields(bytes: &[u8]) -> Option<[i64; 12]> {
    let mut fields = [0; 12];
    for (field, bytes) in fields.iter_mut().zip(bytes.chunks_exact(8)) {
        *field = i64::from_be_bytes(bytes.try_into().ok()?);
    }
    (bytes.len() >= 56).then_some(fields)
}

impl TimerFiles {
    /// The files below a store directory.
    pub fn new(disk: &Disk, root: &Path) -> TimerFiles {
        TimerFiles { disk: disk.clone(), root: root.to_path_buf() }
    }

    fn check_path(&self) -> PathBuf {
        self.root.join("config").join("timercheck")
    }

    fn load(&self) -> Option<[i64; 12]> {
        fields(&self.disk.read(&self.check_path()).ok()?)
    }

    /// What the last broker said; `None` without a readable file.
    pub fn check(&self) -> Option<TimerCheck> {
        let fields = self.load()?;
        let copies = [OWN_MARK, fields[0], fields[2]];
        Some(TimerCheck {
            read_ms: fields[0],
            queue_offset: fields[2].min(fields[3]),
            own: fields[OWN..OWN + 3] == copies,
        })
    }

    /// Says that records from `queue_offset` on may wait, and removes the wheel and its log, which
    /// are of another time. In this order: a kill in between costs a Java broker nothing.
    pub fn begin(&self, queue_offset: i64, now_ms: i64) -> io::Result<()> {
        let log_file = self.log_file_bytes();
        self.save(now_ms - now_ms.rem_euclid(PRECISION_MS), 0, queue_offset, log_file)?;
        self.remove_wheel()
    }

    fn remove_wheel(&self) -> io::Result<()> {
        let (wheel, log) = (self.root.join("timerwheel"), self.root.join("timerlog"));
        let mut removed = false;
        if self.disk.exists(&wheel) {
            self.disk.remove_file(&wheel)?;
            removed = true;
        }
        if self.disk.exists(&log) {
            self.disk.remove_dir_all(&log)?;
            removed = true;
        }
        if removed { self.disk.sync_dir(&self.root) } else { Ok(()) }
    }

    /// Size of the log's files: of those that are there, else as it was, else Java's default.
    fn log_file_bytes(&self) -> u64 {
        let found = self.disk.list(&self.root.join("timerlog")).unwrap_or_default();
        let found = found.iter().map(|file| file.len).find(|len| *len > 0);
        let noted = || self.load().and_then(|fields| u64::try_from(fields[OWN + 3]).ok());
        found.or_else(noted).filter(|len| *len > 0).unwrap_or(LOG_FILE_BYTES)
    }

    fn save(&self, read_ms: i64, log_end: i64, queue_offset: i64, log_file: u64) -> io::Result<()> {
        let fields = [
            read_ms,
            log_end,
            queue_offset,
            queue_offset,
            0,
            read_ms,
            1,
            0,
            OWN_MARK,
            read_ms,
            queue_offset,
            log_file as i64,
        ];
        let bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_be_bytes()).collect();
        let path = self.check_path();
        let dir = self.root.join("config");
        self.disk.create_dirs_durably(&dir)?;
        let file = self.disk.create_sized(&path, CHECK_BYTES)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        self.disk.sync_dir(&dir)
    }

    /// Leaves everything as a Java broker does that has put all records below `queue_offset` into
    /// its wheel and delivered those that are not in `waiting`, which are in the queue's order.
    /// `newest` is the record right below `queue_offset`, unless it waits itself: Java goes on
    /// behind the last record of its log.
    pub fn leave(
        &self,
        waiting: &[WaitingTimer],
        newest: Option<WaitingTimer>,
        queue_offset: i64,
        now_ms: i64,
    ) -> io::Result<()> {
        let log_file = self.log_file_bytes();
        self.remove_wheel()?;
        let now_ms = now_ms - now_ms.rem_euclid(PRECISION_MS);
        // What is due already must not lie behind the time that Java reads from.
        let earliest = waiting.iter().map(|timer| slot_ms(timer.due_ms)).min();
        let read_ms = earliest.map_or(now_ms, |earliest| earliest.min(now_ms));
        let (mut log, mut slots) = (Log::new(log_file as usize), HashMap::new());
        for timer in waiting {
            log.add(timer, now_ms, &mut slots);
        }
        if let Some(newest) = newest {
            // In a slot of the past, which nobody reads.
            log.add(&WaitingTimer { due_ms: read_ms - 60_000, ..newest }, now_ms, &mut slots);
        }
        self.write_log(&log, log_file)?;
        self.write_wheel(&slots)?;
        self.disk.sync_dir(&self.root)?;
        self.save(read_ms, log.bytes.len() as i64, queue_offset, log_file)
    }

    fn write_log(&self, log: &Log, log_file: u64) -> io::Result<()> {
        if log.bytes.is_empty() {
            return Ok(());
        }
        let dir = self.root.join("timerlog");
        self.disk.create_dirs_durably(&dir)?;
        for (index, bytes) in log.bytes.chunks(log_file as usize).enumerate() {
            let name = format!("{:020}", index as u64 * log_file);
            let file = self.disk.create_sized(&dir.join(name), log_file)?;
            file.write_all_at(bytes, 0)?;
            file.sync_data()?;
        }
        self.disk.sync_dir(&dir)
    }

    fn write_wheel(&self, slots: &HashMap<i64, Slot>) -> io::Result<()> {
        let file = self.disk.create(&self.root.join("timerwheel"), Present::Empty)?;
        file.set_len((SLOTS * SLOT_BYTES) as u64)?;
        for (second, slot) in slots {
            let mut bytes = Vec::with_capacity(SLOT_BYTES as usize);
            for number in [*second, slot.first, slot.last] {
                bytes.extend(number.to_be_bytes());
            }
            bytes.extend(slot.count.to_be_bytes());
            bytes.extend([0; 4]);
            file.write_all_at(&bytes, (second.rem_euclid(SLOTS) * SLOT_BYTES) as u64)?;
        }
        file.sync_data()
    }
}

/// The slot of a message: Java delivers it when this second is over.
fn slot_ms(due_ms: i64) -> i64 {
    (due_ms - 1).div_euclid(PRECISION_MS) * PRECISION_MS
}

/// The timer log while it is made, over all its files.
struct Log {
    bytes: Vec<u8>,
    file: usize,
}

impl Log {
    fn new(file: usize) -> Log {
        Log { bytes: Vec::new(), file: file.max(UNIT_BYTES + BLANK_BYTES) }
    }

    fn add(&mut self, timer: &WaitingTimer, now_ms: i64, slots: &mut HashMap<i64, Slot>) {
        let left = self.file - self.bytes.len() % self.file;
        if left < UNIT_BYTES + BLANK_BYTES {
            self.bytes.extend((left as i32).to_be_bytes());
            self.bytes.extend(0_i64.to_be_bytes());
            self.bytes.extend(BLANK_MAGIC.to_be_bytes());
            self.bytes.resize(self.bytes.len() + left - BLANK_BYTES, 0);
        }
        let (mut out_ms, mut magic) = (slot_ms(timer.due_ms), 1);
        let rest = out_ms - now_ms - WINDOW_MS;
        if rest >= 0 {
            magic |= 2;
            out_ms = now_ms + if rest < WINDOW_MS / 3 { WINDOW_MS / 2 } else { WINDOW_MS };
        }
        magic |= i32::from(timer.recalls) << 2;
        // Its time must be near enough to the time of writing to fit in four bytes.
        let written_ms = now_ms.min(out_ms);
        let at = self.bytes.len() as i64;
        let slot = slots.entry(out_ms.div_euclid(PRECISION_MS));
        let slot = slot.or_insert(Slot { first: at, last: -1, count: 0 });
        self.bytes.extend((UNIT_BYTES as i32).to_be_bytes());
        self.bytes.extend(slot.last.to_be_bytes());
        self.bytes.extend(i32::to_be_bytes(magic));
        self.bytes.extend(written_ms.to_be_bytes());
        self.bytes.extend(((out_ms - written_ms) as i32).to_be_bytes());
        self.bytes.extend(timer.physical_offset.to_be_bytes());
        self.bytes.extend(timer.size.to_be_bytes());
        self.bytes.extend([0; 12]);
        slot.last = at;
        slot.count += if timer.recalls { -1 } else { 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Memory;

    const NOW_MS: i64 = 1_795_000_000_500;

    fn timer(due_ms: i64, physical_offset: i64) -> WaitingTimer {
        WaitingTimer { due_ms, physical_offset, size: 100, recalls: false }
    }

    fn files() -> TimerFiles {
        TimerFiles::new(&Disk::memory(Memory::default()), Path::new("/s"))
    }

    fn number(bytes: &[u8], at: usize) -> i64 {
        i64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// Walks a slot as Java does, from its last message back.
    fn in_slot(files: &TimerFiles, second: i64, log_file: usize) -> Vec<i64> {
        let wheel = files.disk.read(Path::new("/s/timerwheel")).unwrap();
        assert_eq!(wheel.len(), 38_707_200);
        let slot = (second % SLOTS * SLOT_BYTES) as usize;
        assert_eq!(number(&wheel, slot), second);
        let (mut at, mut found) = (number(&wheel, slot + 16), Vec::new());
        while at >= 0 {
            let (file, inside) = (at as usize / log_file, at as usize % log_file);
            let name = format!("/s/timerlog/{:020}", file * log_file);
            let log = files.disk.read(Path::new(&name)).unwrap();
            assert_eq!((log.len(), number(&log, inside) >> 32), (log_file, 52));
            found.push(number(&log, inside + 28));
            at = number(&log, inside + 4);
        }
        found
    }

    #[test]
    fn a_java_broker_finds_every_waiting_message_in_its_second() {
        let files = files();
        files.save(0, 0, 0, 200).unwrap(); // small files of the log
        let waiting = [
            timer(NOW_MS + 5000, 1000),
            timer(NOW_MS - 3000, 1100), // due, not delivered before the stop
            timer(NOW_MS + 4600, 1200), // of the same second as the first
            timer(NOW_MS + 4 * WINDOW_MS, 1300),
            timer(1_795_000_009_000, 1400), // on a whole second: Java's second before
        ];
        files.leave(&waiting, Some(timer(NOW_MS - 9000, 1500)), 70, NOW_MS).unwrap();
        assert_eq!(in_slot(&files, 1_795_000_005, 200), [1200, 1000]);
        assert_eq!(in_slot(&files, 1_794_999_997, 200), [1100]);
        assert_eq!(in_slot(&files, 1_795_000_000 + 172_800, 200), [1300]);
        assert_eq!(in_slot(&files, 1_795_000_008, 200), [1400]);
        let check = files.check().unwrap();
        assert_eq!((check.queue_offset, check.own), (70, true));
        assert!(check.read_ms <= 1_794_999_997_000, "what is due lies before it");
        assert!(check.passed(69, 1_794_999_996_000) && !check.passed(69, 1_794_999_997_000));
        assert!(!check.passed(70, 0), "what was not put into the wheel was not delivered");
    }

    #[test]
    fn java_moves_the_numbers_and_is_recognised() {
        let files = files();
        assert_eq!(files.check(), None);
        files.leave(&[timer(NOW_MS + 5000, 0)], None, 1, NOW_MS).unwrap();
        assert!(files.check().unwrap().own);
        let path = Path::new("/s/config/timercheck");
        let file = files.disk.open(path).unwrap();
        file.write_all_at(&(NOW_MS + 1000).to_be_bytes(), 0).unwrap();
        let check = files.check().unwrap();
        assert_eq!((check.own, check.read_ms), (false, NOW_MS + 1000));
        files.begin(1, NOW_MS).unwrap();
        assert!(files.check().unwrap().own);
        assert!(!files.disk.exists(Path::new("/s/timerwheel")));
        assert!(!files.disk.exists(Path::new("/s/timerlog")));
    }
}
