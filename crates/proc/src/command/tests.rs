//! What a program started here sees, and what its caller gets back.

use std::{fs::File, io::Read, time::Duration};

use super::*;

const SOON: Duration = Duration::from_millis(200);

fn shell(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

fn check(command: &Command, stdout: &str) {
    assert_eq!(command.run_blocking().unwrap().stdout_text(), stdout);
}

#[test]
fn a_program_sees_only_what_it_was_given() {
    let base: Vec<String> = ["HOME=/", "LANG=C.UTF-8"].map(String::from).into();
    let seen = Command::new("env").run_blocking().unwrap().stdout_text();
    let mut lines: Vec<String> = seen.lines().map(String::from).collect();
    lines.retain(|line| !line.starts_with("PATH="));
    lines.sort();
    assert_eq!(lines, base);

    check(&Command::new("/usr/bin/env").clear_env(), "");
    check(
        &Command::new("/usr/bin/env").clear_env().env("A", "1"),
        "A=1",
    );
    check(
        &shell("echo $PATH")
            .pass_env(["TOMBOLO_NOT_SET"])
            .env("PATH", "/bin"),
        "/bin",
    );
    check(&Command::new("pwd"), "/");
    check(&Command::new("pwd").cwd("/usr"), "/usr");
    check(&Command::new("cat"), "");
    check(&Command::new("cat").input("given"), "given");
}

#[test]
fn a_failure_names_the_program_its_status_and_its_last_words() {
    let error = shell("echo first >&2; echo last >&2; exit 7")
        .run_blocking()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"sh\" ended with exit status: 7, saying\n  | first\n  | last"
    );
    let missing = Command::new("/no/such/program").run_blocking().unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    assert_eq!(
        missing.to_string(),
        "cannot start \"/no/such/program\" in /"
    );
    for status in [
        shell("exit 7").output_blocking().unwrap().status,
        shell("exit 7").status_blocking().unwrap(),
    ] {
        assert_eq!(status.code(), Some(7));
    }
}

#[test]
fn output_is_bounded_and_says_so() {
    let flood = shell("head -c 100000 /dev/zero").output_limit(1000);
    let output = flood.run_blocking().unwrap();
    assert_eq!((output.stdout.len(), output.truncated), (1000, true));
    let exact = shell("head -c 1000 /dev/zero").output_limit(1000);
    assert!(!exact.run_blocking().unwrap().truncated);
}

#[test]
fn a_missed_deadline_kills_the_whole_group() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("held");
    Command::new("mkfifo").arg(&path).run_blocking().unwrap();
    // A reader that does not wait for a writer, so that the shell can go on.
    let nonblocking = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::RDONLY;
    let fifo = rustix::fs::open(&path, nonblocking, rustix::fs::Mode::empty()).unwrap();
    let stuck = shell("sleep 600 >\"$0\" & echo stuck >&2; wait")
        .arg(&path)
        .deadline(SOON)
        .process_group(true);
    let error = stuck.run_blocking().unwrap_err();
    assert!(
        matches!(&error, RunError::Deadline { stderr, .. } if stderr == "stuck"),
        "{error}"
    );
    // The grandchild holds the writing end: the reader sees its end when, and
    // only when, the grandchild is gone.
    rustix::fs::fcntl_setfl(&fifo, rustix::fs::OFlags::empty()).unwrap();
    assert_eq!(File::from(fifo).read(&mut [0]).unwrap(), 0);
}

#[test]
fn pipes_left_open_by_a_grandchild_do_not_hang_the_caller() {
    let output = shell("sleep 30 & echo started $!").run_blocking().unwrap();
    let text = output.stdout_text();
    let pid = text.strip_prefix("started ").unwrap();
    Command::new("kill").arg(pid).run_blocking().unwrap();
}

#[tokio::test]
async fn blocking_runs_work_inside_a_runtime_too() {
    check(&shell("echo inside"), "inside");
    assert_eq!(
        shell("echo async").run().await.unwrap().stdout_text(),
        "async"
    );
}

#[test]
fn a_detached_program_leads_a_session_with_the_given_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let out = File::create(&path).unwrap();
    let script = "test \"$(ps -o sid= -p $$ | tr -d ' ')\" = $$ && echo $$";
    let mut daemon = shell(script).spawn_detached(None, Some(out), None).unwrap();
    let ended = std::iter::repeat_with(|| {
        std::thread::yield_now();
        daemon.try_wait().unwrap()
    });
    let status = ended.flatten().next().unwrap();
    assert!(status.success());
    let mut text = String::new();
    File::open(&path)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text.trim(), daemon.id().to_string());
    let error = Command::new("no-such-daemon")
        .spawn_detached(None, None, None)
        .unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[test]
fn a_command_is_shown_as_it_would_be_typed() {
    let command = Command::new("sh").args(["-c", "it's $A", "", "/a-b_c.d"]);
    assert_eq!(command.display(), r"sh -c 'it'\''s $A' '' /a-b_c.d");
}
