//! Which TCP port a process listens on: what `/proc` says of listening sockets
//! and of who holds them. There is no event for it, so it is looked for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::log::log;

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The state of a socket that listens (Linux, `TCP_LISTEN`).
const LISTENING: &str = "0A";
const SOCKETS_MAX: usize = 1024;
/// Processes of one tree, and descriptors of one process, that are looked at.
const PROCESSES_MAX: usize = 256;
const DESCRIPTORS_MAX: usize = 4096;
/// After so long processes are looked into again though the sockets are the
/// same: one may have been handed to a process, or missed while it moved.
const SEARCH_AGAIN: Duration = Duration::from_millis(500);
/// Searches at one time.
const SEARCHES_MAX: usize = 2;

static SEARCHES: Semaphore = Semaphore::const_new(SEARCHES_MAX);

/// Sockets by their inodes, whose numbers grow with time.
type Sockets = BTreeMap<u64, SocketAddr>;

/// Remembers what was there, so that processes are seldom looked into while the
/// sockets stay the same.
#[derive(Debug, Default)]
pub(crate) struct Search {
    last: Option<(Instant, Sockets)>,
}

impl Search {
    /// Where `pid`, or a process below it, listens: the oldest of its sockets.
    pub(crate) async fn look(&mut self, pid: i32, now: Instant) -> Option<SocketAddr> {
        let mut sockets = Sockets::new();
        for table in TABLES {
            // A guest without IPv6 has no table of it.
            if let Ok(table) = fs_err::File::open(table) {
                sockets.extend(listening(BufReader::new(table)));
            }
        }
        if !self.is_due(&sockets, now) {
            return None;
        }
        let held = descriptors(pid).await;
        let address = held
            .iter()
            .filter_map(|inode| sockets.get_key_value(inode))
            .min();
        let address = address.map(|(_, address)| reachable(*address));
        self.last = Some((now, sockets));
        address
    }

    fn is_due(&self, sockets: &Sockets, now: Instant) -> bool {
        match &self.last {
            _ if sockets.is_empty() => false,
            Some((when, known)) => known != sockets || now >= *when + SEARCH_AGAIN,
            None => true,
        }
    }
}

/// [`descriptors_of_tree`] on a thread of its own: a tree may be large, and the
/// agent has one thread for everything. Those for files have the rights of the
/// sandbox's user, who cannot look into the programs of others.
async fn descriptors(pid: i32) -> Vec<u64> {
    // It is never closed.
    let _permit = SEARCHES.acquire().await;
    let (answer, answered) = oneshot::channel();
    let thread = std::thread::Builder::new().name("listeners".to_owned());
    let started = thread.spawn(move || {
        // Nobody may wait any more.
        answer.send(descriptors_of_tree(pid)).unwrap_or_default();
    });
    if let Err(error) = started {
        log!("cannot look for listening sockets: {error}");
    }
    answered.await.unwrap_or_default()
}

/// The listening sockets of a table. They come first in it, and no more is read.
fn listening(table: impl BufRead) -> impl Iterator<Item = (u64, SocketAddr)> {
    let rows = table.lines().map_while(Result::ok);
    let rows = rows.skip(1).take(SOCKETS_MAX).map(|row| {
        let mut columns = row.split_whitespace();
        let address = columns.nth(1).map(str::to_owned);
        let is_listening = columns.nth(1) == Some(LISTENING);
        let inode = columns.nth(5).and_then(|inode| inode.parse().ok());
        (is_listening, inode, address)
    });
    let rows = rows.take_while(|(is_listening, ..)| *is_listening);
    rows.filter_map(|(_, inode, address)| Some((inode?, parse_address(&address?)?)))
}

/// An address as the kernel writes it: words of the machine's own order in
/// hexadecimal, a colon, the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Who listens on every address is reached on this machine's own.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The inodes of the sockets that a process and those below it hold.
fn descriptors_of_tree(pid: i32) -> Vec<u64> {
    let mut inodes = Vec::new();
    let mut processes = vec![pid];
    let mut at = 0;
    while let Some(pid) = processes.get(at).copied() {
        at += 1;
        let place = PathBuf::from(format!("/proc/{pid}"));
        let links = fs_err::read_dir(place.join("fd")).into_iter().flatten();
        let links = links.take(DESCRIPTORS_MAX).flatten();
        inodes.extend(links.filter_map(|link| {
            let target = fs_err::read_link(link.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            inode.strip_suffix(']')?.parse::<u64>().ok()
        }));
        let tasks = fs_err::read_dir(place.join("task")).into_iter().flatten();
        for task in tasks.take(PROCESSES_MAX).flatten() {
            let children = fs_err::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            let room = PROCESSES_MAX.saturating_sub(processes.len());
            let children = children.split_whitespace();
            processes.extend(
                children
                    .filter_map(|pid| pid.parse::<i32>().ok())
                    .take(room),
            );
        }
    }
    inodes
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Stdio;

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 5002 1 0 100 0 0 10 0
   1: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5001 1 0 100 0 0 10 0
   2: nonsense
   3: 0100007F:0017 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5003 1 0 100 0 0 10 0
";

    #[test]
    fn tables_are_read_as_far_as_they_are_about_listeners() {
        let found: Vec<_> = listening(TABLE.as_bytes()).collect();
        let expected = [(5002, "0.0.0.0:8080"), (5001, "127.0.0.1:22")];
        let expected = expected.map(|(inode, address)| (inode, address.parse().unwrap()));
        assert_eq!(found, expected);
        assert_eq!(listening(&b""[..]).count(), 0);
    }

    #[test]
    fn addresses_are_read_in_the_machines_order() {
        let cases = [
            ("0100007F:1F90", Some("127.0.0.1:8080")),
            ("00000000000000000000000001000000:0050", Some("[::1]:80")),
            ("00000000000000000000000000000000:0050", Some("[::]:80")),
            ("0100007F", None),
            ("01:0050", None),
            ("0100007F0100007F:0050", None),
            ("ü100007:0050", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(parse_address(text), expected, "{text}");
        }
        let reached = reachable("[::]:80".parse().unwrap());
        assert_eq!(reached, "[::1]:80".parse().unwrap());
    }

    #[tokio::test]
    async fn a_process_that_listens_is_found_and_no_other_is() {
        let ours = i32::try_from(std::process::id()).unwrap();
        // A child that holds nothing of ours: the descriptor closes with `exec`.
        let child = tombolo_proc::Command::new("cat")
            .kill_on_drop(true)
            .spawn(Stdio::piped(), Stdio::null(), Stdio::null())
            .unwrap();
        let child_pid = child.id().unwrap().try_into().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut search = Search::default();
        let now = Instant::now();
        assert_eq!(search.look(child_pid, now).await, None);
        // The sockets are the same, and whose they are is seen a little later.
        let later = now + SEARCH_AGAIN;
        assert_eq!(search.look(ours, later).await, Some(address));
    }

    #[test]
    fn processes_are_looked_into_when_sockets_change_and_once_in_a_while() {
        let sockets = |inodes: &[u64]| -> Sockets {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
            inodes.iter().map(|inode| (*inode, address)).collect()
        };
        let now = Instant::now();
        let mut search = Search::default();
        assert!(search.is_due(&sockets(&[1]), now));
        assert!(!search.is_due(&sockets(&[]), now));
        search.last = Some((now, sockets(&[1])));
        let soon = now + SEARCH_AGAIN / 2;
        assert!(!search.is_due(&sockets(&[1]), soon));
        assert!(search.is_due(&sockets(&[1, 2]), soon));
        assert!(search.is_due(&sockets(&[1]), now + SEARCH_AGAIN));
    }
}
