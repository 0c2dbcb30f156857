//! 324, 325: the answer to a request that another client sent as a message; it is pushed to that
//! client with 326, and stored. Java: `ReplyMessageProcessor`.

use std::sync::Arc;

use net::{Call, Handled, Refusal, Reply};
use wire::codes::{request as code, response};
use wire::header::{Head, Pairs, write_frame};
use wire::message_id::write_offset_id;
use wire::properties::{self, Known};
use wire::record::NewRecord;
use wire::requests::{ReplyMessage, SendMessage, SendMessageAnswer};
use wire::text::crc31;

use crate::config::BrokerConfig;
use crate::handlers::{relay, send};
use crate::put::put;
use crate::state::Broker;
use crate::turn::Turn;

/// Handles a reply. As in the original, it is stored whether or not the requester is there.
pub fn reply(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: SendMessage<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let config = broker.config();
    let fields = [
        ("MSG_REGION", config.region_id.as_str()),
        ("TRACE_ON", if config.trace_on { "true" } else { "false" }),
    ];
    let topic = match send::checked_topic(&broker, &config, &request, call.peer.remote) {
        Ok(topic) => topic,
        Err(refused) => {
            return call.answer(refused.code, refused.remark.as_deref(), &Pairs(&fields), |_| {});
        }
    };
    let (queue, queue_id) = send::pick_queue(&topic, request.queue_id, turn.now_ms)?;
    let text = request.properties.unwrap_or_default();
    let new = NewRecord {
        topic: request.topic,
        queue_id,
        flag: request.flag,
        sys_flag: 0,
        born_timestamp: request.born_timestamp,
        born_host: call.peer.remote,
        store_host: broker.store_host(call.peer.local),
        reconsume_times: request.reconsume_times.unwrap_or(0),
        prepared_offset: 0,
        body: call.body,
        body_crc: crc31(call.body),
        properties: text,
    };
    let (mut id, mut queue_offset) = ("0".to_owned(), 0);
    if config.store_reply_message_enable {
        match put(turn, &broker, &config, &queue, new, &Known::scan(text)) {
            Ok(put) => {
                let place = put.appended.place;
                id.clear();
                write_offset_id(&mut id, new.store_host, place.physical_offset as u64);
                queue_offset = place.queue_offset;
            }
            Err(refused) => tracing::warn!(?refused, "a reply is not stored"),
        }
    }
    let fields = SendMessageAnswer {
        msg_id: &id,
        queue_id,
        queue_offset,
        transaction_id: None,
        batch_uniq_id: None,
        recall_handle: None,
        region: &config.region_id,
        trace_on: if config.trace_on { "true" } else { "false" },
    };
    match push(turn, &broker, &config, &request, call, &fields) {
        Ok(()) => Ok(Reply::Later),
        Err(refused) => call.answer(refused.code, refused.remark.as_deref(), &fields, |_| {}),
    }
}

/// Sends 326 to the requester; its word decides what the replier is told.
fn push(
    turn: &Turn,
    broker: &Broker,
    config: &BrokerConfig,
    request: &SendMessage<'_>,
    call: &Call<'_>,
    fields: &SendMessageAnswer<'_>,
) -> Result<(), Refusal> {
    let fail = |text: String| Refusal::new(response::SYSTEM_ERROR, text);
    let text = request.properties.unwrap_or_default();
    let client = properties::get(text, properties::REPLY_TO_CLIENT)
        .ok_or_else(|| fail("reply message properties[REPLY_TO_CLIENT] is null".into()))?;
    let peer = broker.clients.producer_of(client).ok_or_else(|| {
        fail(format!("push reply message fail, channel of <{client}> not found."))
    })?;
    let mut pushed = properties::without(text, &[properties::PUSH_REPLY_TIME]);
    properties::push(&mut pushed, properties::PUSH_REPLY_TIME, &turn.now_ms.to_string());
    let (born, stored) =
        (call.peer.remote.to_string(), broker.store_host(call.peer.local).to_string());
    let message = ReplyMessage {
        producer_group: request.producer_group,
        topic: request.topic,
        default_topic: request.default_topic,
        default_topic_queue_nums: request.default_topic_queue_nums,
        queue_id: request.queue_id,
        sys_flag: request.sys_flag,
        born_timestamp: request.born_timestamp,
        flag: request.flag,
        properties: Some(&pushed),
        reconsume_times: request.reconsume_times,
        unit_mode: request.unit_mode,
        born_host: &born,
        store_host: &stored,
        store_timestamp: turn.now_ms,
        broker_name: &config.broker_name,
    };
    let answer = |code, remark: Option<&str>| {
        let mut frame = Vec::new();
        let head = Head::response(code, call.header.opaque, remark);
        write_frame(&mut frame, &head, fields, false, |_| {});
        frame
    };
    let failed = format!("push reply message to {client}fail.");
    let answers = relay::Answers::Fixed {
        success: answer(response::SUCCESS, None),
        failure: answer(response::SYSTEM_ERROR, Some(&failed)),
    };
    let asker = (!call.header.is_oneway()).then(|| Arc::clone(call.peer));
    relay::ask(broker, &peer, turn.now_ms, asker, answers, |opaque, frame| {
        let head = Head::request(code::PUSH_REPLY_MESSAGE_TO_CLIENT, opaque, false);
        write_frame(frame, &head, &message, false, |out| out.extend_from_slice(call.body));
    })
}
