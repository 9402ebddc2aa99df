//! The real program `tombolo egress-proxy`, started as `tombolo up` starts it,
//! and told what a node tells it.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::time::timeout;
use tombolo_ids::SandboxId;
use tombolo_node_proto::egress::egress_client::EgressClient;
use tombolo_node_proto::egress::{
    AttachRequest, HostStats, PublicKeyRequest, SandboxRef, Secret, StatsRequest,
};
use tombolo_node_proto::handover::{self, SlotSockets};
use tombolo_proc::Command;
use tombolo_secret::{Placeholder, SealingKey, SecretContext, SecretName, SecretValue};
use tonic::transport::{Channel, Endpoint};

use crate::origin::{self, Origin};

/// The users of the proxy and of the server; neither needs a name.
const EGRESS: u32 = 60_793;
const SERVER: u32 = 60_794;
const START_TIMEOUT: Duration = Duration::from_secs(30);
const ORGANISATION: &str = "bench";
const SECRET: &str = "API_KEY";
/// No file of records is put aside while it is measured.
const AUDIT_FILE_BYTES_MAX: u64 = 8 << 30;

/// A proxy that runs.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) pid: u32,
    control: EgressClient<Channel>,
    handover: OwnedFd,
    sealing_key: SealingKey,
    _process: Child,
    /// The proxy ends with it.
    _stdin: ChildStdin,
    _place: TempDir,
}

/// A sandbox as its guest knows it.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) id: SandboxId,
    pub(crate) authority_pem: String,
    pub(crate) placeholder: String,
}

impl Proxy {
    /// Starts a proxy with a state of its own, on the caller's processor.
    pub(crate) async fn start(program: &Path, origin: &Origin) -> anyhow::Result<Self> {
        let place = TempDir::new()?;
        let at = |name: &str| place.path().join(name);
        let mode = std::fs::Permissions::from_mode;
        fs_err::set_permissions(place.path(), mode(0o755))?;
        fs_err::create_dir(at("state"))?;
        fs_err::set_permissions(at("state"), mode(0o700))?;
        fs_err::os::unix::fs::chown(at("state"), Some(EGRESS), Some(EGRESS))?;
        fs_err::write(at("roots.pem"), &origin.authority_pem)?;
        let mut hosts = BTreeMap::new();
        hosts.insert(format!("{}:443", origin::NAME), origin.address.to_string());
        let launch = json!({
            "state_dir": at("state"),
            "control": at("control.sock"),
            "control_uid": SERVER,
            "descriptors": at("slots.sock"),
            "settings": {
                "run_as": { "uid": EGRESS, "gid": EGRESS },
                "hosts": hosts,
                "private_networks": [],
                "root_files": [at("roots.pem")],
                "client_certificates": {},
                "audit_file_bytes_max": AUDIT_FILE_BYTES_MAX,
                "audit_files_kept": 1,
            },
        });
        let (process, stdin) = spawn(program, &launch.to_string()).await?;
        let endpoint = Endpoint::from_shared(format!("unix:{}", at("control.sock").display()))?;
        let mut control = EgressClient::new(endpoint.connect().await?);
        let key = control.public_key(PublicKeyRequest {}).await?.into_inner();
        Ok(Self {
            pid: process.id().context("the proxy has ended")?,
            control,
            handover: connect_to(&at("slots.sock"))?,
            sealing_key: SealingKey::from_bytes(&key.key)?,
            _process: process,
            _stdin: stdin,
            _place: place,
        })
    }

    /// Attaches a sandbox with an allow list, rules and one secret.
    pub(crate) async fn attach(
        &mut self,
        sockets: &SlotSockets<BorrowedFd<'_>>,
    ) -> anyhow::Result<Attached> {
        let id = SandboxId::random("loc".parse()?)?;
        let (request, placeholder) = self.request(&id)?;
        let authority_pem = self.introduce(&id, sockets, request).await?;
        Ok(Attached {
            id,
            authority_pem,
            placeholder,
        })
    }

    /// What a control plane says about a sandbox.
    pub(crate) fn request(&self, id: &SandboxId) -> anyhow::Result<(AttachRequest, String)> {
        let placeholder = Placeholder::generate()?.to_string();
        let name = SecretName::parse(SECRET)?;
        let context = SecretContext {
            organisation: ORGANISATION,
            sandbox: id.as_str(),
            name: &name,
        };
        let value = SecretValue::new(origin::VALUE.to_owned())?;
        let sealed = self.sealing_key.seal(&value, &context)?;
        let request = AttachRequest {
            sandbox_id: id.to_string(),
            organisation: ORGANISATION.to_owned(),
            labels: HashMap::default(),
            policy_json: policy().to_string(),
            secrets: vec![Secret {
                name: SECRET.to_owned(),
                placeholder: placeholder.clone(),
                sealed: sealed.into(),
            }],
        };
        Ok((request, placeholder))
    }

    /// Hands the sockets over and attaches, as a node does. Answers the
    /// sandbox's authority.
    pub(crate) async fn introduce(
        &mut self,
        id: &SandboxId,
        sockets: &SlotSockets<BorrowedFd<'_>>,
        request: AttachRequest,
    ) -> anyhow::Result<String> {
        handover::send(&self.handover, id, sockets)?;
        let reply = self.control.attach(request).await?.into_inner();
        Ok(reply.ca_certificate_pem)
    }

    pub(crate) async fn detach(&mut self, id: &SandboxId) -> anyhow::Result<()> {
        let sandbox_id = id.to_string();
        self.control.detach(SandboxRef { sandbox_id }).await?;
        Ok(())
    }

    /// What was counted for the origin.
    pub(crate) async fn stats(&mut self, id: &SandboxId) -> anyhow::Result<HostStats> {
        let sandbox_id = id.to_string();
        let reply = self.control.stats(StatsRequest { sandbox_id }).await?;
        let hosts = reply.into_inner().hosts;
        let found = hosts.into_iter().find(|host| host.host == origin::NAME);
        found.context("the proxy has counted nothing for the origin")
    }
}

/// Starts the program and waits until it is ready.
async fn spawn(program: &Path, launch: &str) -> anyhow::Result<(Child, ChildStdin)> {
    let mut process = Command::new(program).arg("egress-proxy").spawn(
        Stdio::piped(),
        Stdio::piped(),
        Stdio::inherit(),
    )?;
    let mut stdin = process.stdin.take().context("no standard input")?;
    stdin.write_all(format!("{launch}\n").as_bytes()).await?;
    let mut said = String::new();
    let mut stdout = BufReader::new(process.stdout.take().context("no standard output")?);
    timeout(START_TIMEOUT, stdout.read_line(&mut said))
        .await
        .context("the proxy does not start")??;
    anyhow::ensure!(said == "egress\n", "the proxy did not start: {said:?}");
    Ok((process, stdin))
}

fn connect_to(path: &Path) -> anyhow::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// As somebody would write it who lets an agent use one interface.
fn policy() -> serde_json::Value {
    let host = origin::NAME;
    json!({
        "version": 1,
        "generation": 1,
        "allow_net": [host, "*.packages.test", "git.test:443", "db.test:5432"],
        "secrets": { SECRET: { "hosts": [host] } },
        "net": { "rules": [
            { "id": "reads", "host": host, "method": ["GET", "HEAD"], "path": "/v1/**" },
            { "id": "writes", "host": host, "method": "POST", "path": "/v1/items/*",
              "content_type": "application/json", "max_body_bytes": 65536 },
            { "id": "no-keys", "host": host, "action": "deny", "path": "/v1/keys/**" },
        ]},
    })
}
