//! The program as a person runs it: what it answers, where it says so, and
//! with which exit code.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "all of this file is a test"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use insta::assert_snapshot;
use tempfile::TempDir;

/// Nothing here takes long; what does, hangs.
const PATIENCE: Duration = Duration::from_mins(1);
/// Nobody in particular: may read nothing of root's and start no machine.
const NOBODY: (u32, u32) = (60_799, 60_799);

/// A state directory of its own, and the program run on it.
struct Place {
    state: TempDir,
}

impl Place {
    fn new() -> Self {
        let state = TempDir::new().unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        fs_err::set_permissions(state.path(), open).unwrap();
        Self { state }
    }

    fn path(&self) -> &Path {
        self.state.path()
    }

    fn command(&self, args: &[&str]) -> tombolo_proc::Command {
        tombolo_proc::Command::new(env!("CARGO_BIN_EXE_tombolo"))
            .env("TOMBOLO_STATE_DIR", self.path())
            .args(args)
            .deadline(PATIENCE)
    }

    fn run(&self, args: &[&str]) -> String {
        self.show(&self.command(args))
    }

    /// Exit code, standard output and standard error, without what differs
    /// from run to run.
    fn show(&self, command: &tombolo_proc::Command) -> String {
        let output = command.output_blocking().unwrap();
        let mut text = format!("exit {}\n", output.status.code().unwrap());
        for (name, stream) in [("stdout", output.stdout), ("stderr", output.stderr)] {
            if !stream.is_empty() {
                text.extend([name, ":\n", &String::from_utf8_lossy(&stream)]);
            }
        }
        let text = text.replace(&self.path().display().to_string(), "STATE");
        text.replace(env!("CARGO_BIN_EXE_tombolo"), "TOMBOLO")
    }
}

#[test]
fn help_goes_to_standard_output() {
    let place = Place::new();
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["up", "--help"],
        &["sandbox", "--help"],
        &["sandbox", "copy", "--help"],
        &["token", "create", "--help"],
        &["egress", "policy", "get", "--help"],
        &["egress", "policy", "set", "--help"],
        &["egress", "secret", "list", "--help"],
        &["egress", "secret", "put", "--help"],
        &["egress", "secret", "revoke", "--help"],
        &["egress", "tail", "--help"],
        &["egress", "top", "--help"],
        &["egress", "explain", "--help"],
        &["doctor", "--help"],
        &["bench", "--help"],
    ] {
        let shown = place.run(args);
        assert!(shown.starts_with("exit 0\nstdout:\n"), "{args:?}: {shown}");
        assert!(!shown.contains("stderr:"), "{args:?}: {shown}");
        let has_examples = shown.contains("Examples:") || args == ["sandbox", "--help"];
        assert!(has_examples, "{args:?} shows no example");
    }
    assert_snapshot!(place.run(&["-h"]), @r#"
    exit 0
    stdout:
    Run untrusted code in Linux microVMs on this machine

    Usage: tombolo [OPTIONS] <COMMAND>

    Commands:
      run          Run a command in a new sandbox and throw the sandbox away
      up           Start the server that the SDKs talk to, and stay with it
      doctor       Say what this machine can do, and how to mend what it cannot
      setup        Get everything that sandboxes need; "run" and "up" do this by themselves
      sandbox      Create, use and end sandboxes
      egress       See and change what sandboxes send out: policies, secrets, records
      ingress      See what lets clients trust the addresses of exposed ports
      ssh-key      Add, list and remove the public keys that open sandboxes over SSH
      token        Create, list and revoke the tokens that open the server
      bench        Measure this machine: create, exec, files, many at once, memory
      completions  Print what makes a shell complete this command
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Global options:
          --state-dir <DIR>  Where Tombolo keeps everything [env: TOMBOLO_STATE_DIR] [default:
                             /var/lib/tombolo]
          --config <FILE>    The configuration file [env: TOMBOLO_CONFIG] [default: config.toml in the
                             state directory]
          --log <FILTER>     Write log lines such as "info,tombolo_server=debug" [env: TOMBOLO_LOG]

    Examples:
      tombolo run -- python3 -c 'print("hello from a microVM")'
      tombolo up
      tombolo doctor
    "#);
    assert_snapshot!(place.run(&["--version"]), @r#"
    exit 0
    stdout:
    tombolo 0.1.0
    "#);
}

#[test]
fn mistakes_are_explained_and_exit_with_64() {
    let place = Place::new();
    assert_snapshot!(place.run(&["ruin"]), @r#"
    exit 64
    stderr:
    error: unrecognized subcommand 'ruin'

      tip: a similar subcommand exists: 'run'

    Usage: tombolo [OPTIONS] <COMMAND>

    For more information, try '--help'.
    "#);
    assert_snapshot!(place.run(&["run"]), @r#"
    exit 64
    stderr:
    error: the following required arguments were not provided:
      <COMMAND>...

    Usage: tombolo run <COMMAND>...

    For more information, try '--help'.
    "#);
    assert_snapshot!(place.run(&["run", "--timeout", "soon", "true"]), @r#"
    exit 64
    stderr:
    error: invalid value 'soon' for '--timeout <DURATION>': expected number at 0

    For more information, try '--help'.
    "#);
    assert_snapshot!(place.run(&["run", "--env", "GONE", "true"]), @r#"
    exit 64
    stderr:
    error: --env GONE passes on a variable that is not set here
      hint: write --env GONE=VALUE, or export GONE first
    "#);
    assert_snapshot!(place.run(&["run", "--isolation", "none", "true"]), @r#"
    exit 64
    stderr:
    error: --isolation cannot be "none"
      hint: it takes "auto", "kvm" or "emulated"
    "#);
}

#[test]
fn mistakes_about_sandboxes_and_settings_are_explained_too() {
    let place = Place::new();
    assert_snapshot!(place.run(&["sandbox", "kill"]), @r#"
    exit 64
    stderr:
    error: the following required arguments were not provided:
      <ID>...

    Usage: tombolo sandbox kill <ID>...

    For more information, try '--help'.
    "#);
    assert_snapshot!(place.run(&["sandbox", "exec", "sbx_1", "true"]), @r#"
    exit 64
    stderr:
    error: "sbx_1" is no sandbox
      caused by: not a sandbox id
      hint: "tombolo sandbox list" shows those that there are
    "#);
    assert_snapshot!(place.run(&["sandbox", "copy", "a", "b"]), @r#"
    exit 64
    stderr:
    error: neither the source nor the destination is in a sandbox
      hint: write the one that is as ID:PATH; "tombolo sandbox list" shows the ids
    "#);
    assert_snapshot!(place.run(&["up", "--pool-size", "many"]), @r#"
    exit 64
    stderr:
    error: pool_size = many (from the flag --pool-size) is not possible
      caused by: it is not a whole number
      caused by: invalid digit found in string
      hint: pool_size takes a whole number from 0 to 64
    "#);
    assert_snapshot!(place.run(&["--log", "a=b=c", "doctor"]), @r#"
    exit 64
    stderr:
    error: log filter "a=b=c" is not understood
      caused by: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5
      hint: write it as "info" or "warn,tombolo_server=debug"
    "#);
}

#[test]
fn without_arguments_it_shows_what_there_is() {
    let shown = Place::new().run(&[]);
    assert!(shown.starts_with("exit 64\nstderr:\n"), "{shown}");
    assert!(shown.contains("Usage: tombolo"), "{shown}");
}

#[test]
fn a_wrong_configuration_file_is_refused_by_name() {
    let place = Place::new();
    let write = |text: &str| fs_err::write(place.path().join("config.toml"), text).unwrap();
    write("pool_sizes = 3");
    assert_snapshot!(place.run(&["up"]), @r#"
    exit 78
    stderr:
    error: STATE/config.toml has the key "pool_sizes", which does not exist
      hint: did you mean "pool_size"?
    "#);
    write("lifetime_max = \"1y\"");
    assert_snapshot!(place.run(&["up"]), @r#"
    exit 78
    stderr:
    error: lifetime_max = 1y (from STATE/config.toml) is not possible
      caused by: it must be from 1m to 30days
      hint: lifetime_max takes a duration such as "10m", from 1m to 30days
    "#);
    write("pool_size");
    let shown = place.run(&["up"]);
    assert!(
        shown.contains("STATE/config.toml is not valid TOML"),
        "{shown}"
    );
    assert_snapshot!(place.run(&["up", "--config", "/nonexistent.toml"]), @r#"
    exit 78
    stderr:
    error: the configuration file cannot be read
      caused by: failed to open file `/nonexistent.toml`: No such file or directory (os error 2)
      hint: check the path given by --config or TOMBOLO_CONFIG
    "#);
}

#[test]
fn a_wrong_variable_is_refused_and_an_unknown_one_is_mentioned() {
    let place = Place::new();
    let command = place
        .command(&["up"])
        .env("TOMBOLO_POOLSIZE", "3")
        .env("TOMBOLO_VCPU_COUNT", "0");
    assert_snapshot!(place.show(&command), @r#"
    exit 78
    stderr:
    warning: the variable TOMBOLO_POOLSIZE means nothing to Tombolo
    error: vcpu_count = 0 (from the variable TOMBOLO_VCPU_COUNT) is not possible
      caused by: it must be from 1 to 64
      hint: vcpu_count takes a whole number from 1 to 64
    "#);
}

#[test]
fn without_a_server_the_next_step_is_named() {
    let place = Place::new();
    assert_snapshot!(place.run(&["sandbox", "list"]), @r#"
    exit 69
    stderr:
    error: no server runs on STATE
      hint: start one with "tombolo up", or name another with TOMBOLO_ENDPOINT and TOMBOLO_TOKEN
    "#);
    let id = "sbx_ord_0123456789abcdefghjk";
    for args in [
        &["sandbox", "create"][..],
        &["sandbox", "exec", id, "true"],
        &["sandbox", "copy", "a", &format!("{id}:b")],
        &["sandbox", "extend", id, "1m"],
        &["sandbox", "kill", id],
        &["token", "create"],
        &["token", "list"],
    ] {
        let shown = place.run(args);
        assert!(shown.starts_with("exit 69\nstderr:\n"), "{args:?}: {shown}");
        assert!(shown.contains("hint: start one with"), "{args:?}: {shown}");
    }
}

#[test]
fn a_server_that_was_named_needs_a_token_and_an_answer() {
    let place = Place::new();
    let list = ["sandbox", "list", "--endpoint", "http://127.0.0.1:1"];
    assert_snapshot!(place.run(&list), @r#"
    exit 77
    stderr:
    error: there is no token for http://127.0.0.1:1
      hint: set TOMBOLO_TOKEN to one made by "tombolo token create"
    "#);
    let command = place.command(&list).env("TOMBOLO_TOKEN", "ddo_x");
    let shown = place.show(&command);
    assert!(
        shown.starts_with("exit 69\nstderr:\nerror: cannot reach a server at http://127.0.0.1:1"),
        "{shown}"
    );
    assert_snapshot!(place.run(&["run", "--endpoint", "ftp://x.test", "true"]), @r#"
    exit 64
    stderr:
    error: "ftp://x.test" must begin with http:// or https://
    "#);
}

#[test]
fn machines_need_root_and_the_error_says_how() {
    let place = Place::new();
    // Where the program is built, others may not be able to reach it.
    let program = place.path().join("tombolo");
    fs_err::copy(env!("CARGO_BIN_EXE_tombolo"), &program).unwrap();
    for args in [&["up"][..], &["run", "--", "true"], &["setup"]] {
        let command = tombolo_proc::Command::new(&program)
            .env("TOMBOLO_STATE_DIR", place.path())
            .args(args)
            .run_as(NOBODY.0, NOBODY.1)
            .deadline(PATIENCE);
        let shown = place.show(&command);
        assert!(shown.starts_with("exit 77\nstderr:\n"), "{args:?}: {shown}");
        assert!(
            shown.contains("hint: run it as root: sudo STATE/tombolo"),
            "{args:?}: {shown}"
        );
    }
}

#[test]
fn parts_of_up_do_not_run_alone() {
    let place = Place::new();
    for part in ["server", "node", "egress-proxy"] {
        let shown = place.run(&[part]);
        assert!(shown.starts_with("exit 64\n"), "{shown}");
        assert!(
            shown.contains("hint: this is a part of \"tombolo up\""),
            "{shown}"
        );
    }
}

#[test]
fn shells_get_their_completions() {
    let place = Place::new();
    for (shell, expected) in [
        ("bash", "complete -F _tombolo"),
        ("zsh", "#compdef tombolo"),
        ("fish", "complete -c tombolo"),
    ] {
        let shown = place.run(&["completions", shell]);
        assert!(shown.starts_with("exit 0\n"), "{shell}");
        assert!(shown.contains(expected), "{shell}");
    }
}

#[test]
fn the_doctor_prints_for_people_and_for_programs() {
    let place = Place::new();
    let output = place
        .command(&["doctor", "--json"])
        .output_blocking()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let healthy = report["healthy"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!healthy)));
    assert!(report["requirements"].as_array().unwrap().len() > 3);
    assert!(report["server"].is_null());
    let shown = place.run(&["doctor"]);
    assert!(
        shown.contains("server: none runs on this state directory"),
        "{shown}"
    );
}
