//! Other proxies that look into TLS, with the settings that are kindest to them:
//! they keep nothing, search nothing and replace nothing, and mitmproxy passes
//! bodies on unread.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{sleep, timeout};
use tombolo_proc::Command;

use crate::origin::{Origin, VALUE};
use crate::route::{Route, Way};

/// A user of their own; it needs no name.
const RIVAL: u32 = 60_796;
const START_TIMEOUT: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Makes the certificates that squid shows.
const SQUID_CERTIFICATES: &str = "/usr/lib/squid/security_file_certgen";

/// A proxy that runs, and what it needs.
#[derive(Debug)]
pub(crate) struct Rival {
    _process: Child,
    _place: TempDir,
}

/// Squid with `SslBump`, which writes its access log.
pub(crate) async fn squid(origin: &Origin) -> anyhow::Result<(Rival, Route)> {
    let place = place(origin)?;
    let at = |name: &str| place.path().join(name).display().to_string();
    let authority_pem = squid_authority(&place)?;
    let port = free_port()?;
    let configuration = format!(
        "http_port 127.0.0.1:{port} ssl-bump generate-host-certificates=on \
             dynamic_cert_mem_cache_size=4MB tls-cert={certificate}\n\
         sslcrtd_program {SQUID_CERTIFICATES} -s {database} -M 4MB\n\
         tls_outgoing_options cafile={roots}\n\
         ssl_bump bump all\nhttp_access allow all\ncache deny all\ncache_mem 8 MB\n\
         access_log stdio:{access_log}\ncache_log {cache_log}\npid_filename none\n\
         coredump_dir none\nshutdown_lifetime 0 seconds\nvisible_hostname localhost\n",
        certificate = at("squid.pem"),
        database = at("certificates"),
        roots = at("roots.pem"),
        access_log = at("access.log"),
        cache_log = at("cache.log"),
    );
    give(&place, "squid.conf", &configuration)?;
    Command::new(SQUID_CERTIFICATES)
        .args(["-c", "-s", &at("certificates"), "-M", "4MB"])
        .run_as(RIVAL, RIVAL)
        .run()
        .await
        .context("apt-get install squid-openssl")?;
    let process = Command::new("squid").args(["-N", "-f", &at("squid.conf")]);
    start("squid", process, place, origin, port, || Ok(authority_pem)).await
}

/// mitmproxy without a user interface.
pub(crate) async fn mitmproxy(origin: &Origin) -> anyhow::Result<(Rival, Route)> {
    let place = place(origin)?;
    let at = |name: &str| place.path().join(name).display().to_string();
    let port = free_port()?;
    let process = Command::new("mitmdump").env("HOME", at("")).args([
        "--quiet",
        "--listen-host",
        "127.0.0.1",
        "--listen-port",
        &port.to_string(),
        "--set",
        &format!("confdir={}", at("")),
        "--set",
        &format!("ssl_verify_upstream_trusted_ca={}", at("roots.pem")),
        "--set",
        "stream_large_bodies=1",
    ]);
    let authority = place.path().join("mitmproxy-ca-cert.pem");
    let trusted = || Ok(fs_err::read_to_string(authority)?);
    start("mitmproxy", process, place, origin, port, trusted).await
}

/// A directory that the rivals' user may use.
fn place(origin: &Origin) -> anyhow::Result<TempDir> {
    let place = TempDir::new()?;
    fs_err::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))?;
    fs_err::os::unix::fs::chown(place.path(), Some(RIVAL), Some(RIVAL))?;
    give(&place, "roots.pem", &origin.authority_pem)?;
    Ok(place)
}

fn give(place: &TempDir, name: &str, text: &str) -> anyhow::Result<()> {
    let path = place.path().join(name);
    fs_err::write(&path, text)?;
    fs_err::os::unix::fs::chown(&path, Some(RIVAL), Some(RIVAL))?;
    Ok(())
}

/// Key and certificate in one file; answers the certificate.
fn squid_authority(place: &TempDir) -> anyhow::Result<String> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
        .distinguished_name
        .push(DnType::CommonName, "authority of squid");
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    let both = format!("{certificate}{}", key.serialize_pem());
    give(place, "squid.pem", &both)?;
    Ok(certificate)
}

/// A port that was free a moment ago.
fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Starts a proxy on the caller's processor and waits until it answers.
async fn start(
    name: &'static str,
    command: Command,
    place: TempDir,
    origin: &Origin,
    port: u16,
    trusted_pem: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<(Rival, Route)> {
    let log = place.path().join("output.log");
    let output = fs_err::File::create(&log)?.into_parts().0;
    let mut process = command
        .run_as(RIVAL, RIVAL)
        .spawn(Stdio::null(), output.try_clone()?.into(), output.into())
        .with_context(|| format!("{name} is not installed; --without-rivals goes without"))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let answers = async {
        loop {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(());
            }
            if let Some(status) = process.try_wait()? {
                anyhow::bail!("{name} ended with {status}: {}", said(&log));
            }
            sleep(LOOK_AGAIN).await;
        }
    };
    timeout(START_TIMEOUT, answers)
        .await
        .with_context(|| format!("{name} does not answer"))??;
    let route = Route {
        name,
        way: Way::Connect(address),
        authority: format!("localhost:{}", origin.address.port()),
        credential: VALUE.to_owned(),
        trusted_pem: trusted_pem()?,
        process: process.id(),
        has_http2: name == "mitmproxy",
        answered: Arc::default(),
    };
    let rival = Rival {
        _process: process,
        _place: place,
    };
    Ok((rival, route))
}

fn said(log: &Path) -> String {
    fs_err::read_to_string(log).unwrap_or_default()
}
