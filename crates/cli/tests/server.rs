//! The program against a real server whose node and guests live in memory:
//! what a person types, through the whole protocol, and back.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "all of this file is a test"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tombolo_proc::Command;
use tombolo_server::{IngressLimits, IngressOptions, Limits, Server, ServerConfig, TokenHash};
use tombolo_testkit::{FakeAgent, FakeEgress, FakeNode, Script, eventually, within};

const ADMIN: &str = "tma_test";
/// Nothing here takes long; what does, hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server, its node in memory, and a state directory as `tombolo up` leaves
/// it for other commands.
struct World {
    node: FakeNode,
    egress: FakeEgress,
    state: TempDir,
    server: Server,
}

/// What a command answered.
#[derive(Debug)]
struct Answer {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Answer {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }
}

impl World {
    async fn new() -> Self {
        let (node, egress) = (FakeNode::start().unwrap(), FakeEgress::start().unwrap());
        node.attach_to(&egress);
        let config = ServerConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            base_url: None,
            node_socket: node.socket(),
            egress_socket: Some(egress.socket()),
            database: node.directory().join("server.db"),
            admin_token: Some(TokenHash::of(ADMIN)),
            region: tombolo_ids::Region::DEFAULT,
            limits: Limits::STANDARD,
            ingress: Some(ingress(node.directory())),
            ssh: None,
            retires: false,
        };
        let server = Server::start(config).await.unwrap();
        let state = TempDir::new().unwrap();
        let run = state.path().join("run");
        fs_err::create_dir(&run).unwrap();
        fs_err::write(run.join("admin-token"), ADMIN).unwrap();
        let running = serde_json::json!({
            "url": format!("http://{}", server.address()),
            "pid": 1, "server_pid": 1, "node_pid": 1, "version": "0",
        });
        fs_err::write(run.join("server.json"), running.to_string()).unwrap();
        let world = Self {
            node,
            egress,
            state,
            server,
        };
        // Not there yet; the command that makes one must not need one.
        fs_err::write(world.token_file(), "").unwrap();
        let token = world.run(&["token", "create", "--name", "test"]).await.ok();
        fs_err::write(world.token_file(), token.trim()).unwrap();
        eventually("the server follows the node", async || {
            (world.node.watchers() > 0).then_some(())
        })
        .await;
        world
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    fn token_file(&self) -> std::path::PathBuf {
        self.state.path().join("token")
    }

    fn command(&self, args: &[&str]) -> Command {
        Command::new(Path::new(env!("CARGO_BIN_EXE_tombolo")))
            .env("TOMBOLO_STATE_DIR", self.state.path())
            .args(args)
            .deadline(PATIENCE)
    }

    async fn run(&self, args: &[&str]) -> Answer {
        self.feed(args, "").await
    }

    async fn feed(&self, args: &[&str], input: &str) -> Answer {
        let output = self.command(args).input(input).output().await.unwrap();
        Answer {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Creates a sandbox in which `command` does this.
    async fn sandbox(&self, command: &str, script: Script) -> (String, FakeAgent) {
        let id = self.run(&["sandbox", "create"]).await.ok();
        let id = id.trim().to_owned();
        let agent = self.node.agent(&id).unwrap();
        agent.script(command, script);
        (id, agent)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_created_listed_extended_and_killed() {
    let world = World::new().await;
    let create = [
        "sandbox", "create", "--label", "job=a", "--memory", "1024", "--json",
    ];
    let created = world.run(&create).await.json();
    let id = created["id"].as_str().unwrap();
    assert!(world.node.has(id));

    let rows = world.run(&["sandbox", "list", "--json"]).await.json();
    assert_eq!(rows[0]["id"], id);
    assert_eq!(rows[0]["state"], "running");
    assert_eq!(rows[0]["memory_mib"], 1024);
    for (label, expected) in [("job=a", 1), ("job=b", 0)] {
        let rows = world
            .run(&["sandbox", "list", "--label", label, "--json"])
            .await;
        assert_eq!(rows.json().as_array().unwrap().len(), expected, "{label}");
    }
    let table = world.run(&["sandbox", "list"]).await.ok();
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("ID"), "{table}");
    assert!(
        lines[1].starts_with(id) && lines[1].contains("running  1024 MiB"),
        "{table}"
    );

    let extended = world
        .run(&["sandbox", "extend", id, "25m", "--json"])
        .await
        .json();
    assert!(extended["stop_at_ms"].as_i64().unwrap() > rows[0]["created_at_ms"].as_i64().unwrap());

    for _ in 0..2 {
        assert_eq!(world.run(&["sandbox", "kill", id]).await.ok().trim(), id);
    }
    assert!(!world.node.has(id));
    let table = world.run(&["sandbox", "list"]).await.ok();
    assert!(table.contains("stopped (killed)"), "{table}");
    let running = world
        .run(&["sandbox", "list", "--running", "--json"])
        .await
        .json();
    assert_eq!(running, serde_json::json!([]));
}

/// An ingress for names alone: nobody connects to it here.
fn ingress(directory: &Path) -> IngressOptions {
    let made = rcgen::generate_simple_self_signed(["*.x".to_owned()]).unwrap();
    let identity_file = directory.join("identity.pem");
    let pem = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
    fs_err::write(&identity_file, pem).unwrap();
    IngressOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        base: "x".parse().unwrap(),
        identity_file,
        acme: None,
        limits: IngressLimits::STANDARD,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_exposed_listed_and_taken_back() {
    let world = World::new().await;
    let id = world.run(&["sandbox", "create"]).await.ok();
    let id = id.trim();
    let url = world.run(&["sandbox", "expose", id, "8000"]).await.ok();
    let name = url.strip_prefix("https://").unwrap().get(..32).unwrap();
    let private = ["sandbox", "expose", id, "--pid", "7", "--private"];
    let shown = world.run(&private).await;
    assert!(shown.stderr.contains("x-tombolo-access: "), "{shown:?}");
    let lines = shown.ok();
    let (address, link) = lines.trim().split_once('\n').unwrap();
    let token = link.strip_prefix(&format!("{address}/?tombolo_access="));
    assert_eq!(token.unwrap().len(), 32, "{lines}");
    let listed = world.run(&["sandbox", "exposures", id]).await.ok();
    for words in [name, "port 8000", "process 7", "private", "public"] {
        assert!(listed.contains(words), "{listed}");
    }
    assert!(!listed.contains(token.unwrap()), "{listed}");
    let by_name = ["sandbox", "unexpose", id, name];
    let by_address = ["sandbox", "unexpose", id, url.trim()];
    world.run(&by_address).await.ok();
    let rows = world.run(&["sandbox", "exposures", id, "--json"]).await;
    assert_eq!(rows.json().as_array().unwrap().len(), 1);
    let mistakes: [(&[&str], i32, &str); 6] = [
        (&by_name, 1, "EXPOSURE_NOT_FOUND"),
        (&by_address, 1, "EXPOSURE_NOT_FOUND"),
        (
            &["sandbox", "unexpose", id, "nonsense"],
            64,
            "32 hexadecimal digits",
        ),
        (&["sandbox", "expose", id, "0"], 64, "PORT"),
        (&["sandbox", "expose", id, "65536"], 64, "PORT"),
        (&["sandbox", "expose", id, "80", "--pid", "1"], 64, "--pid"),
    ];
    for (args, code, words) in mistakes {
        let refused = world.run(args).await;
        assert_eq!(refused.code, code, "{args:?}: {refused:?}");
        assert!(refused.stderr.contains(words), "{args:?}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_runs_can_be_killed_at_once() {
    let world = World::new().await;
    for _ in 0..3 {
        world.run(&["sandbox", "create"]).await.ok();
    }
    let killed = world
        .run(&["sandbox", "kill", "--all", "--json"])
        .await
        .json();
    assert_eq!(killed["killed"].as_array().unwrap().len(), 3);
    assert!(world.node.sandboxes().is_empty());
}

/// Whoever owns the machine has to be able to empty it.
#[tokio::test(flavor = "multi_thread")]
async fn on_the_machine_itself_every_organisation_is_listed_and_ended() {
    let world = World::new().await;
    let create = async || {
        world
            .run(&["sandbox", "create"])
            .await
            .ok()
            .trim()
            .to_owned()
    };
    let mine = create().await;
    let own = fs_err::read_to_string(world.token_file()).unwrap();
    let other = ["token", "create", "--organisation", "other"];
    let other = world.run(&other).await.ok();
    fs_err::write(world.token_file(), other.trim()).unwrap();
    let theirs = create().await;
    let owners = |rows: &Value| -> Vec<String> {
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["organisation"].as_str().unwrap().to_owned())
            .collect()
    };
    let rows = world.run(&["sandbox", "list", "--json"]).await.json();
    assert_eq!(owners(&rows), ["other", "default"]);
    let newest = ["sandbox", "list", "--limit", "1", "--json"];
    assert_eq!(owners(&world.run(&newest).await.json()), ["other"]);

    // A server that is named is asked with the token that is named.
    let named = async |token: &str, args: &[&str]| {
        let command = world
            .command(args)
            .env("TOMBOLO_ENDPOINT", world.url())
            .env("TOMBOLO_TOKEN", token.trim());
        command.output().await.unwrap()
    };
    let listed = named(&own, &["sandbox", "list", "--json"]).await;
    let rows: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(rows[0]["id"], mine.as_str());
    assert_eq!(owners(&rows), ["default"]);
    let refused = named(&own, &["sandbox", "kill", &theirs]).await;
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(words.contains("SANDBOX_NOT_FOUND"), "{words}");
    assert!(world.node.has(&theirs));

    let killed = world.run(&["sandbox", "kill", "--all", "--json"]).await;
    assert_eq!(killed.json()["killed"].as_array().unwrap().len(), 2);
    assert!(world.node.sandboxes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_our_input_output_and_exit_code() {
    let world = World::new().await;
    let mut script = Script::prints("out\n");
    script.stderr = b"err\n".to_vec();
    if let Some(exit) = &mut script.exit {
        exit.code = 7;
    }
    let (id, agent) = world.sandbox("tool", script).await;
    let exec = [
        "sandbox", "exec", &id, "-e", "A=b", "-w", "/tmp", "--", "tool", "-x",
    ];
    let answer = world.feed(&exec, "in\n").await;
    assert_eq!(
        (answer.code, answer.stdout.as_str(), answer.stderr.as_str()),
        (7, "out\n", "err\n")
    );
    let process = agent.processes().into_values().next().unwrap();
    assert_eq!(process.request.args, ["-x"]);
    assert_eq!(process.request.cwd, "/tmp");
    assert_eq!(process.request.env["A"], "b");
    assert!(process.request.terminal.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_there_is_told_as_by_a_shell() {
    let world = World::new().await;
    let (id, _agent) = world.sandbox("tool", Script::prints("")).await;
    let answer = world.run(&["sandbox", "exec", &id, "--", "tol"]).await;
    assert_eq!(answer.code, 127);
    let expected = "error: there is no command tol in the sandbox\n";
    assert!(answer.stderr.starts_with(expected), "{}", answer.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupts_reach_the_command() {
    let world = World::new().await;
    let (id, agent) = world.sandbox("wait", Script::runs()).await;
    let mut child = world
        .command(&["sandbox", "exec", &id, "wait"])
        .spawn(Stdio::null(), Stdio::null(), Stdio::piped())
        .unwrap();
    eventually("the command runs", async || {
        (!agent.processes().is_empty()).then_some(())
    })
    .await;
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = within("the command to end", child.wait()).await.unwrap();
    let mut words = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut words)
        .await
        .unwrap();
    assert_eq!(status.code(), Some(143), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_leaves_no_sandbox_whatever_came_of_it() {
    let world = World::new().await;
    let answer = world
        .run(&["run", "--memory", "1024", "--", "nothing"])
        .await;
    assert_eq!(answer.code, 127, "{}", answer.stderr);
    assert!(
        answer.stderr.contains("no command nothing"),
        "{}",
        answer.stderr
    );
    assert_eq!(world.node.created().len(), 1);
    eventually("the sandbox to end", async || {
        world.node.sandboxes().is_empty().then_some(())
    })
    .await;
    let answer = world.run(&["run", "--memory", "1", "--", "true"]).await;
    assert_eq!(answer.code, 64, "{}", answer.stderr);
    assert!(
        answer.stderr.contains("--memory must be between"),
        "{}",
        answer.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_insists_on_an_isolation_gets_no_other() {
    let world = World::new().await;
    let (mut refused, mut taken) = (0, 0);
    for isolation in ["kvm", "emulated"] {
        let answer = world
            .run(&["run", "--isolation", isolation, "--", "nothing"])
            .await;
        match answer.code {
            69 => {
                assert!(
                    answer.stderr.contains("hint: stop it and start"),
                    "{}",
                    answer.stderr
                );
                refused += 1;
            }
            _ => taken += 1,
        }
    }
    assert_eq!((refused, taken), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_listed_and_revoked() {
    let world = World::new().await;
    let created = world
        .run(&["token", "create", "--name", "laptop", "--json"])
        .await
        .json();
    let (id, token) = (
        created["id"].as_str().unwrap(),
        created["token"].as_str().unwrap(),
    );
    let list = world.run(&["token", "list"]).await.ok();
    assert!(
        list.contains(id) && list.contains("laptop") && !list.contains(token),
        "{list}"
    );

    let url = fs_err::read_to_string(world.state.path().join("run/server.json")).unwrap();
    let url: Value = serde_json::from_str(&url).unwrap();
    let command = world
        .command(&[
            "sandbox",
            "list",
            "--endpoint",
            url["url"].as_str().unwrap(),
        ])
        .env("TOMBOLO_TOKEN", token);
    assert_eq!(command.output().await.unwrap().status.code(), Some(0));
    world.run(&["token", "revoke", id]).await.ok();
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(77));
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("INVALID_TOKEN"), "{words}");
    assert!(!words.contains(token), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_describes_a_server_that_runs() {
    let world = World::new().await;
    let report = world.run(&["doctor", "--json"]).await;
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    assert!(
        report["server"]["node"]["isolation"].is_string(),
        "{report}"
    );
}

/// Hosts and secrets as they are typed reach the egress process, and nothing that
/// is printed has a value.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_secrets_are_given_changed_and_watched() {
    let world = World::new().await;
    let with_key = |args: &[&str], value: &str| world.command(args).env("API_KEY", value);
    let create = [
        "sandbox",
        "create",
        "--allow-net",
        "api.example.com,*.b.com:443",
        "--secret",
        "API_KEY@api.example.com",
    ];
    world.egress.warn(&["mind the gap"]);
    let created = with_key(&create, "first-value").output().await.unwrap();
    assert!(created.status.success(), "{}", created.stderr_tail());
    assert_eq!(created.stderr_tail().trim(), "warning: mind the gap");
    world.egress.warn(&[]);
    let id = created.stdout_text().trim().to_owned();
    let carried = || world.egress.sandbox(&id).unwrap();
    let hosts = serde_json::json!(["api.example.com", "*.b.com:443"]);
    assert_eq!(carried().policy["allow_net"], hosts);
    assert_eq!(carried().secrets["API_KEY"].value, "first-value");

    let put = ["egress", "secret", "put", &id, "API_KEY"];
    let put = with_key(&put, "second-value").output().await.unwrap();
    assert!(put.status.success(), "{}", put.stderr_tail());
    assert_eq!(carried().secrets["API_KEY"].value, "second-value");
    let keep = [
        "egress",
        "secret",
        "put",
        &id,
        "API_KEY@x.b.com",
        "--keep-value",
        "--json",
    ];
    let kept = world.run(&keep).await.json();
    assert_eq!(kept["hosts"], serde_json::json!(["x.b.com"]));
    let piped = ["egress", "secret", "put", &id, "API_KEY", "--file", "-"];
    let piped = world.feed(&piped, "third-value\n").await.ok();
    assert_eq!(carried().secrets["API_KEY"].value, "third-value");
    let listed = world.run(&["egress", "secret", "list", &id]).await.ok();
    for shown in [put.stdout_text(), kept.to_string(), piped, listed] {
        assert!(
            shown.contains("API_KEY") && !shown.contains("-value"),
            "{shown}"
        );
    }
    world
        .run(&["egress", "secret", "revoke", &id, "API_KEY"])
        .await
        .ok();
    assert!(carried().secrets["API_KEY"].is_revoked);

    let policy = world.run(&["egress", "policy", "get", &id]).await.ok();
    let set = ["egress", "policy", "set", &id, "-"];
    assert_eq!(world.feed(&set, &policy).await.ok(), "generation 6\n");
    let stale = world.feed(&set, &policy).await;
    assert!(stale.stderr.contains("POLICY_CHANGED"), "{stale:?}");
    let everything = ["egress", "policy", "set", &id, "--allow-net", "*", "--json"];
    assert_eq!(world.run(&everything).await.json()["generation"], 7);
    assert_eq!(carried().policy.get("allow_net"), None);
    world
        .run(&["egress", "policy", "set", &id, "--no-net"])
        .await
        .ok();
    assert_eq!(carried().policy["allow_net"], serde_json::json!([]));
    let top = world.run(&["egress", "top"]).await.ok();
    assert!(
        top.starts_with("HOST") && top.contains("api.example.com"),
        "{top}"
    );
}

/// What a sandbox cannot be created with is told with what to do, before it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_to_create_with_is_given_afterwards() {
    let world = World::new().await;
    let rule = |index: usize| {
        serde_json::json!({
            "id": format!("r{index}"), "host": "a.com", "guidance": "x".repeat(1000),
        })
    };
    let rules: Vec<Value> = (0..100).map(rule).collect();
    let policy = serde_json::json!({ "version": 1, "allow_net": [], "net": { "rules": rules } });
    let policy = policy.to_string();
    let create = ["sandbox", "create", "--egress-policy", "-"];
    let refused = world.feed(&create, &policy).await;
    assert_eq!(refused.code, 64, "{refused:?}");
    for said in ["largest part is `egress_policy`", "egress policy set"] {
        assert!(refused.stderr.contains(said), "{refused:?}");
    }
    let id = world.run(&["sandbox", "create"]).await.ok();
    let set = ["egress", "policy", "set", id.trim(), "-"];
    world.feed(&set, &policy).await.ok();
    let carried = world.egress.sandbox(id.trim()).unwrap();
    assert_eq!(
        carried.policy["net"]["rules"].as_array().unwrap().len(),
        100
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_shown_until_the_sandbox_ends() {
    let world = World::new().await;
    let id = world.run(&["sandbox", "create"]).await.ok();
    let id = id.trim();
    // Nothing was asked for, so there is no network.
    let policy = world.egress.sandbox(id).unwrap().policy;
    assert_eq!(policy["allow_net"], serde_json::json!([]));
    let told = async {
        eventually("somebody listens", async || {
            (world.egress.listeners() > 0).then_some(())
        })
        .await;
        world.egress.record("default", id, 3);
        world.run(&["sandbox", "kill", id]).await.ok();
    };
    let tail = ["egress", "tail", id, "--json"];
    let (tail, ()) = tokio::join!(world.run(&tail), told);
    assert!(tail.stderr.contains("skipped"), "{tail:?}");
    assert_eq!(tail.json()["sandbox"], id);
}

/// A configuration that a person names is not left out in silence.
#[tokio::test(flavor = "multi_thread")]
async fn run_refuses_a_server_with_another_configuration() {
    let world = World::new().await;
    let config = world.state.path().join("other.toml");
    fs_err::write(
        &config,
        "pool_size = 7\n[egress]\nhosts = { \"a.com\" = \"127.0.0.1\" }\n",
    )
    .unwrap();
    let config = config.to_str().unwrap();
    let run = ["--config", config, "run", "true"];
    // What an older version wrote tells nothing to compare with.
    let settings = serde_json::json!({
        "listen": "127.0.0.1:1", "isolation": "auto", "pool_size": 4, "default_memory_mib": 1280,
        "memory_mib_min": 768, "memory_mib_max": 4096, "vcpu_count": 2, "disk_gib": 10,
        "sandbox_limit": 100, "memory_limit_mib": 1, "lifetime_max": {"secs": 86400, "nanos": 0},
        "session_grace": {"secs": 30, "nanos": 0}, "run_as": {"uid": 60790, "gid": 60790},
        "egress": {
            "run_as": {"uid": 60791, "gid": 60791}, "hosts": {}, "private_networks": [],
            "root_files": [], "client_certificates": {}, "audit_file_bytes_max": 33_554_432, "audit_files_kept": 7,
        },
        "ingress": {
            "listen": "127.0.0.1:2", "base": "tombolo.localhost", "certificate_file": null, "key_file": null,
            "acme": null, "acme_dns_listen": "0.0.0.0:53", "acme_root_file": null,
        },
        "ssh": {"listen": "127.0.0.1:3", "host": "localhost"},
    });
    let file = world.state.path().join("run/server.json");
    let mut running: Value = serde_json::from_slice(&fs_err::read(&file).unwrap()).unwrap();
    running["settings"] = settings;
    fs_err::write(&file, running.to_string()).unwrap();
    let refused = world.run(&run).await;
    assert_eq!(refused.code, 78, "{refused:?}");
    for words in [
        "egress.hosts",
        "pool_size",
        "hint: stop it, and all its sandboxes, by: kill 1",
    ] {
        assert!(refused.stderr.contains(words), "{refused:?}");
    }
    assert!(!refused.stderr.contains("vcpu_count"), "{refused:?}");
}
