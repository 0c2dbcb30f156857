//! Frames that are built once and patched, and the reading of answers.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use net::client::Client;
use wire::codes::request as code;
use wire::frame::Frame;
use wire::header::{Head, Header, Pairs, Scratch, write_frame};
use wire::record::encode_batch_entry;
use wire::requests::SendMessage;

/// Opaques start here, so that all have ten digits.
pub(crate) const FIRST_OPAQUE: i32 = 1_000_000_000;

/// A SEND frame whose opaque can be set in place.
pub(crate) struct Template {
    bytes: Vec<u8>,
    opaque_at: usize,
    /// Where the body starts, for those who write into it.
    pub(crate) body_at: usize,
}

impl Template {
    /// A send (310) of `size` bytes, or with `batch` > 0 a batch (320) of that many messages.
    pub(crate) fn send(topic: &str, queue_id: i32, size: usize, batch: usize) -> Result<Template> {
        let mut body = vec![b'x'; size];
        let unique = "UNIQ_KEY\u{1}FD00000000000000000000000000000249365FFD2B277DAFF8280000\u{2}";
        let properties = format!("{unique}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}");
        if batch > 0 {
            let message = std::mem::take(&mut body);
            (0..batch).for_each(|_| encode_batch_entry(0, &message, &properties, &mut body));
        }
        let fields = SendMessage {
            producer_group: "bench",
            topic,
            default_topic: "TBW102",
            default_topic_queue_nums: 4,
            queue_id,
            sys_flag: 0,
            born_timestamp: 1_700_000_000_000,
            flag: 0,
            properties: Some(if batch > 0 { "" } else { &properties }),
            reconsume_times: Some(0),
            unit_mode: false,
            max_reconsume_times: None,
            batch: batch > 0,
            broker_name: None,
        };
        let request = if batch > 0 { code::SEND_BATCH_MESSAGE } else { code::SEND_MESSAGE_V2 };
        let mut bytes = Vec::new();
        let head = Head::request(request, FIRST_OPAQUE, false);
        write_frame(&mut bytes, &head, &fields, true, |out| out.extend_from_slice(&body));
        let digits = FIRST_OPAQUE.to_string();
        let found = bytes.windows(digits.len()).position(|window| window == digits.as_bytes());
        let opaque_at = found.context("no opaque in the template")?;
        let body_at = bytes.len() - body.len();
        Ok(Template { bytes, opaque_at, body_at })
    }

    /// Appends the frame with this opaque; returns where it starts.
    pub(crate) fn write(&self, opaque: i32, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let mut rest = opaque;
        for digit in out[start + self.opaque_at..][..10].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        start
    }
}

/// What an answer to a send says.
pub(crate) struct Answer {
    pub(crate) opaque: i32,
    pub(crate) queue_id: usize,
    pub(crate) queue_offset: i64,
}

/// Reads an answer to a send; anything but success is an error.
pub(crate) fn answer(frame: &Frame<'_>, scratch: &mut Scratch) -> Result<Answer> {
    let header = Header::decode(frame.serialize, frame.header, scratch)?;
    if header.code != 0 {
        bail!("a send was answered with {}: {:?}", header.code, header.remark);
    }
    let number = |name| header.ext.get(name).and_then(|text| text.parse::<i64>().ok());
    Ok(Answer {
        opaque: header.opaque,
        queue_id: number("queueId").context("no queueId")? as usize,
        queue_offset: number("queueOffset").context("no queueOffset")?,
    })
}

/// Creates topics with code 17.
pub(crate) fn create_topics(addr: &str, topic: &str, topics: usize, queues: i32) -> Result<()> {
    let mut client = Client::connect(addr, Duration::from_secs(30))?;
    let queues = queues.to_string();
    for number in 0..topics {
        let name = format!("{topic}{number}");
        let fields = [
            ("topic", name.as_str()),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", &queues),
            ("writeQueueNums", &queues),
            ("perm", "6"),
            ("topicFilterType", "SINGLE_TAG"),
            ("topicSysFlag", "0"),
            ("order", "false"),
        ];
        let answer = client.call(code::UPDATE_AND_CREATE_TOPIC, &Pairs(&fields), b"")?;
        if answer.code != 0 {
            bail!("topic {name}: {} {:?}", answer.code, answer.remark);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::header::Fields;

    #[test]
    fn templates_are_real_frames_with_the_wanted_opaque() {
        for batch in [0, 3] {
            let template = Template::send("t0", 2, 100, batch).expect("template");
            let mut out = Vec::new();
            template.write(1_234_567_890, &mut out);
            let (frame, _) = wire::frame::split(&out, 1 << 20).expect("ok").expect("whole");
            let mut scratch = Scratch::default();
            let header =
                Header::decode(frame.serialize, frame.header, &mut scratch).expect("header");
            assert_eq!(header.opaque, 1_234_567_890);
            let send = SendMessage::decode(&header.ext).expect("fields");
            assert_eq!((send.queue_id, send.batch), (2, batch > 0));
            assert_eq!(out.len() - template.body_at, frame.body.len());
        }
    }
}
