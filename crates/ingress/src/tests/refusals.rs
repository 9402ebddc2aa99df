//! What is told when no program answers.

use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::rig::{
    BASE, Door, Entry, OTHER, PUBLIC, Rig, TOKEN, answers, exposure, quick, says, serves, within,
};
use crate::backend::{Found, Target};

type Headers<'a> = &'a [(&'a str, &'a str)];

const GET: &str = "GET / HTTP/1.1\r\nhost: 0123456789abcdef0123456789abcdef.tombolo.localhost\r\n\
                   connection: close\r\n\r\n";

/// The status of an answer, and the code that this program marks its own with.
fn told(answer: &str) -> (u16, &str) {
    let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok());
    let mark = answer
        .lines()
        .find_map(|line| line.strip_prefix("x-tombolo-ingress: "));
    (status.unwrap_or_default(), mark.unwrap_or_default())
}

#[tokio::test]
async fn http_without_tls_is_told_to_use_it() {
    let rig = Rig::with(quick(), answers("reached")).await;
    // One whole, one that never ends, and one with more than is read.
    let long = format!("POST / HTTP/1.1\r\n\r\n{}", "a".repeat(1 << 20));
    for request in [GET, "G", &long] {
        let (mut reads, mut writes) = rig.tcp().await.into_split();
        let mut text = String::new();
        let sent = writes.write_all(request.as_bytes());
        let read = reads.read_to_string(&mut text);
        // Of what is too long the end is not taken.
        let (sent, read) = within(async { tokio::join!(sent, read) }).await;
        assert!(request.len() > GET.len() || (sent.is_ok() && read.is_ok()));
        assert_eq!(told(&text), (400, "TLS_REQUIRED"), "{text}");
        assert!(text.contains("https://"), "{text}");
    }
    // What is neither is closed without a word.
    let mut stream = rig.tcp().await;
    stream.write_all(b"\x00\x01").await.unwrap();
    let mut bytes = Vec::new();
    let read = within(stream.read_to_end(&mut bytes)).await;
    assert!(
        !String::from_utf8_lossy(&bytes).contains("HTTP"),
        "{read:?}"
    );
}

#[tokio::test]
async fn every_bad_request_gets_a_clear_answer() {
    let rig = Rig::with(quick(), answers("reached")).await;
    let long = "a".repeat(70 * 1024);
    let host = format!("{PUBLIC}.{BASE}");
    let get = |host: &str| format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let cases = [
        (get(&host), (200, "")),
        (get(&format!("{host}:8443")), (200, "")),
        (get(&format!("{OTHER}.{BASE}")), (404, "NO_SUCH_ADDRESS")),
        (get(BASE), (404, "NO_SUCH_ADDRESS")),
        (get("localhost"), (404, "NO_SUCH_ADDRESS")),
        (get(&format!("x.{host}")), (404, "NO_SUCH_ADDRESS")),
        (get("a b"), (400, "INVALID_REQUEST")),
        (get(&format!("u@{host}")), (400, "INVALID_REQUEST")),
        (
            "GET / HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(),
            (400, "INVALID_REQUEST"),
        ),
        (
            format!("GET / HTTP/1.1\r\nhost: {host}\r\nhost: {host}\r\nconnection: close\r\n\r\n"),
            (400, "INVALID_REQUEST"),
        ),
        (
            format!(
                "GET http://{OTHER}.{BASE}/ HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
            ),
            (400, "INVALID_REQUEST"),
        ),
        (
            format!("OPTIONS * HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"),
            (400, "INVALID_REQUEST"),
        ),
        (
            format!("CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\nconnection: close\r\n\r\n"),
            (405, "METHOD_NOT_ALLOWED"),
        ),
        (
            format!("GET / HTTP/1.1\r\nhost: {host}\r\nx-long: {long}\r\n\r\n"),
            (431, ""),
        ),
        ("nonsense\r\n\r\n".to_owned(), (400, "")),
    ];
    for (request, expected) in cases {
        let answer = rig.raw(&request).await;
        let shown = request.get(..80).unwrap_or(&request);
        assert_eq!(told(&answer), expected, "{shown}: {answer}");
    }
}

#[tokio::test]
async fn whatever_is_wrong_in_the_sandbox_is_told() {
    let wrong_upgrade =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x/1\r\n\r\n";
    let cases = [
        (Door::Nobody, (502, "NOTHING_LISTENS")),
        (Door::NoProcess, (502, "NOTHING_LISTENS")),
        (Door::Never, (504, "CONNECT_TIMED_OUT")),
        (Door::Full, (503, "TOO_MANY_AT_ONCE")),
        (Door::Away, (503, "UNAVAILABLE")),
        (says("SSH-2.0-OpenSSH\r\n"), (502, "NOT_HTTP")),
        (says(""), (502, "NOT_HTTP")),
        (says("HTTP/1.1 200 OK\r\nbroken"), (502, "NOT_HTTP")),
        (says(wrong_upgrade), (502, "WRONG_UPGRADE")),
        (
            serves(|_| std::future::pending::<http::Response<Full<bytes::Bytes>>>()),
            (504, "RESPONSE_TIMED_OUT"),
        ),
    ];
    let rig = Rig::start(quick()).await;
    for (at, (door, expected)) in cases.into_iter().enumerate() {
        // A port for each, so that no connection is used again.
        let mut exposure = exposure(PUBLIC);
        exposure.target = Target::Process(i32::try_from(at).unwrap());
        let found = Found::Exposure(exposure);
        rig.memory.put(PUBLIC, Entry { found, door });
        let answer = rig.raw(GET).await;
        assert_eq!(told(&answer), expected, "case {at}: {answer}");
    }
}

#[tokio::test]
async fn names_that_lead_nowhere_say_why() {
    let rig = Rig::start(quick()).await;
    let cases = [
        (Found::Stopped, (410, "SANDBOX_STOPPED")),
        (Found::NothingBound, (502, "NOTHING_BOUND")),
        (Found::Unknown, (404, "NO_SUCH_ADDRESS")),
        (Found::Unavailable, (503, "UNAVAILABLE")),
    ];
    for (found, expected) in cases {
        let shown = format!("{found:?}");
        rig.memory.put(
            PUBLIC,
            Entry {
                found,
                door: Door::Nobody,
            },
        );
        assert_eq!(told(&rig.raw(GET).await), expected, "{shown}");
    }
}

#[tokio::test]
async fn browsers_get_a_page_and_others_json() {
    let rig = Rig::with(quick(), Door::Nobody).await;
    let page = rig
        .get(PUBLIC, "/", &[("accept", "text/html,*/*;q=0.8")])
        .await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(
        page.text.contains("nothing listens on port 8000"),
        "{}",
        page.text
    );
    let other = rig.get(PUBLIC, "/", &[("accept", "*/*")]).await;
    assert_eq!(other.header("content-type"), "application/json");
    let json: serde_json::Value = serde_json::from_str(&other.text).unwrap();
    assert_eq!(json["code"], "NOTHING_LISTENS");
    for answer in [&page, &other] {
        assert_eq!(answer.status, 502);
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

#[tokio::test]
async fn private_exposures_take_their_token_and_no_other() {
    let rig = Rig::start(quick()).await;
    let shows = serves(|request| async move {
        let (head, _) = request.into_parts();
        let cookie = head.headers.get("cookie").cloned();
        let cookie = cookie.map(|cookie| String::from_utf8_lossy(cookie.as_bytes()).into_owned());
        let seen = format!(
            "{} {cookie:?} {}",
            head.uri,
            head.headers.contains_key("x-tombolo-access")
        );
        http::Response::new(Full::<bytes::Bytes>::from(seen))
    });
    let mut exposure = exposure(PUBLIC);
    exposure.is_private = true;
    let found = Found::Exposure(exposure);
    rig.memory.put(PUBLIC, Entry { found, door: shows });
    let cookie = format!("a=1; __Host-tombolo_access={TOKEN}");
    let split = [("cookie", "b=2"), ("cookie", &*cookie)];
    let strange = [("cookie", "n=\u{e9}"), ("cookie", &*cookie)];
    let cases: [(&str, Headers<'_>, u16, &str); 8] = [
        ("/", &[], 401, ""),
        ("/", &[("x-tombolo-access", "wrong")], 401, ""),
        ("/", &[("cookie", "__Host-tombolo_access=wrong")], 401, ""),
        ("/?tombolo_access=wrong", &[], 401, ""),
        ("/x", &[("x-tombolo-access", TOKEN)], 200, "/x None false"),
        ("/x", &[("cookie", &cookie)], 200, "/x Some(\"a=1\") false"),
        ("/x", &split, 200, "/x Some(\"b=2; a=1\") false"),
        ("/x", &strange, 200, "/x "),
    ];
    for (path, headers, status, text) in cases {
        let answer = rig.get(PUBLIC, path, headers).await;
        assert_eq!(answer.status, status, "{path} {headers:?}");
        assert!(
            answer.text.contains(text),
            "{path} {headers:?}: {}",
            answer.text
        );
        assert_eq!(
            *rig.memory.opened.lock() > 0,
            status == 200,
            "{path} {headers:?}"
        );
    }
    let answer = rig
        .get(PUBLIC, "/p?a=1&tombolo_access=opensesame", &[])
        .await;
    assert_eq!(answer.status, 303);
    assert_eq!(answer.header("location"), "/p?a=1");
    let expected = "__Host-tombolo_access=opensesame; Path=/; Secure; HttpOnly; SameSite=Lax";
    assert_eq!(answer.header("set-cookie"), expected);
}
