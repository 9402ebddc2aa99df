//! What a guest is and how it fares: its identity after a restore, its warm-up
//! before one, its usage.

use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags, fstat, ftruncate, open};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_settime};
use tokio::time::timeout;
use tombolo_guest_proto::v1::{PersonalizeRequest, PrewarmRequest, SpawnRequest, UsageReply};
use tombolo_sys::guest::entropy::add_entropy;
use tonic::Status;

use crate::agent::Agent;
use crate::deno;
use crate::fault::{CallError, Cause, at, blocking};
use crate::log::log;
use crate::trust::{self, trust};

const ENTROPY_LEN_MIN: usize = 32;
const HOSTNAME_LEN_MAX: usize = 64;
const MACHINE_ID_LEN: usize = 32;
const PREWARM_COMMAND_MAX: Duration = Duration::from_mins(2);
/// The unit of times in `/proc/stat`, which Linux fixes for programs.
const NANOS_PER_TICK: u64 = 10_000_000;
const HOSTS_FILE: &str = "/etc/hosts";
const HOSTNAME_FILE: &str = "/etc/hostname";
const MACHINE_ID_FILE: &str = "/etc/machine-id";
/// What a machine is called before it has an identity.
pub(crate) const NO_NAME: &str = "sandbox";
const NO_MACHINE_ID: &str = "00000000000000000000000000000000";
const NAMES_LEN_MAX: usize = 64 * 1024;
/// Marks the line of `/etc/hosts` that is ours.
const HOSTS_ADDRESS: &str = "127.0.1.1";

/// Gives the guest its own identity. May be repeated.
pub(crate) fn personalize(agent: &Agent, request: PersonalizeRequest) -> Result<(), CallError> {
    check(&request)?;
    if agent.owns_system {
        reseed(&request.entropy)?;
        set_clock(request.unix_time_nanos)?;
        name_machine(&request)?;
    }
    trust(agent, &request.trusted_certificates_pem)?;
    for (key, value) in request.env {
        agent.environment.set(key, value)?;
    }
    Ok(())
}

fn check(request: &PersonalizeRequest) -> Result<(), CallError> {
    let invalid = |why| {
        Err(CallError::new(
            "personalize",
            "",
            Cause::InvalidArgument(why),
        ))
    };
    if request.entropy.len() < ENTROPY_LEN_MIN {
        return invalid("too little entropy");
    }
    let name = request.hostname.as_bytes();
    let is_label = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    if name.is_empty() || name.len() > HOSTNAME_LEN_MAX || !name.iter().all(is_label) {
        return invalid("not a host name");
    }
    let id = request.machine_id.as_bytes();
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if id.len() != MACHINE_ID_LEN || !id.iter().all(is_digit) {
        return invalid("not a machine id");
    }
    Ok(())
}

fn reseed(entropy: &[u8]) -> Result<(), CallError> {
    let device = fs_err::OpenOptions::new().write(true).open("/dev/urandom");
    let device = device.map_err(at("personalize", "/dev/urandom"))?;
    add_entropy(device.file(), entropy).map_err(at("personalize", "/dev/urandom"))
}

fn set_clock(unix_time_nanos: i64) -> Result<(), CallError> {
    let time = timespec(unix_time_nanos);
    clock_settime(ClockId::Realtime, time).map_err(at("personalize", "the clock"))
}

/// A time as the kernel takes it; times before 1970 count down to it.
pub(crate) fn timespec(nanos: i64) -> Timespec {
    const NANOS_PER_SECOND: i64 = 1_000_000_000;
    Timespec {
        tv_sec: nanos.div_euclid(NANOS_PER_SECOND),
        tv_nsec: nanos.rem_euclid(NANOS_PER_SECOND),
    }
}

fn name_machine(request: &PersonalizeRequest) -> Result<(), CallError> {
    let name = &request.hostname;
    rustix::system::sethostname(name.as_bytes()).map_err(at("personalize", "the host name"))?;
    write_names(name, &request.machine_id);
    Ok(())
}

/// Writes what programs read a machine's name from. Whoever is root in the
/// guest may have put anything in these places, which must not hinder the rest.
fn write_names(hostname: &str, machine_id: &str) {
    let hosts = read_small(HOSTS_FILE).map(|hosts| hosts_with(&hosts, hostname));
    let contents = [
        (HOSTNAME_FILE, Ok(format!("{hostname}\n"))),
        (MACHINE_ID_FILE, Ok(format!("{machine_id}\n"))),
        (HOSTS_FILE, hosts),
    ];
    for (path, content) in contents {
        let written = content.and_then(|content| write_small(path, &content));
        if let Err(errno) = written {
            log!("cannot write {path}: {errno}");
        }
    }
}

/// Reads a file that should be small, without waiting for anybody.
fn read_small(path: &str) -> Result<String, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(String::new()),
        file => file?,
    };
    let mut bytes = Vec::with_capacity(NAMES_LEN_MAX + 1);
    rustix::io::read(&file, spare_capacity(&mut bytes))?;
    if bytes.len() > NAMES_LEN_MAX {
        return Err(Errno::FBIG);
    }
    String::from_utf8(bytes).map_err(|_not_text| Errno::ILSEQ)
}

/// Writes over a small file. Emptied first, it would be written to the disk
/// right away, and a restored guest would wait for that.
fn write_small(path: &str, content: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::from(0o644))?;
    let written = rustix::io::write(&file, content.as_bytes())?;
    let size = u64::try_from(fstat(&file)?.st_size).unwrap_or_default();
    if size != written as u64 {
        ftruncate(&file, written as u64)?;
    }
    Ok(())
}

/// `hosts` with exactly one line that names this machine.
fn hosts_with(hosts: &str, name: &str) -> String {
    let ours = |line: &&str| line.split_whitespace().next() != Some(HOSTS_ADDRESS);
    let mut lines: Vec<&str> = hosts.lines().filter(ours).collect();
    let line = format!("{HOSTS_ADDRESS} {name}");
    if !lines.iter().any(|line| line.starts_with("127.0.0.1")) {
        lines.insert(0, "127.0.0.1 localhost");
        lines.push("::1 localhost ip6-localhost ip6-loopback");
    }
    lines.push(&line);
    lines.join("\n") + "\n"
}

/// Runs each command once; what one prints or how it ends does not matter. And
/// does all else that a sandbox's owner would wait for.
pub(crate) async fn prewarm(agent: &Agent, request: PrewarmRequest) -> Result<(), Status> {
    for command in request.shell_commands {
        let spawn = SpawnRequest {
            command: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), command.clone()],
            ..SpawnRequest::default()
        };
        let process = agent.spawn(spawn).await;
        let ended = match &process {
            Ok(process) => timeout(PREWARM_COMMAND_MAX, process.wait()).await,
            Err(error) => {
                log!("cannot warm up {command}: {error}");
                continue;
            }
        };
        if ended.is_err()
            && let Ok(process) = process
        {
            log!("{command} took too long");
            agent.processes.kill(process.pid, 9).map_err(Status::from)?;
        }
    }
    trust::rehearse(agent)?;
    if request.settle {
        deno::warm(agent).await;
        if agent.owns_system {
            // The files are then at hand when a restored guest gets its own.
            write_names(NO_NAME, NO_MACHINE_ID);
        }
        blocking(|| {
            rustix::fs::sync();
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// What the guest uses at this moment.
pub(crate) fn usage(agent: &Agent) -> Result<UsageReply, CallError> {
    let meminfo = read("/proc/meminfo")?;
    let stat = read("/proc/stat")?;
    let disk = rustix::fs::statvfs("/").map_err(at("usage", "/"))?;
    let tasks = fs_err::read_to_string("/sys/fs/cgroup/app/pids.current").ok();
    let tasks = tasks.and_then(|tasks| tasks.trim().parse().ok());
    let running = || u32::try_from(agent.processes.running()).unwrap_or(u32::MAX);
    Ok(UsageReply {
        memory_total_bytes: memory_bytes(&meminfo, "MemTotal:"),
        memory_available_bytes: memory_bytes(&meminfo, "MemAvailable:"),
        disk_total_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
        disk_free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        cpu_nanos: cpu_ticks(&stat).saturating_mul(NANOS_PER_TICK),
        process_count: tasks.unwrap_or_else(running),
    })
}

fn read(path: &'static str) -> Result<String, CallError> {
    fs_err::read_to_string(path).map_err(at("usage", path))
}

/// A figure of `/proc/meminfo`; 0 when it has no such.
pub(crate) fn memory_bytes(meminfo: &str, field: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    let kibibytes = kibibytes.and_then(|kibibytes| kibibytes.parse::<u64>().ok());
    kibibytes.unwrap_or_default().saturating_mul(1024)
}

/// Time of all CPUs that was not idle: user, nice, system, interrupts. Time
/// that the host took away is not the guest's.
fn cpu_ticks(stat: &str) -> u64 {
    const IDLE_AND_WAITING: [usize; 2] = [3, 4];
    const COUNTED: usize = 7;
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let ticks = line.unwrap_or_default().split_whitespace().take(COUNTED);
    ticks
        .enumerate()
        .filter(|(field, _)| !IDLE_AND_WAITING.contains(field))
        .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

/// The kernel's release, as `uname -r` prints it.
pub(crate) fn kernel_release() -> String {
    let uname = rustix::system::uname();
    uname.release().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_machine_once() {
        let cases = [
            (
                "",
                "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 a\n",
            ),
            ("127.0.0.1 localhost", "127.0.0.1 localhost\n127.0.1.1 a\n"),
            (
                "127.0.1.1 old\n127.0.0.1 localhost\n10.0.0.1 x\n127.0.1.1 a\n",
                "127.0.0.1 localhost\n10.0.0.1 x\n127.0.1.1 a\n",
            ),
        ];
        for (hosts, expected) in cases {
            assert_eq!(hosts_with(hosts, "a"), expected, "{hosts:?}");
            assert_eq!(hosts_with(expected, "a"), expected, "again");
        }
    }

    #[test]
    fn counts_busy_time_only() {
        assert_eq!(cpu_ticks("cpu  1 2 4 1000 1000 8 16 32 64 128\ncpu0 1"), 31);
        assert_eq!(cpu_ticks("cpu  1 x"), 1);
        assert_eq!(cpu_ticks(""), 0);
    }

    #[test]
    fn reads_memory_figures() {
        let meminfo = "MemTotal:        2048 kB\nMemAvailable: 1 kB\n";
        assert_eq!(memory_bytes(meminfo, "MemTotal:"), 2048 * 1024);
        assert_eq!(memory_bytes(meminfo, "Swap:"), 0);
    }

    #[test]
    fn times_before_the_epoch() {
        let time = |nanos| (timespec(nanos).tv_sec, timespec(nanos).tv_nsec);
        assert_eq!(time(1), (0, 1));
        assert_eq!(time(-1), (-1, 999_999_999));
        assert_eq!(time(2_000_000_000), (2, 0));
    }
}
