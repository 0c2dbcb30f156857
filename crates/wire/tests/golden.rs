//! Every recorded frame of the original decodes, and encodes again to an equal meaning; frames of
//! Java with a JSON header encode to equal bytes.

use std::path::Path;

use wire::frame::{self, Serialize};
use wire::header::{Fields, Head, Header, Pairs, Scratch, write_binary_frame, write_frame};
use wire::json::Value;
use wire::message_id::unhex;
use wire::requests::{PullMessage, PullMessageAnswer, SendMessage, SendMessageAnswer};

struct Counts {
    frames: usize,
    same_bytes: usize,
    typed: usize,
}

fn lines(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/frames").join(name);
    let text = std::fs::read_to_string(&path).expect("golden frames");
    text.lines().map(|line| Value::parse(line).expect("golden line")).collect()
}

fn check_frame(id: &str, side: &Value, counts: &mut Counts) {
    let Some(raw) = side.get("raw_hex").and_then(Value::as_text) else { return };
    let bytes = unhex(raw).expect("hex");
    let broken =
        side.get("header_note").and_then(Value::text).is_some_and(|n| n.contains("broken"));
    let Ok(Some((got, len))) = frame::split(&bytes, frame::MAX_FRAME) else {
        assert!(broken || side.get("code").is_none(), "{id}: frame not split");
        return;
    };
    assert_eq!(len, bytes.len(), "{id}");
    let mut scratch = Scratch::default();
    let header = match Header::decode(got.serialize, got.header, &mut scratch) {
        Ok(header) => header,
        Err(error) => {
            assert!(broken || side.get("code").is_none(), "{id}: {error}");
            return;
        }
    };
    counts.frames += 1;
    let number = |name| side.get(name).and_then(Value::int).unwrap_or(0) as i32;
    assert_eq!((header.code, header.flag), (number("code"), number("flag")), "{id}");
    assert_eq!(header.opaque, number("opaque"), "{id}");
    assert_eq!(header.remark.map(str::to_owned), side.get("remark").and_then(Value::text), "{id}");
    let recorded = side.get("ext");
    for (name, value) in recorded.map_or(&[][..], Value::pairs) {
        let name = name.as_text().expect("name");
        // Java reads an empty value of a binary header as null.
        let binary = got.serialize == Serialize::Binary;
        let expected = value.text().filter(|text| !(binary && text.is_empty()));
        assert_eq!(header.ext.get(name).map(str::to_owned), expected, "{id} {name}");
    }
    encode_again(id, side, &bytes, &header, got.serialize, got.body, counts);
    typed(id, &header, counts);
}

/// Encodes what was decoded and decodes it once more.
fn encode_again(
    id: &str,
    side: &Value,
    bytes: &[u8],
    header: &Header<'_>,
    serialize: Serialize,
    body: &[u8],
    counts: &mut Counts,
) {
    let pairs: Vec<(&str, &str)> = header.ext.iter().collect();
    let head = Head {
        code: header.code,
        flag: header.flag,
        opaque: header.opaque,
        language: header.language,
        version: header.version,
        remark: header.remark,
    };
    let mut again = Vec::new();
    match serialize {
        Serialize::Binary => write_binary_frame(&mut again, &head, &Pairs(&pairs), false, body),
        Serialize::Json if header.ext.present => {
            write_frame(&mut again, &head, &Pairs(&pairs), false, |out| {
                out.extend_from_slice(body)
            });
        }
        Serialize::Json => {
            let none = wire::header::NoFields;
            write_frame(&mut again, &head, &none, false, |out| out.extend_from_slice(body));
        }
    }
    let raw_types = side.get("ext_raw_types").is_some_and(|types| !types.pairs().is_empty());
    let text = String::from_utf8_lossy(&bytes[8..]).into_owned();
    let canonical = serialize == Serialize::Binary
        || text.starts_with("{\"code\":")
            && text.contains("\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    if canonical && !raw_types && !text.contains("\"language\":\"java\"") && again == bytes {
        counts.same_bytes += 1;
    } else {
        let java = side.get("language").and_then(Value::as_text) == Some("JAVA");
        let hand_made = side.get("version").and_then(Value::int) == Some(515);
        assert!(
            !canonical || raw_types || !java || hand_made || serialize == Serialize::Binary,
            "{id}: bytes differ\n{}\n{}",
            String::from_utf8_lossy(bytes),
            String::from_utf8_lossy(&again)
        );
    }
    let (got, _) = frame::split(&again, frame::MAX_FRAME).expect("ok").expect("whole");
    let mut scratch = Scratch::default();
    let twice = Header::decode(got.serialize, got.header, &mut scratch).expect("header");
    assert_eq!(twice.ext.iter().collect::<Vec<_>>(), pairs, "{id}");
    assert_eq!(
        (twice.code, twice.opaque, twice.remark),
        (header.code, header.opaque, header.remark)
    );
    assert_eq!(got.body, body, "{id}");
}

/// The typed headers of the data path take what clients sent and keep every value of theirs.
fn typed(id: &str, header: &Header<'_>, counts: &mut Counts) {
    fn check<'a, F: Fields<'a>>(id: &str, header: &Header<'a>, short: bool) -> usize {
        let Ok(fields) = F::decode(&header.ext) else { return 0 };
        fields.each(short, &mut |name, text| {
            if let Some(sent) = header.ext.get(name) {
                assert_eq!(sent.to_lowercase(), text.to_lowercase(), "{id} {name}");
            }
        });
        1
    }
    let is_send = [10, 310, 320, 324, 325].contains(&header.code);
    counts.typed += match (header.is_response(), is_send) {
        (false, true) => {
            check::<SendMessage<'_>>(id, header, header.code >= 310 && header.code != 324)
        }
        (false, false) if [11, 361].contains(&header.code) => {
            check::<PullMessage<'_>>(id, header, false)
        }
        (true, _) if header.ext.get("queueOffset").is_some() => {
            check::<SendMessageAnswer<'_>>(id, header, false)
        }
        (true, _) if header.ext.get("nextBeginOffset").is_some() => {
            check::<PullMessageAnswer>(id, header, false)
        }
        _ => 0,
    };
}

#[test]
fn recorded_frames_decode_and_encode_again() {
    let mut counts = Counts { frames: 0, same_bytes: 0, typed: 0 };
    let files = [
        "admin",
        "client",
        "cluster",
        "dialects",
        "errors",
        "namesrv",
        "offset",
        "pop",
        "pull",
        "query",
        "send",
        "transaction",
    ];
    for file in files {
        for pair in lines(&format!("{file}.jsonl")) {
            let id = pair.get("id").and_then(Value::as_text).expect("id").to_owned();
            for side in ["req", "resp"].into_iter().filter_map(|side| pair.get(side)) {
                check_frame(&id, side, &mut counts);
            }
        }
    }
    println!(
        "{} frames, {} with equal bytes, {} typed",
        counts.frames, counts.same_bytes, counts.typed
    );
    assert!(counts.frames > 550 && counts.same_bytes > 350 && counts.typed > 100);
}
