//! Certificates from an authority: Pebble, whose DNS is the ingress's own answers.
#![expect(
    clippy::tests_outside_test_module,
    reason = "all of this file is a test"
)]

use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::timeout;
use tombolo_e2e::{Options, World, with_world_of};
use tombolo_proc::Command;

const LIMIT: Duration = Duration::from_mins(3);
const BASE: &str = "box.test";
/// Certificates live so long here, and are renewed after two thirds of it.
const VALIDITY_S: u32 = 45;
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// `CAP_NET_BIND_SERVICE`, number 10 in capabilities(7), alone.
const BIND_SERVICE: u64 = 1 << 10;

/// An address of this machine that no other test has.
fn own_address() -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 77, high, low)
}

/// An authority, and the files by which it is known.
struct Authority {
    _program: Child,
    files: TempDir,
    address: Ipv4Addr,
}

impl Authority {
    fn start() -> anyhow::Result<Self> {
        let (files, address) = (TempDir::new()?, own_address());
        // The server, another user, reads who the authority is.
        fs_err::set_permissions(files.path(), Permissions::from_mode(0o755))?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(address.into())];
        let certificate = params.self_signed(&key)?;
        fs_err::write(files.path().join("server.pem"), certificate.pem())?;
        fs_err::write(files.path().join("server.key"), key.serialize_pem())?;
        let config = json!({"pebble": {
            "listenAddress": format!("{address}:14000"),
            "managementListenAddress": format!("{address}:15000"),
            "certificate": files.path().join("server.pem"),
            "privateKey": files.path().join("server.key"),
            "httpPort": 5002,
            "tlsPort": 5001,
            "ocspResponderURL": "",
            "certificateValidityPeriod": VALIDITY_S,
        }});
        fs_err::write(files.path().join("pebble.json"), config.to_string())?;
        let program = Command::new("pebble")
            .args(["-config", "pebble.json", "-dnsserver"])
            .arg(format!("{address}:53"))
            .env("PEBBLE_VA_NOSLEEP", "1")
            .cwd(files.path())
            .kill_on_drop(true)
            .spawn(Stdio::null(), Stdio::null(), Stdio::null())?;
        Ok(Self {
            _program: program,
            files,
            address,
        })
    }

    fn flags(&self) -> Vec<String> {
        let address = self.address;
        vec![
            format!("--ingress-base={BASE}"),
            format!("--ingress-acme=https://{address}:14000/dir"),
            format!("--ingress-acme-dns-listen={address}:53"),
            format!("--ingress-acme-root-file={}", self.file("server.pem")),
        ]
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    /// By whom its certificates are signed.
    async fn root(&self) -> anyhow::Result<String> {
        let curl = Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--retry", "50"])
            .args(["--retry-connrefused", "--retry-delay", "1", "--cacert"])
            .arg(self.file("server.pem"))
            .arg(format!("https://{}:15000/roots/0", self.address))
            .deadline(PATIENCE);
        let path = self.file("root.pem");
        fs_err::write(&path, curl.run().await?.stdout)?;
        Ok(path)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_got_from_an_authority_and_renewed() {
    let authority = Authority::start().unwrap();
    // It answers before the server asks: after a failure that waits for minutes.
    let root = authority.root().await.unwrap();
    let options = Options {
        flags: authority.flags(),
        ..Options::default()
    };
    with_world_of(options, LIMIT, |world| visits(world, root)).await;
}

async fn visits(world: Arc<World>, root: String) -> anyhow::Result<()> {
    let rights = server_capabilities(&world)?;
    ensure!(rights == BIND_SERVICE, "the server may do {rights:#x}");
    let id = world.create().await?;
    let args = ["sandbox", "expose", &id, "8000", "--json"];
    let shown = world.tombolo(args).run().await?.stdout_text();
    let shown: Value = serde_json::from_str(&shown)?;
    let url = shown.get("url").and_then(Value::as_str).context("no url")?;
    ensure!(url.contains(&format!(".{BASE}:")), "{url}");
    let first = certificate(url, &root, "").await?;
    let renewed = certificate(url, &root, &first).await?;
    ensure!(renewed.contains("Issuer:CN = Pebble"), "{renewed}");
    Ok(())
}

/// What the server, which is not root and listens at port 53, may do beyond its user.
fn server_capabilities(world: &World) -> anyhow::Result<u64> {
    let running = fs_err::read(world.state().join("run/server.json"))?;
    let running: Value = serde_json::from_slice(&running)?;
    let pid = running.get("server_pid").context("no server")?;
    let status = fs_err::read_to_string(format!("/proc/{pid}/status"))?;
    let mut lines = status.lines();
    let permitted = lines.find_map(|line| line.strip_prefix("CapPrm:"));
    let permitted = permitted.context("no capabilities")?;
    Ok(u64::from_str_radix(permitted.trim(), 16)?)
}

/// The certificate of an address that is trusted by the root alone, once it is not `other`.
async fn certificate(url: &str, root: &str, other: &str) -> anyhow::Result<String> {
    timeout(PATIENCE, async {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let curl = Command::new("curl")
                .args(["--silent", "--cacert", root])
                .args(["--connect-to", "::127.0.0.1:", "--output", "/dev/null"])
                .args(["--write-out", "%{certs}", url])
                .deadline(PATIENCE);
            let output = curl.output().await?;
            let seen = output.stdout_text();
            if output.status.success() && seen != other {
                return Ok(seen);
            }
        }
    })
    .await?
}
