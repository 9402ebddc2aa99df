//! What this machine can do, requirement by requirement, and the mend for
//! what it cannot.

mod network;

use std::{path::Path, time::SystemTime};

use serde::Serialize;

use crate::{
    SetupOptions,
    debian::{self, KEYRING},
    ensure, recipe,
};

/// One thing a machine needs, and whether it has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// A stable name for programs.
    pub id: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// Whether it is met.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What to do about it, when there is something to do.
    pub mend: Option<String>,
}

/// Whether a requirement is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is.
    Ok,
    /// It is not; sandboxes will not run until it is.
    Missing,
    /// It is not, and sandboxes run without: slower, or later, or with less.
    Warning,
}

const KVM: &str = "/dev/kvm";
const CGROUP: &str = "/sys/fs/cgroup";
const NEEDED_CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];
const NAMESPACES: [&str; 5] = ["ipc", "mnt", "net", "pid", "user"];
const KERNEL_MAJOR_MIN: u32 = 5;
const KERNEL_MINOR_MIN: u32 = 10;
const MEMORY_MIN_MIB: u64 = 2_000;
const DISK_MIN_MIB: u64 = 4_000;
/// Signatures of packages are not valid before they were made.
const CLOCK_MIN_UNIX_S: u64 = 1_735_689_600;

/// Examines this machine. Changes nothing, and needs rights for what is tried only.
pub fn examine(options: &SetupOptions) -> Vec<Requirement> {
    let mut all = vec![
        processor(),
        kernel(),
        clock(),
        root(),
        kvm(),
        namespaces(),
        cgroup(),
        memory(),
        disk(options),
        mmdebstrap(),
        keyring(),
    ];
    all.extend(network::examine());
    all.extend(artefacts(options));
    all
}

impl Requirement {
    fn ok(id: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            id,
            title,
            state: State::Ok,
            detail: detail.into(),
            mend: None,
        }
    }

    fn or(self, state: State, met: bool, mend: impl Into<String>) -> Self {
        if met {
            self
        } else {
            Self {
                state,
                mend: Some(mend.into()),
                ..self
            }
        }
    }

    fn or_missing(self, met: bool, mend: impl Into<String>) -> Self {
        self.or(State::Missing, met, mend)
    }

    fn or_warning(self, met: bool, mend: impl Into<String>) -> Self {
        self.or(State::Warning, met, mend)
    }
}

fn processor() -> Requirement {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let met = debian::check_machine().is_ok();
    Requirement::ok("processor", "Linux on x86-64", format!("{os} on {arch}"))
        .or_missing(met, "use a machine, or a VM, with an x86-64 processor")
}

fn kernel() -> Requirement {
    let release = read_trimmed("/proc/sys/kernel/osrelease");
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let needed = format!("{KERNEL_MAJOR_MIN}.{KERNEL_MINOR_MIN}");
    Requirement::ok("kernel", "Host kernel", release).or_missing(
        version >= (KERNEL_MAJOR_MIN, KERNEL_MINOR_MIN),
        format!("boot a kernel of version {needed} or newer"),
    )
}

fn clock() -> Requirement {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let met = since.is_ok_and(|since| since.as_secs() >= CLOCK_MIN_UNIX_S);
    let detail = if met { "plausible" } else { "in the past" };
    Requirement::ok("clock", "System clock", detail).or_missing(
        met,
        "set the clock, for example with timedatectl set-ntp true",
    )
}

fn root() -> Requirement {
    let met = debian::is_root();
    let detail = if met {
        "running as root"
    } else {
        "not running as root"
    };
    Requirement::ok("root", "Root", detail)
        .or_warning(met, "set-up and the node need root: run tombolo with sudo")
}

fn kvm() -> Requirement {
    let opened = fs_err::OpenOptions::new().read(true).write(true).open(KVM);
    let detail = match &opened {
        Ok(_) => format!("{KVM} opens; whether it runs a guest is tried by the first server"),
        Err(error) => format!("emulation will be used: {error}"),
    };
    Requirement::ok("kvm", "Hardware virtualisation", detail).or_warning(
        opened.is_ok(),
        "enable virtualisation in the firmware, or nested virtualisation on the machine below, \
         and load the module kvm_intel or kvm_amd",
    )
}

fn namespaces() -> Requirement {
    let lacks = |name: &&&str| !Path::new("/proc/self/ns").join(name).exists();
    let missing: Vec<&str> = NAMESPACES.iter().filter(lacks).copied().collect();
    let detail = if missing.is_empty() {
        NAMESPACES.join(", ")
    } else {
        format!("the kernel lacks {}", missing.join(", "))
    };
    Requirement::ok("namespaces", "Namespaces", detail).or_missing(
        missing.is_empty(),
        "boot a kernel that is built with namespaces; every distribution's is",
    )
}

fn cgroup() -> Requirement {
    let unified = read_trimmed(Path::new(CGROUP).join("cgroup.controllers"));
    let hybrid = read_trimmed(Path::new(CGROUP).join("unified/cgroup.controllers"));
    let legacy = |name: &str| Path::new(CGROUP).join(name).is_dir();
    let (version, found): (&str, Vec<&str>) = if unified.is_empty() {
        let names = NEEDED_CONTROLLERS.iter().copied();
        let found = names.filter(|name| {
            legacy(name) || (*name == "io" && legacy("blkio")) || hybrid.contains(name)
        });
        ("version 1", found.collect())
    } else {
        let all: Vec<&str> = unified.split_whitespace().collect();
        let needed = NEEDED_CONTROLLERS.iter().copied();
        (
            "version 2",
            needed.filter(|name| all.contains(name)).collect(),
        )
    };
    let detail = format!("{version} with {}", found.join(", "));
    Requirement::ok("cgroup", "Control groups", detail).or_warning(
        found.len() == NEEDED_CONTROLLERS.len(),
        format!(
            "mount a cgroup hierarchy at {CGROUP} with the controllers {}; without them a \
             sandbox's share of the machine is not limited",
            NEEDED_CONTROLLERS.join(", ")
        ),
    )
}

fn memory() -> Requirement {
    let info = read_trimmed("/proc/meminfo");
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let mib = kib.unwrap_or(0) / 1024;
    Requirement::ok("memory", "Memory", format!("{mib} MiB available")).or_warning(
        mib >= MEMORY_MIN_MIB,
        format!("free some memory: {MEMORY_MIN_MIB} MiB run one sandbox of the usual size"),
    )
}

fn disk(options: &SetupOptions) -> Requirement {
    let layout = options.layout();
    let existing = layout.state().ancestors().find(|path| path.exists());
    let free = existing.and_then(debian::free_mib).unwrap_or(0);
    let needed = if ensure::find(options).is_some() {
        0
    } else {
        DISK_MIN_MIB
    };
    let place = layout.state().display().to_string();
    Requirement::ok("disk", "Disk space", format!("{free} MiB free for {place}")).or_missing(
        free >= needed,
        format!("free {needed} MiB, or choose another place with --state-dir"),
    )
}

fn mmdebstrap() -> Requirement {
    let found = debian::mmdebstrap_path();
    package("mmdebstrap", "mmdebstrap", found.as_deref(), "mmdebstrap")
}

fn keyring() -> Requirement {
    let found = Some(Path::new(KEYRING)).filter(|path| path.is_file());
    package(
        "keyring",
        "Debian's archive keyring",
        found,
        "debian-archive-keyring",
    )
}

/// A host package that set-up installs by itself where it can.
fn package(
    id: &'static str,
    title: &'static str,
    found: Option<&Path>,
    package: &str,
) -> Requirement {
    let detail = match found {
        Some(path) => path.display().to_string(),
        None => "not installed; set-up installs it on Debian and Ubuntu".to_owned(),
    };
    let mend = format!("apt-get install {package}");
    Requirement::ok(id, title, detail).or_warning(found.is_some(), mend)
}

fn artefacts(options: &SetupOptions) -> Vec<Requirement> {
    let titles = [
        ("engine", "QEMU and the guest kernel"),
        ("initramfs", "The guest agent"),
        ("image", "The root image"),
    ];
    let found = ensure::find(options);
    let details = match &found {
        Some(made) => {
            let (qemu, kernel) = (&made.qemu_version, &made.kernel_release);
            let image = format!("{} MiB", made.lengths.image >> 20);
            [
                format!("QEMU {qemu}, kernel {kernel}"),
                made.agent_version.clone(),
                image,
            ]
        }
        None => parts(options).map(|there| {
            let detail = if there {
                "made; set-up is not finished"
            } else {
                "not made yet"
            };
            detail.to_owned()
        }),
    };
    titles
        .into_iter()
        .zip(details)
        .map(|((id, title), detail)| {
            let mend = "tombolo setup";
            Requirement::ok(id, title, detail).or_missing(found.is_some(), mend)
        })
        .collect()
}

/// Which of the artefacts are there although there is no manifest.
fn parts(options: &SetupOptions) -> [bool; 3] {
    let layout = options.layout();
    let engine = layout.engine(&recipe::engine_key()).is_dir();
    let has = |begin: &str| {
        let Ok(entries) = fs_err::read_dir(layout.artefacts()) else {
            return false;
        };
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with(begin))
    };
    [engine, has("initramfs-"), has("guest-")]
}

fn read_trimmed(path: impl AsRef<Path>) -> String {
    let text = fs_err::read_to_string(path.as_ref()).unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_requirement_that_is_not_met_has_a_mend() {
        let state = tempfile::tempdir().unwrap();
        let all = examine(&SetupOptions::new(state.path()));
        for requirement in &all {
            let met = requirement.state == State::Ok;
            assert_eq!(met, requirement.mend.is_none(), "{requirement:?}");
            assert!(!requirement.detail.is_empty(), "{requirement:?}");
        }
        let ids: HashSet<&str> = all.iter().map(|requirement| requirement.id).collect();
        assert_eq!(ids.len(), all.len());
        let image = all
            .iter()
            .find(|requirement| requirement.id == "image")
            .unwrap();
        assert_eq!(image.state, State::Missing);
        assert_eq!(image.mend.as_deref(), Some("tombolo setup"));
    }

    #[test]
    fn programs_read_states_as_words() {
        let json = serde_json::to_value(Requirement::ok("a", "A", "b").or_warning(false, "c"));
        let expected = serde_json::json!(
            {"id": "a", "title": "A", "state": "warning", "detail": "b", "mend": "c"}
        );
        assert_eq!(json.unwrap(), expected);
    }
}
