//! Tries real jails; needs root, which the project's test command has.

use super::*;
use std::io::Write;
use std::path::Path;

/// A root that holds the host's programs, read-only, and an empty `dev`.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for directory in ["dev", "usr", "data", "scratch", "proc"] {
        fs_make(&root.path().join(directory));
    }
    for link in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{link}"), root.path().join(link)).unwrap();
    }
    root
}

#[expect(
    clippy::disallowed_methods,
    reason = "test scaffolding in a temporary directory"
)]
fn fs_make(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
}

fn run_in_jail(script: &str) -> Result<String, SpawnError> {
    let root = root();
    let scratch = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(scratch.path(), Some(60_001), Some(60_001)).unwrap();
    let (mut output, writer) = std::io::pipe().unwrap();
    let (given, mut given_writer) = std::io::pipe().unwrap();
    given_writer.write_all(b"given").unwrap();
    drop(given_writer);
    let jailed = spawn(JailSpec {
        root: root.path().to_owned(),
        binds: vec![
            Bind {
                source: "/usr".into(),
                target: "/usr".into(),
                access: Access::Read,
            },
            Bind {
                source: scratch.path().to_owned(),
                target: "/scratch".into(),
                access: Access::Write,
            },
        ],
        with_kvm: false,
        uid: 60_001,
        gid: 60_001,
        cgroup_procs: Vec::new(),
        program: "/usr/bin/bash".into(),
        args: vec!["-c".into(), script.into()],
        descriptors: vec![given.into()],
        stdout: writer.try_clone().unwrap().into(),
        stderr: writer.into(),
    })?;
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    wait(jailed.pid);
    Ok(text)
}

#[test]
fn a_jail_has_nothing_but_what_it_was_given() {
    for (script, expected) in [
        ("echo $$", "1\n"),
        ("id -u; id -g; id -G", "60001\n60001\n60001\n"),
        ("ls /", "bin\ndata\ndev\nlib\nlib64\nproc\nscratch\nusr\n"),
        ("ls /dev", "null\nurandom\nzero\n"),
        ("cat <&3", "given"),
        ("echo a > /scratch/a && cat /scratch/a", "a\n"),
        (
            "(echo a > /data/a) 2>/dev/null || echo refused",
            "refused\n",
        ),
        ("(echo a > /usr/a) 2>/dev/null || echo refused", "refused\n"),
        (
            "(echo > /dev/tcp/127.0.0.1/22) 2>/dev/null || echo refused",
            "refused\n",
        ),
        ("kill -9 2 2>/dev/null || echo alone", "alone\n"),
        ("ulimit -c", "0\n"),
        ("env", "PWD=/\nSHLVL=0\n_=/usr/bin/env\n"),
        (
            "ls -d /proc/self 2>/dev/null || echo unmounted",
            "unmounted\n",
        ),
    ] {
        assert_eq!(run_in_jail(script).unwrap(), expected, "{script}");
    }
}

#[test]
fn a_jail_that_cannot_start_says_where_it_stopped() {
    let (_, writer) = std::io::pipe().unwrap();
    let error = spawn(JailSpec {
        root: "/nonexistent".into(),
        binds: Vec::new(),
        with_kvm: false,
        uid: 60_001,
        gid: 60_001,
        cgroup_procs: Vec::new(),
        program: "/usr/bin/true".into(),
        args: Vec::new(),
        descriptors: Vec::new(),
        stdout: writer.try_clone().unwrap().into(),
        stderr: writer.into(),
    })
    .unwrap_err();
    assert_eq!(error.to_string(), "the jail could not bind its root");
}
