//! Which certificates programs in the guest trust besides those of the image:
//! the authority of the proxy that stands between the guest and the world.
//!
//! Most programs read Debian's bundle, so the certificates are appended to it.
//! Those that bring a store of their own are pointed to the bundle by variables;
//! each is one that adds to or replaces a store, and the bundle has both.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

pub(crate) use self::java::JavaStore;
use crate::agent::Agent;
use crate::fault::{CallError, Cause, at};

mod java;

const OPERATION: &str = "personalize";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where Debian's Java looks.
const JAVA_STORE: &str = "/etc/ssl/certs/java/cacerts";
/// `update-ca-certificates` builds the bundle anew from here, and others read
/// the directory of the bundle.
const COPIES: [&str; 2] = [
    "/usr/local/share/ca-certificates/tombolo.crt",
    "/etc/ssl/certs/tombolo.pem",
];
/// Begins our part of the bundle.
const MARK: &str = "# Added by Tombolo for this sandbox\n";
const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
/// Stands for a sandbox's own authority: as long as one, and no certificate.
const REHEARSED: &str = include_str!("trust/rehearsed.pem");
const PEM_LEN_MAX: usize = 64 * 1024;
/// As far from the end as our part may begin.
const OUR_LEN_MAX: u64 = 66 * 1024;
/// Variables that name a file of certificates.
const FILE_VARIABLES: [&str; 13] = [
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "DENO_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "PGSSLROOTCERT",
    "NIX_SSL_CERT_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HEX_CACERTS_PATH",
];
/// Variables that say to read the system's store. Each Java says on its
/// standard error that it found one; one that is not Debian's knows no other way.
const STORE_VARIABLES: [(&str, &str); 3] = [
    ("DENO_TLS_CA_STORE", "system,mozilla"),
    ("UV_NATIVE_TLS", "1"),
    (
        "JAVA_TOOL_OPTIONS",
        "-Djavax.net.ssl.trustStore=/etc/ssl/certs/java/cacerts",
    ),
];

/// Writes what Java reads, before there is anything to add to it. A guest
/// without it works but for Java.
pub(crate) fn prepare_java() -> Option<JavaStore> {
    match JavaStore::write(Path::new(BUNDLE), Path::new(JAVA_STORE)) {
        Ok(store) => Some(store),
        Err(error) => {
            crate::log::log!("cannot write Java's certificates: {error}");
            None
        }
    }
}

/// Makes the guest trust these certificates, and no longer those of an earlier
/// call; none at all is nobody besides those of the image.
pub(crate) fn trust(agent: &Agent, pem: &[u8]) -> Result<(), CallError> {
    if pem.is_empty() {
        return trust_nobody_else(agent);
    }
    let pem = check(pem)?;
    if agent.owns_system {
        end_bundle_with(&[MARK, pem].concat()).map_err(at(OPERATION, BUNDLE))?;
        for copy in COPIES {
            fs_err::write(copy, pem).map_err(at(OPERATION, copy))?;
        }
        if let Some(store) = &agent.java_store {
            let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
                .map_err(|_unreadable| invalid("not certificates"))?;
            store
                .add(Path::new(JAVA_STORE), &certificate)
                .map_err(at(OPERATION, JAVA_STORE))?;
        }
    }
    for (name, value) in variables() {
        // A variable that its owner has set already stays.
        if agent.environment.get(name).is_none() {
            agent.environment.set(name.to_owned(), value.to_owned())?;
        }
    }
    Ok(())
}

fn trust_nobody_else(agent: &Agent) -> Result<(), CallError> {
    if agent.owns_system {
        end_bundle_with("").map_err(at(OPERATION, BUNDLE))?;
        for copy in COPIES {
            match fs_err::remove_file(copy) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(at(OPERATION, copy)(error));
                }
                _ => {}
            }
        }
        if let Some(store) = &agent.java_store {
            store
                .remove(Path::new(JAVA_STORE))
                .map_err(at(OPERATION, JAVA_STORE))?;
        }
    }
    for (name, value) in variables() {
        if agent.environment.get(name).as_deref() == Some(value) {
            agent.environment.remove(name);
        }
    }
    Ok(())
}

/// Does once what the sandbox's owner will wait for: the files are then in
/// memory, and an emulator has translated the code.
pub(crate) fn rehearse(agent: &Agent) -> Result<(), CallError> {
    trust(agent, REHEARSED.as_bytes())?;
    trust_nobody_else(agent)
}

fn variables() -> impl Iterator<Item = (&'static str, &'static str)> {
    let files = FILE_VARIABLES.map(|name| (name, BUNDLE));
    files.into_iter().chain(STORE_VARIABLES)
}

fn invalid(why: &'static str) -> CallError {
    CallError::new(OPERATION, "", Cause::InvalidArgument(why))
}

fn check(pem: &[u8]) -> Result<&str, CallError> {
    if pem.len() > PEM_LEN_MAX {
        return Err(invalid("too many certificates"));
    }
    let text = std::str::from_utf8(pem).ok();
    text.filter(|text| text.starts_with(PEM_BEGIN))
        .ok_or_else(|| invalid("not certificates"))
}

/// Puts our part at the end of the bundle, in the place of an earlier one; it
/// begins with the mark, or is empty. Reads and writes only the end: the bundle
/// is large, and a restored guest would have to fetch and copy every page of it.
fn end_bundle_with(part: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut bundle = options.mode(0o644).open(BUNDLE)?;
    let len = bundle.metadata()?.len();
    let tail_start = len.saturating_sub(OUR_LEN_MAX);
    bundle.seek(SeekFrom::Start(tail_start))?;
    let mut tail = Vec::new();
    (&mut bundle).take(OUR_LEN_MAX).read_to_end(&mut tail)?;
    let mark = MARK.as_bytes();
    let ours = tail.windows(mark.len()).position(|part| part == mark);
    let ours = ours.and_then(|ours| u64::try_from(ours).ok());
    let end = ours.map_or(len, |ours| tail_start + ours);
    bundle.seek(SeekFrom::Start(end))?;
    bundle.write_all(part.as_bytes())?;
    let end = bundle.stream_position()?;
    bundle.set_len(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_taken() {
        let long = format!("{PEM_BEGIN}{}", "a".repeat(PEM_LEN_MAX));
        for (pem, good) in [
            (
                format!("{PEM_BEGIN}\nAAAA\n-----END CERTIFICATE-----\n"),
                true,
            ),
            ("export PATH=/evil".to_owned(), false),
            (long, false),
        ] {
            assert_eq!(check(pem.as_bytes()).is_ok(), good);
        }
        assert!(check(b"\xff").is_err());
        assert!(check(REHEARSED.as_bytes()).is_ok());
        assert!(CertificateDer::from_pem_slice(REHEARSED.as_bytes()).is_ok());
    }
}
