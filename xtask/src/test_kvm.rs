//! `cargo xtask test-kvm`: the engine's tests on KVM, on any machine.
//!
//! QEMU's emulator implements AMD's virtualisation, so Debian's kernel has a
//! working `/dev/kvm` inside an emulated machine. This task puts the engine
//! root, the artefacts and the compiled tests on a disk, boots the guest kernel
//! from it with a first program that is a few lines of shell, and reads from
//! the console how the tests ended. Nothing of it needs KVM, or touches the
//! host beyond a temporary directory.
//!
//! The emulator forgets an interrupt now and then that comes while the processor
//! enters or leaves a guest: what waited for it stands still, or its guest dies. So
//! the machine has one processor, for which others wait less, and a clock that goes on
//! ticking. Should a test fail all the same, it is tried again in a new machine, as the
//! runner of all other tests does, and named when it passes then.

mod disk;
mod report;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use tombolo_proc::Command;

use report::Report;

use crate::{
    test::{self, STATE_VARIABLE},
    tools::{cargo, ensure_root, say},
};

/// What runs unless something else is named: every name has this in it.
const ALL_TESTS: &str = "";
/// Twice emulated, a boot takes half a minute where it otherwise takes seconds.
/// All tests take one to three.
const PATIENCE: Duration = Duration::from_mins(12);
const OUTER_MEMORY_MIB: u32 = 5120;
/// A clock that ticks whether or not the last tick was heard. The emulator now and then
/// forgets an interrupt that comes while the processor enters or leaves a guest; with
/// timers that are set anew at each, the machine would stand still from then on.
const STEADY_TICK: &str = "nohz=off highres=off lapic=notscdeadline";
/// How often a test may fail before it has.
const ATTEMPTS_MAX: u32 = 3;
/// What the machine says last: the test program's exit status.
const RESULT_PREFIX: &str = "tombolo-test-result ";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The tests to run, by a part of their name; all unless given.
    #[arg(default_value = ALL_TESTS, hide_default_value = true)]
    tests: String,
    /// A state directory that is set up; without it, a new one is made.
    #[arg(long, env = STATE_VARIABLE)]
    state_dir: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure_root()?;
    if let Some(state) = &arguments.state_dir {
        return run_with(state, &arguments.tests);
    }
    let state = test::set_up(&test::build()?)?;
    run_with(state.path(), &arguments.tests)
}

/// The same with the state directory of `cargo xtask test`.
pub(crate) fn run_default(state: &Path) -> anyhow::Result<()> {
    run_with(state, ALL_TESTS)
}

fn run_with(state: &Path, tests: &str) -> anyhow::Result<()> {
    let program = build_tests()?;
    let mut selection = vec![tests.to_owned()];
    let mut flaky = Vec::new();
    for attempt in 1..=ATTEMPTS_MAX {
        say(&format!(
            "running the engine's tests on KVM, in an emulated machine, attempt {attempt}"
        ));
        let script = start_script(&selection);
        let report = run_once(state, &program, &script)?;
        if report.passed() {
            say(&format!("the tests on KVM passed{}", report::named(&flaky)));
            return Ok(());
        }
        // Without names the program did not get to its end, nor any test for certain.
        if !report.failed.is_empty() {
            selection = vec!["--exact".to_owned()];
            selection.extend(report.failed.iter().cloned());
        }
        flaky.extend(report.failed);
    }
    bail!("the tests on KVM failed {ATTEMPTS_MAX} times in a row")
}

/// Makes a machine, runs it to its end and removes it.
fn run_once(state: &Path, program: &Path, script: &str) -> anyhow::Result<Report> {
    let work = tempfile::Builder::new()
        .prefix("tombolo-kvm-")
        .tempdir_in("/var/tmp")?;
    let disk = disk::make(work.path(), state, program, script)?;
    Ok(boot(&disk))
}

/// Builds the engine's tests and says where their program is.
fn build_tests() -> anyhow::Result<PathBuf> {
    let arguments = ["test", "--package", "tombolo-host", "--test", "engine"];
    let output = cargo(arguments)
        .args(["--no-run", "--message-format", "json"])
        .output_limit(64 << 20)
        .run_blocking()?;
    let messages = cargo_metadata::Message::parse_stream(output.stdout_text().as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("cannot read what cargo says")?;
    messages
        .into_iter()
        .find_map(|message| match message {
            cargo_metadata::Message::CompilerArtifact(artifact)
                if artifact.target.name == "engine" =>
            {
                artifact.executable
            }
            _ => None,
        })
        .map(Into::into)
        .context("cargo built no program for the engine's tests")
}

/// The first program of the emulated machine. Its only ways to say anything are
/// the console and power-off.
fn start_script(selection: &[String]) -> String {
    let loader = disk::LOADER;
    let (host, program, state) = (disk::HOST_DIR, disk::TEST_PROGRAM, disk::STATE_DIR);
    let modules =
        disk::MODULES.map(|(name, _)| format!("insmod {}/{name}.ko\n", disk::MODULES_DIR));
    format!(
        "export PATH=/usr/sbin:/usr/bin\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devtmpfs /dev\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         mount -t tmpfs tmpfs /tmp\n\
         {modules}\
         {STATE_VARIABLE}={state} TOMBOLO_TEST_ISOLATION=kvm RUST_BACKTRACE=1 \
         {loader} --library-path {host} {program} --nocapture --test-threads=1 {selection}\n\
         echo \"{RESULT_PREFIX}$?\"\n\
         echo o > /proc/sysrq-trigger\n\
         while :; do sleep 1; done\n",
        modules = modules.concat(),
        selection = selection.join(" "),
    )
}

/// Runs the machine to its end and answers what its tests said. One that stands
/// still is ended, and is a failure like another.
fn boot(disk: &disk::Disk) -> Report {
    let report = Mutex::new(Report::default());
    let on_line = |line: &str| {
        let line = line.trim_end();
        report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read_line(line);
        say(&format!("  {line}"));
    };
    if let Err(error) = emulator(disk).run_with_lines_blocking(on_line) {
        say(&format!("the emulated machine failed: {error:#}"));
    }
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn emulator(disk: &disk::Disk) -> Command {
    let firmware = disk.engine_root.join("usr/share");
    let append = format!(
        "console=ttyS0 quiet mitigations=off panic=-1 {STEADY_TICK} root=/dev/nvme0n1 rw \
         init={} -- --library-path {} {} {}",
        disk::LOADER,
        disk::HOST_DIR,
        disk::SHELL,
        disk::START_SCRIPT,
    );
    disk.engine_tool("usr/bin/qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-machine", "q35", "-smp", "1"])
        .args(["-accel", "tcg,tb-size=512", "-cpu", "EPYC,+svm,+npt"])
        .args(["-m", &OUTER_MEMORY_MIB.to_string(), "-serial", "stdio"])
        .arg("-L")
        .arg(firmware.join("seabios"))
        .arg("-L")
        .arg(firmware.join("qemu"))
        .arg("-kernel")
        .arg(&disk.kernel)
        .args(["-append", &append])
        // The kernel has drivers for this one, and for no virtio disk, built in.
        .args(["-device", "nvme,drive=disk,serial=disk", "-drive"])
        .arg(format!(
            "if=none,id=disk,format=raw,cache=unsafe,file={}",
            disk.image.display()
        ))
        .deadline(PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_loads_kvm_before_the_tests_and_ends_after_them() {
        let script = start_script(&["some_test".to_owned()]);
        let places = ["kvm.ko", "kvm-amd.ko", "some_test", RESULT_PREFIX, "sysrq"]
            .map(|part| script.find(part).expect(part));
        assert!(places.is_sorted(), "{script}");
    }
}
