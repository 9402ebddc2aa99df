//! A server in a network of its own, sandboxes under attack in it, and what must
//! hold after every attack, whatever it was.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tombolo_e2e::{Options, World, host};

use crate::canary::Canary;
use crate::client::Client;
use crate::neighbour::Neighbour;
use crate::network::Network;

/// Where the programs of the attacks are in a sandbox.
pub(crate) const GUEST_PLACE: &str = "/tmp/attacks";
const GUEST_PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guest");
/// How much the proxy may grow by one attack.
const GROWTH_KIB_MAX: u64 = 64 << 10;
/// How long it may take until descriptors are given back, and records written.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// Nothing is opened or closed for this long.
const AT_REST_AFTER: Duration = Duration::from_millis(500);
/// No record is written for this long.
const RECORDS_AT_REST_AFTER: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Connections that the proxy may keep for later requests, those that attacks in
/// other sandboxes have open at the same time, and its own.
const DESCRIPTORS_KEPT_MAX: usize = 128;
/// Hosts that answer and may not be asked: by the policy, or for their certificates.
const UNWANTED: [&str; 4] = ["bad.test", "untrusted.test", "expired.test", "wrong.test"];
/// The part of the server that carries what sandboxes send.
const PROXY: &str = "egress-proxy";

/// A world with a network, and a secret to be after.
#[derive(Debug)]
pub struct Rig {
    /// The server.
    pub world: Arc<World>,
    /// Everything outside.
    pub network: Network,
    /// The value that no guest may ever see.
    pub canary: Canary,
    client: Client,
    neighbour: Option<Neighbour>,
}

/// What an attack did, as it says itself.
#[derive(Debug, Deserialize)]
pub struct Report {
    /// What was not as it should be.
    pub failures: Vec<String>,
    /// Attempts of which there must be a record each.
    pub attempts: usize,
    /// All bytes that it received, in base64.
    received: String,
    /// What only this attack says.
    #[serde(default)]
    pub facts: Value,
}

/// What was before an attack.
#[derive(Debug)]
pub struct Before {
    sandbox: String,
    proxy: i32,
    records: usize,
    of_neighbour: usize,
    memory_kib: u64,
    descriptors: usize,
    said: [usize; 5],
}

/// What the server of a rig has to know before it starts.
pub fn options(network: &Network) -> anyhow::Result<Options> {
    let authority = network.authority();
    let hosts = "origin.test=20.0.1.2,good.test=20.0.2.2,untrusted.test=20.0.1.2,\
                 expired.test=20.0.1.2,wrong.test=20.0.1.2";
    let flags = ["--egress-host", hosts, "--egress-root-file"];
    let mut flags = flags.map(str::to_owned).to_vec();
    flags.push(authority.to_string_lossy().into_owned());
    Ok(Options {
        flags,
        beside: Some(network.server_pid()?),
        log: Some(network.log()),
        env: vec![("TOMBOLO_LOG".to_owned(), "debug".to_owned())],
        ..Options::default()
    })
}

/// Names that the server's host may ask its name server for.
fn zone() -> Value {
    json!({
        "named.test": { "A": ["20.0.1.2"] },
        "rebind.test": { "A": ["20.0.1.2"] },
        "mixed.test": { "A": ["10.77.0.1", "20.0.1.2", "127.0.0.1"] },
        "alias.test": { "CNAME": "inside.test" },
        "inside.test": { "A": ["10.77.0.1"], "AAAA": ["fd00:ec2::254"] },
        "meta.test": { "A": ["169.254.169.254"] },
        "lan.test": { "A": ["10.77.0.1"] },
    })
}

impl Rig {
    /// Puts a server and its network together.
    pub async fn new(world: Arc<World>, network: Network) -> anyhow::Result<Self> {
        let address = world.url().strip_prefix("http://").context("an address")?;
        let client = Client {
            address: address.parse()?,
            token: world.token().to_owned(),
        };
        network.names.tell(&zone()).await?;
        Ok(Self {
            world,
            network,
            canary: Canary::new()?,
            client,
            neighbour: None,
        })
    }

    /// The same with somebody beside those under attack.
    pub async fn with_neighbour(mut self) -> anyhow::Result<Self> {
        self.neighbour = Some(Neighbour::start(&self).await?);
        Ok(self)
    }

    /// What is usual for a sandbox under attack.
    pub fn usual(&self) -> Value {
        json!({
            "timeout": "600s",
            "allow_net": [
                "good.test", "named.test", "*.wild.test", "rebind.test", "mixed.test",
                "meta.test", "alias.test", "origin.test:443", "origin.test:5432",
                "untrusted.test", "expired.test", "wrong.test",
            ],
            "secrets": { "KEY": { "hosts": [
                "origin.test", "untrusted.test", "expired.test", "wrong.test",
            ], "value": self.canary.value() } },
        })
    }

    /// Does something with the API.
    pub async fn api<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Client) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let client = self.client.clone();
        self.network.inside(move || act(&client)).await
    }

    /// The same with every right there is.
    pub async fn admin<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Client) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let token = fs_err::read_to_string(self.world.state().join("run/admin-token"))?;
        let client = Client {
            token: token.trim().to_owned(),
            ..self.client.clone()
        };
        self.network.inside(move || act(&client)).await
    }

    /// Creates a sandbox that has the programs of the attacks.
    pub async fn create(&self, config: Value) -> anyhow::Result<String> {
        let id = self.api(move |client| client.create(&config)).await?;
        let place = format!("{id}:{GUEST_PLACE}");
        let copy = ["sandbox", "copy", GUEST_PROGRAMS, &place];
        self.world.tombolo(copy).run().await?;
        Ok(id)
    }

    /// Runs one attack in a sandbox as root, with words for it.
    pub async fn run(&self, sandbox: &str, attack: &str, words: &[&str]) -> anyhow::Result<Report> {
        let words = words.join(" ");
        let script = format!(
            "sudo env KEY=\"$KEY\" OWN=\"$OWN\" SSL_CERT_FILE=\"$SSL_CERT_FILE\" \
             python3 {GUEST_PLACE}/attack.py {attack} {words}"
        );
        let output = self.world.shell_text(sandbox, &script).await?;
        let line = output.lines().last().unwrap_or_default();
        serde_json::from_str(line).with_context(|| output.clone())
    }

    /// Notes what there is before an attack.
    pub fn before(&self, sandbox: &str) -> anyhow::Result<Before> {
        let proxy = self.proxy()?;
        Ok(Before {
            sandbox: sandbox.to_owned(),
            proxy,
            records: self.records(sandbox)?.len(),
            of_neighbour: match &self.neighbour {
                Some(neighbour) => neighbour.count(self)?,
                None => 0,
            },
            memory_kib: memory_kib(proxy)?,
            descriptors: descriptors(proxy)?,
            said: self.outside().map(super::network::Host::count),
        })
    }

    /// Runs an attack and answers everything that is not as it must be.
    pub async fn attack(&self, sandbox: &str, attack: &str) -> anyhow::Result<Vec<String>> {
        let before = self.before(sandbox)?;
        let report = self.run(sandbox, attack, &[]).await?;
        self.after(&before, report).await
    }

    /// What must hold after every attack: G1 to G5, as the page of attacks lists them.
    pub async fn after(&self, before: &Before, report: Report) -> anyhow::Result<Vec<String>> {
        let attempts = report.attempts;
        let mut wrong = self.reached_after(before, report).await?;
        wrong.extend(self.proxy_after(before).await?);
        if let Some(neighbour) = &self.neighbour {
            wrong.extend(neighbour.after(self, before.of_neighbour).await?);
        }
        wrong.extend(self.records_after(before, attempts).await?);
        Ok(wrong)
    }

    /// The part of it that holds without a proxy too: G1 to G3.
    pub async fn reached_after(
        &self,
        before: &Before,
        report: Report,
    ) -> anyhow::Result<Vec<String>> {
        let mut wrong = report.failures;
        let received = STANDARD.decode(&report.received)?;
        if let Some(form) = self.canary.find(&received) {
            wrong.push(format!("G1: the guest received the value ({form})"));
        }
        self.network.settle().await?;
        wrong.extend(self.seen_outside(before));
        Ok(wrong)
    }

    /// What the name server tells usually, but for one name.
    pub fn zone_with(&self, name: &str, address: &str) -> Value {
        let mut zone = zone();
        zone[name] = json!({ "A": [address] });
        zone
    }

    /// How many records there are of a flood of questions, of which some are lost
    /// before anybody hears them. It ends with a connection to the LAN.
    pub async fn records_of_flood(&self, before: &Before) -> anyhow::Result<usize> {
        let give_up = Instant::now() + SETTLE_MAX;
        loop {
            let new = self.records(&before.sandbox)?.split_off(before.records);
            let is_last = |record: &Value| record["orig_dst"] == "10.77.0.1:80";
            if new.iter().any(is_last) || Instant::now() > give_up {
                let is_flood = |record: &&Value| {
                    let name = record["name"].as_str().unwrap_or_default();
                    name.starts_with('q') || record["reason"] == "dns_rate"
                };
                return Ok(new.iter().filter(is_flood).count());
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The report of an attack that is not a program of its own.
    pub fn nothing(&self) -> Report {
        Report {
            failures: Vec::new(),
            attempts: 0,
            received: String::new(),
            facts: Value::Null,
        }
    }

    fn outside(&self) -> [&crate::network::Host; 5] {
        let network = &self.network;
        [
            &network.evil,
            &network.trap,
            &network.names,
            &network.cdn,
            &network.origin,
        ]
    }

    /// G2 and G3: who saw what.
    fn seen_outside(&self, before: &Before) -> Vec<String> {
        let mut wrong = Vec::new();
        let zone = zone();
        for (host, count) in self.outside().into_iter().zip(before.said) {
            let name = host.name();
            for line in host.since(count) {
                let is_known = line["query"]
                    .as_str()
                    .is_some_and(|query| zone.get(query).is_some());
                let unwanted = match name {
                    "evil" => line.get("fence").is_none(),
                    "trap" => true,
                    "names" => line.get("query").is_some() && !is_known,
                    _ => false,
                };
                let asked =
                    [&line["host"], &line["sni"]].map(|name| name.as_str().unwrap_or_default());
                if asked
                    .iter()
                    .any(|asked| UNWANTED.iter().any(|name| asked.starts_with(name)))
                {
                    wrong.push(format!("{name} got a request that nobody may make: {line}"));
                }
                if unwanted {
                    wrong.push(format!("G3: {name} saw {line}"));
                }
                if name != "origin" && self.is_in(&line) {
                    wrong.push(format!("G2: {name} saw the value"));
                }
            }
        }
        wrong
    }

    /// Whether the host that the secret is for has seen it, since it had said so
    /// much, in a request that begins so.
    pub fn origin_saw(&self, since: usize, request: &str) -> bool {
        let lines = self.network.origin.since(since);
        let is_it = |line: &&Value| {
            line["request"]
                .as_str()
                .is_some_and(|asked| asked.starts_with(request))
        };
        lines.iter().filter(is_it).any(|line| self.is_in(line))
    }

    /// Whether what a host said has the value in it.
    pub fn is_in(&self, line: &Value) -> bool {
        let raw = ["raw", "bytes", "partial"].map(|key| line[key].as_str().unwrap_or_default());
        let raw = raw.map(|text| STANDARD.decode(text).unwrap_or_default());
        raw.iter().any(|bytes| self.canary.find(bytes).is_some())
            || self.canary.find(line.to_string().as_bytes()).is_some()
    }

    /// G4: the proxy lives, and gave back what it took.
    async fn proxy_after(&self, before: &Before) -> anyhow::Result<Vec<String>> {
        let mut wrong = Vec::new();
        let proxy = self.proxy()?;
        if proxy != before.proxy {
            return Ok(vec!["G4: the proxy died".to_owned()]);
        }
        let grown = memory_kib(proxy)?.saturating_sub(before.memory_kib);
        if grown > GROWTH_KIB_MAX {
            wrong.push(format!("G4: the proxy grew by {grown} KiB"));
        }
        let allowed = before.descriptors + DESCRIPTORS_KEPT_MAX;
        let give_up = Instant::now() + SETTLE_MAX;
        while descriptors(proxy)? > allowed {
            if Instant::now() > give_up {
                let now = descriptors(proxy)?;
                wrong.push(format!(
                    "G4: {} descriptors became {now}",
                    before.descriptors
                ));
                break;
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(wrong)
    }

    /// G5: one record for each attempt, and the value in none.
    async fn records_after(&self, before: &Before, attempts: usize) -> anyhow::Result<Vec<String>> {
        let give_up = Instant::now() + SETTLE_MAX;
        let (mut new, mut since) = (Vec::new(), Instant::now());
        // Also one that is too many has its time to come.
        while new.len() < attempts || since.elapsed() < RECORDS_AT_REST_AFTER {
            if Instant::now() > give_up {
                break;
            }
            sleep(LOOK_AGAIN).await;
            let now = self.records(&before.sandbox)?.split_off(before.records);
            if now.len() != new.len() {
                (new, since) = (now, Instant::now());
            }
        }
        let mut wrong = Vec::new();
        if new.len() != attempts {
            let shown: Vec<String> = new.iter().map(in_short).collect();
            wrong.push(format!(
                "G5: {} records of {attempts} attempts: {shown:#?}",
                new.len()
            ));
        }
        let ids: BTreeSet<&str> = new
            .iter()
            .filter_map(|record| record["id"].as_str())
            .collect();
        if ids.len() != new.len() {
            wrong.push("G5: a record is there twice".to_owned());
        }
        for record in &new {
            if self.is_in(record) {
                wrong.push(format!("G5: the value is in {record}"));
            }
            if !record["decision"].is_string() || !record["reason"].is_string() {
                wrong.push(format!("G5: no decision in {record}"));
            }
        }
        Ok(wrong)
    }

    /// Waits until the proxy has no more open than it had when there was no sandbox
    /// but those of the pool.
    pub async fn comes_to_rest(&self, descriptors_before: usize) -> anyhow::Result<()> {
        self.world.kill_all().await?;
        let give_up = Instant::now() + SETTLE_MAX;
        loop {
            let now = self.open()?;
            if now <= descriptors_before {
                return Ok(());
            }
            ensure!(
                Instant::now() < give_up,
                "{descriptors_before} descriptors of the proxy became {now}"
            );
            sleep(LOOK_AGAIN).await;
        }
    }

    /// How many descriptors the proxy has open when there is no sandbox, after one
    /// has made it open what it keeps.
    pub async fn at_rest(&self) -> anyhow::Result<usize> {
        let sandbox = self.create(self.usual()).await?;
        self.run(&sandbox, "NET-16", &["works"]).await?;
        self.world.kill(&sandbox).await?;
        let (mut before, mut since) = (self.open()?, Instant::now());
        while since.elapsed() < AT_REST_AFTER {
            sleep(LOOK_AGAIN).await;
            let now = self.open()?;
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        Ok(before)
    }

    fn open(&self) -> anyhow::Result<usize> {
        descriptors(self.proxy()?)
    }

    /// All records of a sandbox, in order.
    pub fn records(&self, sandbox: &str) -> anyhow::Result<Vec<Value>> {
        let path = self.world.state().join("egress/audit.jsonl");
        let text = fs_err::read_to_string(path)?;
        let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        // There are many of others.
        let lines = complete
            .lines()
            .filter(|line| line.contains(sandbox))
            .map(|line| serde_json::from_str(line).context("a record"));
        let mut records: Vec<Value> = lines.collect::<anyhow::Result<_>>()?;
        records.retain(|record| record["sandbox"] == sandbox);
        Ok(records)
    }

    /// The process of the proxy.
    pub fn proxy(&self) -> anyhow::Result<i32> {
        Ok(host::part(&self.world, PROXY)?.as_raw_nonzero().get())
    }
}

fn in_short(record: &Value) -> String {
    let keys = [
        "proto", "orig_dst", "name", "method", "decision", "reason", "err",
    ];
    let words = keys.iter().filter_map(|key| record[*key].as_str());
    words.collect::<Vec<_>>().join(" ")
}

fn memory_kib(pid: i32) -> anyhow::Result<u64> {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("its resident memory")?.parse()?)
}

fn descriptors(pid: i32) -> anyhow::Result<usize> {
    Ok(fs_err::read_dir(Path::new(&format!("/proc/{pid}/fd")))?.count())
}
