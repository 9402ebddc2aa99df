//! Starting processes, how they end, signals.

use std::collections::HashMap;

use rustix::io::Errno;
use tombolo_guest_proto::v1::{
    Empty, KillRequest, OutputStream, SpawnRequest, Stdio, WaitReply, WaitRequest, WriteFileOpen,
};

use crate::support::{Guest, command, create, errno, failure, is_root, shell, until, within};

fn env(entries: &[(&str, &str)]) -> HashMap<String, String> {
    let entries = entries.iter();
    entries
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[tokio::test]
async fn a_process_sees_what_its_request_says() {
    let guest = Guest::start().await;
    let home = guest.home.to_str().unwrap().to_owned();
    guest.sh("mkdir sub").await;
    let cases = [
        (command("pwd", &[]), home.clone()),
        (
            SpawnRequest {
                cwd: "sub".into(),
                ..command("pwd", &[])
            },
            format!("{home}/sub"),
        ),
        (
            SpawnRequest {
                cwd: "/usr".into(),
                ..command("pwd", &[])
            },
            "/usr".to_owned(),
        ),
        (
            command("printf", &["[%s]", "a b", "", "é\u{1f600}", "$x"]),
            "[a b][][é\u{1f600}][$x]".to_owned(),
        ),
        (shell("echo $HOME $LANG"), format!("{home} C.UTF-8")),
        (
            SpawnRequest {
                env: env(&[("LANG", "x"), ("OWN", "a=b\nc")]),
                ..shell("printf '%s|' \"$LANG\" \"$OWN\" \"$HOME\"")
            },
            format!("x|a=b\nc|{home}|"),
        ),
        (
            SpawnRequest {
                env: env(&[("ONLY", "this")]),
                clear_env: true,
                ..command("env", &[])
            },
            "ONLY=this".to_owned(),
        ),
    ];
    for (request, expected) in cases {
        let finished = guest.run(request.clone()).await;
        assert_eq!(
            finished.stdout.trim_end(),
            expected,
            "{request:?}: {finished:?}"
        );
    }
}

#[tokio::test]
async fn a_program_is_looked_for_where_its_own_path_says() {
    let guest = Guest::start().await;
    guest.sh("mkdir bin").await;
    let script = WriteFileOpen {
        mode: Some(0o755),
        ..create("bin/script")
    };
    guest.write(script, b"echo script $0 $1").await.unwrap();
    let bin = format!("{}/bin", guest.home.display());
    let cases = [
        (
            SpawnRequest {
                env: env(&[("PATH", &format!("/nope:{bin}"))]),
                ..command("script", &["one"])
            },
            format!("script {bin}/script one"),
        ),
        (
            command("bin/script", &["two"]),
            "script bin/script two".to_owned(),
        ),
        (
            SpawnRequest {
                cwd: "bin".into(),
                env: env(&[("PATH", "")]),
                ..command("script", &[])
            },
            "script ./script".to_owned(),
        ),
    ];
    for (request, expected) in cases {
        let finished = guest.run(request.clone()).await;
        assert_eq!(finished.stdout.trim_end(), expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_process_inherits_nothing_of_the_agents() {
    let guest = Guest::start().await;
    let cases = [
        (shell("umask"), "0022".to_owned()),
        (command("ls", &["/proc/self/fd"]), "0\n1\n2\n3".to_owned()),
        (
            command(
                "grep",
                // The last digits are the signals that have names.
                &["-E", "^Sig(Blk|Ign):.*[1-9a-f].{0,6}$", "/proc/self/status"],
            ),
            String::new(),
        ),
        (
            shell("echo out > /dev/stdout; echo err > /dev/stderr"),
            "out".to_owned(),
        ),
    ];
    for (request, expected) in cases {
        let finished = guest.run(request.clone()).await;
        assert_eq!(
            finished.stdout.trim_end(),
            expected,
            "{request:?}: {finished:?}"
        );
    }
}

#[tokio::test]
async fn a_process_leads_a_session_of_its_own() {
    let guest = Guest::start().await;
    let stat = command("cut", &["-d ", "-f1,5,6", "/proc/self/stat"]);
    let stat = guest.run(stat).await.stdout;
    let ids: Vec<&str> = stat.split_whitespace().collect();
    assert!(matches!(ids[..], [pid, group, session] if pid == group && pid == session));
}

#[tokio::test]
async fn a_process_runs_as_the_user() {
    let guest = Guest::start().await;
    let finished = guest.sh("id -un; cat /etc/shadow > /dev/null").await;
    if is_root() {
        assert_eq!(finished.stdout, "nobody\n");
        assert!(
            finished.stderr.contains("Permission denied"),
            "{finished:?}"
        );
        let groups = guest.sh("id -G").await.stdout;
        assert!(!groups.split_whitespace().any(|gid| gid == "0"), "{groups}");
    }
}

#[tokio::test]
async fn a_program_that_cannot_start_says_why_at_once() {
    let guest = Guest::start().await;
    guest
        .sh("mkdir bin; echo x > bin/plain; chmod 644 bin/plain")
        .await;
    let long = "x".repeat(5000);
    let huge = "x".repeat(200_000);
    let cwd = |cwd: &str| SpawnRequest {
        cwd: cwd.into(),
        ..command("true", &[])
    };
    let with_env = |key: &str, value: &str| SpawnRequest {
        env: env(&[(key, value)]),
        ..command("true", &[])
    };
    let os = |errno: Errno| (errno.raw_os_error(), "");
    let invalid = (0, "invalid_argument");
    let cases = [
        (command("no-such-program", &[]), os(Errno::NOENT), "spawn"),
        (command("/no/such", &[]), os(Errno::NOENT), "spawn"),
        (command("", &[]), os(Errno::NOENT), "spawn"),
        (command("bin/plain", &[]), os(Errno::ACCESS), "spawn"),
        (command("bin/plain/x", &[]), os(Errno::NOTDIR), "spawn"),
        (command("/", &[]), os(Errno::ACCESS), "spawn"),
        (
            command(&format!("/{long}"), &[]),
            os(Errno::NAMETOOLONG),
            "spawn",
        ),
        (command("true", &[&huge]), os(Errno::TOOBIG), "spawn"),
        (command("tr\0ue", &[]), invalid, "spawn"),
        (command("true", &["a\0b"]), invalid, "spawn"),
        (with_env("A", "a\0b"), invalid, "spawn"),
        (with_env("", "x"), invalid, "spawn"),
        (with_env("A=B", "x"), invalid, "spawn"),
        (with_env("A", &huge), os(Errno::TOOBIG), "spawn"),
        (cwd("nope"), os(Errno::NOENT), "chdir"),
        (cwd("/etc/passwd"), os(Errno::NOTDIR), "chdir"),
        (cwd("a\0b"), invalid, "chdir"),
        (cwd(&long), os(Errno::NAMETOOLONG), "chdir"),
    ];
    for (request, (errno, kind), operation) in cases {
        let error = failure(guest.spawn(request.clone()).await);
        let got = (error.errno, error.kind.as_str(), error.operation.as_str());
        let shown = format!("{:.80?}", format!("{request:?}"));
        assert_eq!(got, (errno, kind, operation), "{shown}");
    }
    let list = guest.client.clone().list_processes(Empty {}).await.unwrap();
    let list: Vec<_> = list.into_inner().processes;
    assert!(
        list.iter().all(|process| process.command == "sh"),
        "{list:?}"
    );
}

#[tokio::test]
async fn an_exit_is_told_to_all_who_ask_and_ever_after() {
    let guest = Guest::start().await;
    let cases = [
        ("exit 0", 0, 0),
        ("exit 7", 7, 0),
        ("exit 255", 255, 0),
        ("kill -TERM $$", 143, 15),
        ("kill -KILL $$", 137, 9),
        ("kill -PIPE $$", 141, 13),
        ("trap '' TERM; kill -TERM $$; exit 3", 3, 0),
    ];
    for (script, code, signal) in cases {
        let pid = guest.spawn(shell(script)).await.unwrap();
        let waits = (0..4).map(|_| guest.wait(pid));
        let mut replies = futures_util::future::join_all(waits).await;
        replies.push(guest.wait(pid).await);
        let expected = WaitReply {
            code,
            signal,
            oom: 0,
        };
        assert_eq!(replies, vec![expected; 5], "{script}");
    }
}

#[tokio::test]
async fn signals_reach_the_process_and_nobody_else() {
    let guest = Guest::start().await;
    let kill = async |pid, signal| {
        let request = KillRequest { pid, signal };
        within(guest.client.clone().kill(request)).await.map(drop)
    };
    let script = "trap 'echo got; exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    let request = SpawnRequest {
        stdout: Stdio::Piped.into(),
        ..shell(script)
    };
    let pid = guest.spawn(request).await.unwrap();
    assert_eq!(errno(&kill(pid, 0).await), 0);
    assert_eq!(errno(&kill(pid, 999).await), Errno::INVAL.raw_os_error());
    assert_eq!(errno(&kill(pid, -1).await), Errno::INVAL.raw_os_error());
    let reader = guest.read_all(pid, OutputStream::OutputStdout);
    let killer = async {
        // Its trap is set before it says so, and what it says is read above.
        until(async || {
            let shown = fs_err::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let caught = shown
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:"))?;
            let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
            (caught & (1 << 9) != 0).then_some(())
        })
        .await;
        kill(pid, 10).await.unwrap();
    };
    let (output, ()) = tokio::join!(reader, killer);
    assert_eq!(output, "ready\ngot\n");
    assert_eq!(guest.wait(pid).await.code, 9);
    let gone = Errno::SRCH.raw_os_error();
    assert_eq!(errno(&kill(pid, 15).await), gone);
    for stranger in [0, -1, 1, i32::MAX, i32::MIN] {
        assert_eq!(errno(&kill(stranger, 9).await), gone, "{stranger}");
        let wait = WaitRequest { pid: stranger };
        let waited = within(guest.client.clone().wait(wait)).await;
        assert_eq!(errno(&waited), gone, "{stranger}");
    }
}

#[tokio::test]
async fn many_processes_at_once() {
    let guest = Guest::start().await;
    let runs = (0..200).map(|code| {
        let guest = &guest;
        async move {
            let pid = guest.spawn(shell(&format!("exit {}", code % 250))).await;
            (code % 250, guest.wait(pid.unwrap()).await.code)
        }
    });
    for (expected, code) in futures_util::future::join_all(runs).await {
        assert_eq!(expected, code);
    }
    let list = guest.client.clone().list_processes(Empty {}).await.unwrap();
    let list = list.into_inner().processes;
    assert_eq!(list.len(), 200);
    assert!(list.iter().all(|process| !process.running));
}

#[tokio::test]
async fn orphans_are_reaped() {
    let guest = Guest::start().await;
    let finished = guest
        .sh("for i in 1 2 3 4 5; do sleep 0.02 & done; echo $$")
        .await;
    assert_eq!(finished.reply.code, 0);
    let agent = guest.agent_pid();
    until(async || {
        let children = format!("/proc/{agent}/task/{agent}/children");
        let children = fs_err::read_to_string(children).unwrap();
        children.trim().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_environment_store_reaches_later_processes() {
    use tombolo_guest_proto::v1::{EnvEntry, EnvKey};
    let guest = Guest::start().await;
    let mut client = guest.client.clone();
    let set = |key: &str, value: &str| EnvEntry {
        key: key.into(),
        value: value.into(),
    };
    client.set_env(set("A", "é=1")).await.unwrap();
    client.set_env(set("HOME", "/else")).await.unwrap();
    let key = |key: &str| EnvKey { key: key.into() };
    client.delete_env(key("LANG")).await.unwrap();
    client.delete_env(key("never was")).await.unwrap();
    let seen = guest.sh("echo $A $HOME ${LANG-unset}").await.stdout;
    assert_eq!(seen, "é=1 /else unset\n");
    let all = client.all_env(Empty {}).await.unwrap().into_inner().env;
    assert_eq!(all.get("A").map(String::as_str), Some("é=1"));
    assert!(!all.contains_key("LANG"));
    let value = client.get_env(key("A")).await.unwrap().into_inner().value;
    assert_eq!(value.as_deref(), Some("é=1"));
    let value = client
        .get_env(key("nope"))
        .await
        .unwrap()
        .into_inner()
        .value;
    assert_eq!(value, None);
    for (name, value) in [("", "x"), ("a=b", "x"), ("a\0", "x"), ("a", "\0")] {
        let error = failure(client.set_env(set(name, value)).await);
        assert_eq!(error.kind, "invalid_argument", "{name:?}={value:?}");
    }
}
