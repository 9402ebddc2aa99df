//! From a question of the DNS to an answer, without a socket. There is one name here, the
//! one where an authority looks for its challenges (RFC 8555, 8.4), with all that a zone
//! of its own needs (RFC 1034, 4.2.1).

use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{NS, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use parking_lot::Mutex;

use crate::host::Base;

/// What fits in a datagram everywhere (RFC 9715).
const PAYLOAD_MAX: u16 = 1232;
/// Values at one time: one for the base, one for the names below it.
const VALUES_MAX: usize = 4;
/// Nobody is to remember a challenge, nor that there was none.
const TIME_TO_LIVE_S: u32 = 1;
/// What the zone says to servers that copy zones, of which there are none.
const REFRESH_S: i32 = 3600;

/// The zone of one name.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    apex: Name,
    host: Name,
    values: Arc<Mutex<Vec<String>>>,
}

impl Zone {
    /// None when the base is too long for a name below it.
    pub(super) fn of(base: &Base) -> Option<Self> {
        let name = |text: String| Name::from_ascii(text).ok();
        Some(Self {
            apex: name(format!("_acme-challenge.{base}."))?,
            host: name(format!("{base}."))?,
            values: Arc::default(),
        })
    }

    /// Shows a value besides those that are shown.
    pub(super) fn publish(&self, value: String) {
        let mut values = self.values.lock();
        if values.len() == VALUES_MAX {
            values.remove(0);
        }
        values.push(value);
    }

    /// Shows none any more.
    pub(super) fn clear(&self) {
        self.values.lock().clear();
    }

    /// Answers a message; none for what deserves no answer.
    pub(super) fn answer(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let question = Message::from_vec(bytes).ok()?;
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
        reply.metadata.recursion_desired = question.metadata.recursion_desired;
        if question.edns.is_some() {
            let mut own = Edns::new();
            own.set_max_payload(PAYLOAD_MAX);
            reply.edns = Some(own);
        }
        reply.metadata.response_code = if question.metadata.op_code != OpCode::Query {
            ResponseCode::NotImp
        } else if let [query] = question.queries.as_slice() {
            reply.add_query(query.clone());
            self.answer_query(query, &mut reply)
        } else {
            ResponseCode::FormErr
        };
        reply.to_vec().ok()
    }

    fn answer_query(&self, query: &Query, reply: &mut Message) -> ResponseCode {
        if query.query_class() != DNSClass::IN || !self.apex.zone_of(query.name()) {
            return ResponseCode::Refused;
        }
        reply.metadata.authoritative = true;
        // As it was asked: resolvers mix the case of letters to know their answers by.
        let apex = query.name();
        let is_apex = *apex == self.apex;
        let data = match query.query_type() {
            _ if !is_apex => Vec::new(),
            RecordType::TXT => {
                let values = self.values.lock();
                let text = |value: &String| RData::TXT(TXT::new(vec![value.clone()]));
                values.iter().map(text).collect()
            }
            RecordType::NS => vec![RData::NS(NS(self.host.clone()))],
            RecordType::SOA => vec![RData::SOA(self.start())],
            _ => Vec::new(),
        };
        let found = !data.is_empty();
        let record = |data| Record::from_rdata(apex.clone(), TIME_TO_LIVE_S, data);
        reply.add_answers(data.into_iter().map(record));
        if !found {
            let start = RData::SOA(self.start());
            let start = Record::from_rdata(self.apex.clone(), TIME_TO_LIVE_S, start);
            reply.add_authority(start);
        }
        if is_apex {
            ResponseCode::NoError
        } else {
            ResponseCode::NXDomain
        }
    }

    fn start(&self) -> SOA {
        let (host, second) = (self.host.clone(), TIME_TO_LIVE_S);
        SOA::new(
            host.clone(),
            host,
            1,
            REFRESH_S,
            REFRESH_S,
            REFRESH_S,
            second,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(zone: &Zone, name: &str, kind: RecordType) -> Message {
        let mut question = Message::query();
        question.metadata.id = 7;
        let name = Name::from_ascii(name).unwrap();
        question.add_query(Query::query(name, kind));
        let reply = zone.answer(&question.to_vec().unwrap()).unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.metadata.id, 7);
        reply
    }

    #[test]
    fn one_name_is_answered_for() {
        let zone = Zone::of(&"box.example.com".parse().unwrap()).unwrap();
        let apex = "_acme-challenge.box.example.com.";
        zone.publish("one".to_owned());
        zone.publish("two".to_owned());
        let cases = [
            (apex, RecordType::TXT, ResponseCode::NoError, 2),
            (
                "_ACME-challenge.BOX.example.com.",
                RecordType::TXT,
                ResponseCode::NoError,
                2,
            ),
            (apex, RecordType::SOA, ResponseCode::NoError, 1),
            (apex, RecordType::NS, ResponseCode::NoError, 1),
            (apex, RecordType::A, ResponseCode::NoError, 0),
            (
                "x._acme-challenge.box.example.com.",
                RecordType::TXT,
                ResponseCode::NXDomain,
                0,
            ),
            (
                "box.example.com.",
                RecordType::TXT,
                ResponseCode::Refused,
                0,
            ),
            (
                "_acme-challenge.example.com.",
                RecordType::TXT,
                ResponseCode::Refused,
                0,
            ),
            (".", RecordType::TXT, ResponseCode::Refused, 0),
        ];
        for (name, kind, code, answers) in cases {
            let reply = ask(&zone, name, kind);
            let seen = (reply.metadata.response_code, reply.answers.len());
            assert_eq!(seen, (code, answers), "{name} {kind}");
            let is_ours = code != ResponseCode::Refused;
            assert_eq!(reply.metadata.authoritative, is_ours, "{name} {kind}");
            assert_eq!(
                reply.authorities.len(),
                usize::from(is_ours && answers == 0)
            );
        }
        zone.clear();
        assert!(ask(&zone, apex, RecordType::TXT).answers.is_empty());
    }

    #[test]
    fn values_are_bounded_and_fit_in_any_datagram() {
        let long = format!("{}.example", ["a"; 90].join("."));
        let zone = Zone::of(&long.parse().unwrap()).unwrap();
        for _ in 0..100 {
            zone.publish("v".repeat(43));
        }
        let reply = ask(&zone, &zone.apex.to_ascii(), RecordType::TXT);
        assert_eq!(reply.answers.len(), VALUES_MAX);
        assert!(reply.to_vec().unwrap().len() <= 512);
    }

    #[test]
    fn noise_is_not_answered() {
        let zone = Zone::of(&"box.example.com".parse().unwrap()).unwrap();
        let answer = Message::response(1, OpCode::Query).to_vec().unwrap();
        for noise in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 600], &answer] {
            assert_eq!(zone.answer(noise), None, "{noise:?}");
        }
    }
}
