//! A pair of sockets stands in for the port: it hangs up as the port does, only
//! for good.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use rustix::fs::fstat;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tombolo_guest_proto::channel::{NONCE_LEN, PREAMBLE_LEN, opening};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
/// What the agent answers with.
const ANSWER_LEN: usize = PREAMBLE_LEN + 1;
const SHORT: Duration = Duration::from_millis(50);

fn pair() -> (Port, UnixStream) {
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let port = Port::new(OwnedFd::from(ours));
    (port, UnixStream::from_std(theirs).unwrap())
}

fn preamble(nonce: u8) -> Vec<u8> {
    opening([nonce; NONCE_LEN], b"")
}

fn answer(nonce: u8, verdict: u8) -> Vec<u8> {
    [&MAGIC[..], &[nonce; NONCE_LEN], &[verdict]].concat()
}

async fn accept(port: &Port) -> io::Result<PortStream> {
    let accepted = port.accept(|_| panic!("no introduction"));
    timeout(PATIENCE, accepted).await.unwrap()
}

#[tokio::test]
async fn an_introduction_is_taken_before_it_is_answered() {
    for (good, verdict) in [(true, TAKEN), (false, REFUSED)] {
        let (port, mut host) = pair();
        let words = [b'w'; 10_000];
        let opening = [opening([9; NONCE_LEN], &words), b"PRI".to_vec()].concat();
        host.write_all(&opening).await.unwrap();
        let accepted = port.accept(|introduction| {
            assert_eq!(introduction, words);
            good
        });
        let mut stream = timeout(PATIENCE, accepted).await.unwrap().unwrap();
        assert_eq!(read_exact(&mut host, ANSWER_LEN).await, answer(9, verdict));
        assert_eq!(read_exact(&mut stream, 3).await, b"PRI");
    }
}

async fn read_exact(stream: &mut (impl AsyncRead + Unpin), len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let read = timeout(PATIENCE, stream.read_exact(&mut bytes)).await;
    read.unwrap().unwrap();
    bytes
}

#[tokio::test]
async fn answers_the_preamble_and_keeps_what_follows() {
    let cases = [
        (vec![], vec![]),
        (b"left over".to_vec(), vec![]),
        (vec![0xff; 9000], b"PRI * HTTP/2.0".to_vec()),
    ];
    for (before, after) in cases {
        let (port, mut host) = pair();
        let opening = [before, preamble(7), after.clone()].concat();
        host.write_all(&opening).await.unwrap();
        let mut stream = accept(&port).await.unwrap();
        assert_eq!(read_exact(&mut host, ANSWER_LEN).await, answer(7, TAKEN));
        host.write_all(b"more").await.unwrap();
        let read = read_exact(&mut stream, after.len() + 4).await;
        assert_eq!(read, [&after[..], b"more"].concat());
        stream.write_all(&vec![b'x'; 100_000]).await.unwrap();
        let (flushed, read) = tokio::join!(stream.flush(), read_exact(&mut host, 100_000));
        flushed.unwrap();
        assert_eq!(read, vec![b'x'; 100_000]);
    }
}

#[tokio::test]
async fn a_host_that_was_not_seen_to_come_back_is_answered_all_the_same() {
    let (port, mut host) = pair();
    host.write_all(&preamble(1)).await.unwrap();
    let mut stream = accept(&port).await.unwrap();
    read_exact(&mut host, ANSWER_LEN).await;
    host.write_all(b"first").await.unwrap();
    assert_eq!(read_exact(&mut stream, 5).await, b"first");
    // What fails on this would be HTTP/2; here it is only read.
    let second = [preamble(2), b"second".to_vec()].concat();
    host.write_all(&second).await.unwrap();
    read_exact(&mut stream, second.len()).await;
    drop(stream);
    let mut stream = accept(&port).await.unwrap();
    assert_eq!(read_exact(&mut host, ANSWER_LEN).await, answer(2, TAKEN));
    assert_eq!(read_exact(&mut stream, 6).await, b"second");
}

#[tokio::test]
async fn a_conversation_that_ended_well_is_not_begun_again() {
    let (port, mut host) = pair();
    host.write_all(&preamble(1)).await.unwrap();
    let mut stream = accept(&port).await.unwrap();
    read_exact(&mut host, ANSWER_LEN).await;
    host.write_all(&preamble(2)).await.unwrap();
    read_exact(&mut stream, preamble(2).len()).await;
    drop(stream);
    port.forget_rescued();
    assert!(timeout(SHORT, port.accept(|_| true)).await.is_err());
    host.write_all(&preamble(3)).await.unwrap();
    accept(&port).await.unwrap();
    assert_eq!(read_exact(&mut host, ANSWER_LEN).await, answer(3, TAKEN));
}

/// How many event queues of this process have `port` in their sets.
fn watchers(port: &Port) -> usize {
    let inode = fstat(&port.fd).unwrap().st_ino;
    let inode = format!("ino:{inode:x}");
    let descriptors = fs_err::read_dir("/proc/self/fdinfo").unwrap();
    let descriptors = descriptors.map(|entry| fs_err::read_to_string(entry.unwrap().path()));
    // Descriptors of one queue show the same set.
    let mut sets = BTreeSet::new();
    for info in descriptors.filter_map(Result::ok) {
        let targets = info.lines().filter(|line| line.starts_with("tfd:"));
        let set: Vec<String> = targets.map(str::to_owned).collect();
        if set
            .iter()
            .any(|target| target.split(' ').any(|word| word == inode))
        {
            sets.insert(set);
        }
    }
    sets.len()
}

/// With two, bytes can be told to one that does not read them.
#[tokio::test]
async fn a_conversation_is_the_only_watcher_of_the_port() {
    let (port, mut host) = pair();
    assert_eq!(watchers(&port), 0);
    for nonce in [1, 2] {
        host.write_all(&preamble(nonce)).await.unwrap();
        let stream = accept(&port).await.unwrap();
        assert_eq!(watchers(&port), 1);
        drop(stream);
        assert_eq!(watchers(&port), 0);
    }
}

#[tokio::test]
async fn without_a_host_it_waits() {
    let (port, mut host) = pair();
    host.write_all(&preamble(1)).await.unwrap();
    let mut stream = accept(&port).await.unwrap();
    read_exact(&mut host, ANSWER_LEN).await;
    drop(host);
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    ended.unwrap().unwrap();
    assert!(rest.is_empty());
    stream.write_all(b"x").await.unwrap();
    timeout(PATIENCE, stream.flush())
        .await
        .unwrap()
        .unwrap_err();
    drop(stream);
    assert!(timeout(SHORT, port.accept(|_| true)).await.is_err());
}
