//! DNS-*: what a guest may ask and what it is told.

use std::net::{Ipv4Addr, SocketAddr};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, RecordType,
        rdata::opt::{EdnsCode, EdnsOption},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
    time::timeout,
};

use super::rig::{PATIENCE, Rig};
use crate::dns::{Datagrams, serve_datagrams};

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// Asks by UDP, as if it had been sent to a resolver on the internet (DNS-03).
async fn ask_bytes(rig: &Rig, question: &[u8]) -> Vec<u8> {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = server.local_addr().unwrap();
    let original: SocketAddr = "8.8.8.8:53".parse().unwrap();
    let serve = serve_datagrams(
        std::sync::Arc::clone(&rig.sandbox),
        Datagrams::Plain(server, original),
    );
    rig.sandbox.tasks.spawn(serve);
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    client.send_to(question, address).await.unwrap();
    let mut buffer = [0; 4096];
    let (len, _) = timeout(PATIENCE, client.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    buffer[..len].to_vec()
}

async fn ask(rig: &Rig, question: &Message) -> Message {
    let answer = ask_bytes(rig, &question.to_vec().unwrap()).await;
    Message::from_vec(&answer).unwrap()
}

/// DNS-01, DNS-02, DNS-08: only addresses of permitted names are told.
#[tokio::test]
async fn dns_01_02_08_only_addresses_of_permitted_names_are_told() {
    use RecordType as Type;
    for (name, kind, code, answers) in [
        ("good.test.", Type::A, ResponseCode::NoError, 1),
        ("good.test.", Type::AAAA, ResponseCode::NoError, 1),
        ("GOOD.tEsT.", Type::A, ResponseCode::NoError, 1),
        ("a.wild.test.", Type::A, ResponseCode::NoError, 1),
        ("good.test.", Type::HTTPS, ResponseCode::NoError, 0),
        ("good.test.", Type::SVCB, ResponseCode::NoError, 0),
        ("good.test.", Type::TXT, ResponseCode::NoError, 0),
        ("good.test.", Type::ANY, ResponseCode::NoError, 0),
        ("good.test.", Type::AXFR, ResponseCode::Refused, 0),
        // Refused names lead to the address where that is explained, and nowhere else.
        ("wild.test.", Type::A, ResponseCode::NoError, 1),
        ("c2VjcmV0.evil.test.", Type::AAAA, ResponseCode::NoError, 1),
        ("evil.test.", Type::TXT, ResponseCode::NoError, 0),
        ("evil.test.", Type::HTTPS, ResponseCode::NoError, 0),
        ("evil.", Type::A, ResponseCode::NXDomain, 0),
        (
            "1.0.0.127.in-addr.arpa.",
            Type::PTR,
            ResponseCode::NXDomain,
            0,
        ),
        (
            "metadata.google.internal.",
            Type::A,
            ResponseCode::NXDomain,
            0,
        ),
    ] {
        let rig = Rig::usual().await;
        let answer = ask(&rig, &question(name, kind)).await;
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert_eq!(answer.answers.len(), answers, "{name} {kind}");
        let records = rig.finish(1).await;
        assert_eq!(records[0]["proto"], "dns");
        assert_eq!(records[0]["orig_dst"], "8.8.8.8:53");
    }
}

#[tokio::test]
async fn dns_the_address_leads_to_the_name() {
    let rig = Rig::usual().await;
    let answer = ask(&rig, &question("good.test.", RecordType::A)).await;
    let RData::A(address) = answer.answers[0].data else {
        panic!("no address")
    };
    assert_eq!(
        std::net::IpAddr::from(address.0),
        rig.address_of("good.test")
    );
    assert!(answer.metadata.recursion_available);
    rig.finish(1).await;
}

/// DNS-01: however many refused names are asked for, there is one address for all.
#[tokio::test]
async fn dns_01_refused_names_share_one_address_that_is_none_of_the_pool() {
    let rig = Rig::usual().await;
    let refusal = rig.sandbox.with_vips(|vips| vips.refusal());
    for name in ["evil.test.", "c2VjcmV0.evil.test.", "wild.test."] {
        for (kind, expected) in [
            (RecordType::A, RData::A(refusal.v4.into())),
            (RecordType::AAAA, RData::AAAA(refusal.v6.into())),
        ] {
            let answer = ask(&rig, &question(name, kind)).await;
            assert_eq!(answer.answers[0].data, expected, "{name} {kind}");
            assert_eq!(answer.answers[0].ttl, tombolo_policy::VIP_REFUSAL_TTL_S);
        }
    }
    for record in rig.finish(6).await {
        assert_eq!(record["decision"], "deny", "{record}");
        assert_eq!(record["reason"], "not_listed", "{record}");
    }
}

/// DNS-02: other operations and classes end here.
#[tokio::test]
async fn dns_02_other_operations_and_classes_end_here() {
    let mut update = question("good.test.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    let mut notify = question("good.test.", RecordType::A);
    notify.metadata.op_code = OpCode::Notify;
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut two = question("good.test.", RecordType::A);
    two.add_query(Query::query(
        Name::from_ascii("good.test.").unwrap(),
        RecordType::AAAA,
    ));
    for (message, code) in [
        (update, ResponseCode::NotImp),
        (notify, ResponseCode::NotImp),
        (chaos, ResponseCode::Refused),
        (two, ResponseCode::FormErr),
    ] {
        let rig = Rig::usual().await;
        assert_eq!(
            ask(&rig, &message).await.metadata.response_code,
            code,
            "{message:?}"
        );
        rig.finish(1).await;
    }
}

/// DNS-10: malformed questions get an error and options nothing.
#[tokio::test]
async fn dns_10_malformed_questions_get_an_error_and_options_nothing() {
    let header = [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for question in [
        [&header[..], &[0xc0, 12, 0, 1, 0, 1]].concat(),
        [&header[..], &[63, b'a']].concat(),
        header.to_vec(),
    ] {
        let rig = Rig::usual().await;
        let answer = Message::from_vec(&ask_bytes(&rig, &question).await).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
        assert_eq!(answer.metadata.id, 9);
        rig.finish(1).await;
    }
    let rig = Rig::usual().await;
    let mut with_cookie = question("good.test.", RecordType::A);
    let mut edns = Edns::new();
    edns.options_mut()
        .insert(EdnsOption::Unknown(10, b"cookie42".to_vec()));
    with_cookie.set_edns(edns);
    let answer = ask(&rig, &with_cookie).await;
    assert!(answer.edns.unwrap().option(EdnsCode::Cookie).is_none());
    rig.finish(1).await;
}

/// DNS-03: by TCP the answers are the same.
#[tokio::test]
async fn dns_03_by_tcp_the_answers_are_the_same() {
    let rig = Rig::usual().await;
    let mut stream = rig.connect_to("1.1.1.1:53".parse().unwrap()).await;
    for (name, code) in [
        ("good.test.", ResponseCode::NoError),
        ("evil.", ResponseCode::NXDomain),
    ] {
        let question = question(name, RecordType::A).to_vec().unwrap();
        stream
            .write_u16(u16::try_from(question.len()).unwrap())
            .await
            .unwrap();
        stream.write_all(&question).await.unwrap();
        let len = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
        let mut answer = vec![0; usize::from(len)];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(
            Message::from_vec(&answer).unwrap().metadata.response_code,
            code,
            "{name}"
        );
    }
    rig.finish(2).await;
}

/// DNS-06, DNS-07: what a name leads to is filtered before it is dialled.
#[tokio::test]
async fn dns_06_07_what_a_name_leads_to_is_filtered_before_it_is_dialled() {
    for (addresses, code) in [
        (&["10.0.0.1"][..], "resolved_private"),
        (&["169.254.169.254"], "metadata"),
        (&["127.0.0.1", "::1"], "resolved_private"),
        (&["::ffff:10.0.0.1", "fd00::1"], "resolved_private"),
        (&[], "upstream_dns"),
    ] {
        let rig = Rig::usual().await;
        let addresses: Vec<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        if !addresses.is_empty() {
            rig.names
                .lock()
                .insert("private.test".to_owned(), addresses);
        }
        let stream = rig.connect("private.test", 80).await;
        let answer = rig
            .talk(
                stream,
                b"GET / HTTP/1.1\r\nHost: private.test\r\nConnection: close\r\n\r\n",
            )
            .await;
        assert!(answer.contains(code), "{code}: {answer}");
        let records = rig.finish(1).await;
        assert_eq!(records[0]["resolved_ip"], serde_json::Value::Null);
    }
}
