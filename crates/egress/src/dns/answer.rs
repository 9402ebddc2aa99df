//! From a question to an answer, without a socket.

use std::time::Duration;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record as ResourceRecord, RecordType},
};
use tombolo_policy::{
    AssignError, Decision, HostName, VIP_ANSWER_TTL_S, VIP_REFUSAL_TTL_S, VirtualAddresses,
};

use crate::{audit::Record, rules::Rules, sandbox::Sandbox};

/// What we take by UDP: what fits everywhere (RFC 9715).
const PAYLOAD_MAX: u16 = 1232;
/// Octets of a message's header (RFC 1035, section 4.1.1).
const HEADER_LEN: usize = 12;

/// What a name leads to.
pub(crate) enum Answer {
    Addresses(Decision, VirtualAddresses),
    Denied(Decision),
    /// Denied, with the address where HTTP is told why.
    Explained(Decision, VirtualAddresses),
    /// It would be permitted, but there is no room or too many were asked for.
    Full(AssignError),
}

/// Asks the policy and gives a permitted name its addresses.
pub(super) fn addresses(
    sandbox: &Sandbox,
    rules: &Rules,
    name: &HostName,
    now: Duration,
) -> Answer {
    let network = rules.policy.network();
    let decision = network.decide_name(name);
    if !decision.is_allowed() {
        return if network.explains_name(name, &decision) {
            Answer::Explained(decision, sandbox.with_vips(|vips| vips.refusal()))
        } else {
            Answer::Denied(decision)
        };
    }
    let wildcard = network.wildcard(&decision);
    match sandbox.with_vips(|vips| vips.assign(name, wildcard, now)) {
        Ok(addresses) => Answer::Addresses(decision, addresses),
        Err(error) => Answer::Full(error),
    }
}

/// Answers a message and notes in the record what it was. None for what deserves no answer:
/// noise, and answers.
pub(crate) fn answer(
    bytes: &[u8],
    record: &mut Record,
    lookup: impl FnOnce(&HostName) -> Answer,
) -> Option<Vec<u8>> {
    let Ok(question) = Message::from_vec(bytes) else {
        record.refused("dns_malformed");
        return malformed(bytes);
    };
    if question.metadata.message_type != MessageType::Query {
        record.refused("dns_not_a_question");
        return None;
    }
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    if let Some(edns) = &question.edns {
        // Ours alone: no option of the guest is looked at or repeated (DNS-10).
        let mut own = Edns::new();
        own.set_max_payload(PAYLOAD_MAX);
        reply.edns = Some(own);
        if edns.version() != 0 {
            record.refused("dns_version");
            reply.metadata.response_code = ResponseCode::BADVERS;
            return reply.to_vec().ok();
        }
    }
    reply.metadata.response_code = if question.metadata.op_code != OpCode::Query {
        record.refused("dns_operation");
        ResponseCode::NotImp
    } else if let [query] = question.queries.as_slice() {
        reply.add_query(query.clone());
        answer_query(query, &mut reply, record, lookup)
    } else {
        record.refused("dns_malformed");
        ResponseCode::FormErr
    };
    reply.to_vec().ok()
}

fn answer_query(
    query: &Query,
    reply: &mut Message,
    record: &mut Record,
    lookup: impl FnOnce(&HostName) -> Answer,
) -> ResponseCode {
    record.method = Some(query.query_type().to_string());
    if query.query_class() != DNSClass::IN {
        record.refused("dns_class");
        return ResponseCode::Refused;
    }
    if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
        record.refused("dns_type");
        return ResponseCode::Refused;
    }
    let Some(name) = host_name(query.name()) else {
        // Whole in DNS, and no host that anybody can connect to.
        record.refused("dns_name");
        return ResponseCode::NXDomain;
    };
    record.name = Some(name.to_string());
    match lookup(&name) {
        Answer::Denied(decision) => {
            record.decided(&decision);
            ResponseCode::NXDomain
        }
        Answer::Full(error) => {
            record.refused(match error {
                AssignError::Full => "dns_names_full",
                AssignError::WildcardRate => "dns_wildcard_rate",
            });
            ResponseCode::ServFail
        }
        Answer::Addresses(decision, addresses) => {
            record.decided(&decision);
            add_addresses(query, reply, addresses, VIP_ANSWER_TTL_S);
            ResponseCode::NoError
        }
        Answer::Explained(decision, addresses) => {
            record.decided(&decision);
            add_addresses(query, reply, addresses, VIP_REFUSAL_TTL_S);
            ResponseCode::NoError
        }
    }
}

fn add_addresses(
    query: &Query,
    reply: &mut Message,
    addresses: VirtualAddresses,
    time_to_live_s: u32,
) {
    let data = match query.query_type() {
        RecordType::A => Some(RData::A(addresses.v4.into())),
        RecordType::AAAA => Some(RData::AAAA(addresses.v6.into())),
        // There is nothing else about it, least of all keys for TLS (DNS-08).
        _ => None,
    };
    reply.add_answers(
        data.map(|data| ResourceRecord::from_rdata(query.name().clone(), time_to_live_s, data)),
    );
}

/// The name as text, from its labels: a dot or another byte inside a label makes it none.
fn host_name(name: &Name) -> Option<HostName> {
    let mut text = String::new();
    for label in name {
        let label = std::str::from_utf8(label).ok()?;
        if label.contains('.') || !label.is_ascii() {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(label);
    }
    HostName::parse(&text).ok()
}

/// An answer to a question that cannot be read, if it is one at all.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let [id_high, id_low, flags, ..] = *bytes.get(..HEADER_LEN)? else {
        return None;
    };
    let is_question = flags & 0x80 == 0;
    let id = u16::from_be_bytes([id_high, id_low]);
    let reply = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    is_question.then(|| reply.to_vec().ok()).flatten()
}
