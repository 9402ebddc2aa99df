//! A certificate that the world trusts (ACME, RFC 8555), for the base and every name
//! below it, got and renewed by the ingress itself.
//!
//! One wildcard for all: names of exposures are credentials, and a certificate for each
//! would publish it in the logs of certificate transparency. Authorities give wildcards for
//! challenges by DNS alone, so the ingress answers for that one name of the DNS: whoever
//! owns the domain delegates `_acme-challenge.<base>` to this machine once, and no key of a
//! DNS provider is kept here.

mod answer;
mod client;
mod dns;
mod retry;

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::{sleep, timeout};
use tombolo_diag::Report;

use crate::host::Base;
use crate::validity::{Validity, now};
use answer::Zone;
use retry::{Failed, Waits};

/// How long the authority may take to look at a challenge, and to issue.
const PATIENCE: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_secs(1))
    .backoff(1.5)
    .timeout(Duration::from_mins(3));
/// The longest that one attempt takes.
const ATTEMPT_TIMEOUT: Duration = Duration::from_mins(10);
/// How often a certificate's age is looked at: clocks are set, machines sleep.
const LOOK_EVERY: Duration = Duration::from_hours(1);

/// How certificates are got.
#[derive(Clone, Debug)]
pub struct AcmeConfig {
    /// Where the authority's directory is (RFC 8555, 7.1.1).
    pub directory_url: String,
    /// By whom the authority's own server is known, as PEM, if not by whom this machine
    /// trusts.
    pub root_file: Option<PathBuf>,
    /// Where questions for the challenge are answered, by UDP and TCP. Port 0 takes a free
    /// one.
    pub dns_listen: SocketAddr,
    /// Where the account and the certificate are kept, in a directory of its own for each
    /// authority and base.
    pub directory: PathBuf,
}

/// Certificates cannot be got at all: the ingress does not start.
#[derive(Debug, thiserror::Error)]
pub enum AcmeOpenError {
    #[error("could not listen for questions of the DNS on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{base} cannot be a name of the DNS")]
    Base { base: Base },
    #[error("who the authority's server is cannot be told")]
    Trust(#[from] client::TrustError),
    #[error("certificates of the authority cannot be kept")]
    Keep(#[source] io::Error),
}

/// An attempt to get a certificate failed.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("the authority refused, or was not reached")]
    Authority(#[from] instant_acme::Error),
    #[error("the authority offers no challenge by DNS for {name}")]
    NoChallenge { name: String },
    #[error("the authority found {name} not to be ours: {detail}")]
    NotValid { name: String, detail: String },
    #[error("the authority left the order as it was: {status:?}")]
    Unfinished { status: OrderStatus },
    #[error("the authority took longer than {} minutes", ATTEMPT_TIMEOUT.as_secs() / 60)]
    TimedOut,
    #[error("a file of the account or certificate cannot be read or written")]
    Keep(#[source] io::Error),
    #[error("the account that is kept is not understood")]
    Account(#[source] serde_json::Error),
    #[error("the new certificate is to be renewed already")]
    DueAlready,
}

impl AttemptError {
    fn failed(&self) -> Failed {
        match self {
            Self::Authority(error) if client::is_unreached(error) => Failed::Unreached,
            _ => Failed::Heard,
        }
    }

    fn next_step(&self, acme: &Acme) -> String {
        let directory = acme.directory.display();
        match self {
            Self::NotValid { .. } => format!(
                "delegate _acme-challenge.{} to this machine, which answers at {}",
                acme.base, acme.config.dns_listen
            ),
            Self::Keep(_) => format!("make room, and let the server write to {directory}"),
            Self::Account(_) => format!("remove account.json in {directory}; another is made"),
            Self::DueAlready => "check this machine's clock".to_owned(),
            Self::Authority(_) => format!(
                "check that this machine reaches {}; if the authority knows the account no more, \
                 remove account.json in {directory}",
                acme.config.directory_url
            ),
            Self::NoChallenge { .. } => "choose another authority".to_owned(),
            Self::Unfinished { .. } | Self::TimedOut => "nothing: it is tried again".to_owned(),
        }
    }
}

/// Gets certificates for one base from one authority.
#[derive(Debug)]
pub struct Acme {
    base: Base,
    config: AcmeConfig,
    directory: PathBuf,
    zone: Zone,
    sockets: (UdpSocket, TcpListener),
}

impl Acme {
    /// Listens for the authority's questions. What they are about comes with [`Self::keep`].
    pub async fn open(base: &Base, config: AcmeConfig) -> Result<Self, AcmeOpenError> {
        let address = config.dns_listen;
        let listen = |source| AcmeOpenError::Listen { address, source };
        let udp = UdpSocket::bind(address).await.map_err(listen)?;
        let address = udp.local_addr().map_err(listen)?;
        let tcp = TcpListener::bind(address).await.map_err(listen)?;
        let zone = Zone::of(base).ok_or_else(|| AcmeOpenError::Base { base: base.clone() })?;
        client::trust(config.root_file.as_deref())?;
        let directory = config.directory.join(slug(&config.directory_url, base));
        fs::create_dir_all(&directory).map_err(AcmeOpenError::Keep)?;
        tracing::info!(%address, "answering for the authority's challenges");
        Ok(Self {
            base: base.clone(),
            config,
            directory,
            zone,
            sockets: (udp, tcp),
        })
    }

    /// The file of the certificate and its key, once there is one.
    pub fn identity_file(&self) -> PathBuf {
        self.directory.join("identity.pem")
    }

    /// Answers the authority, and gets and renews the certificate, for ever.
    pub async fn keep(self) -> Infallible {
        let answering = dns::serve(&self.sockets.0, &self.sockets.1, &self.zone);
        tokio::select! {
            never = answering => never,
            never = self.renew() => never,
        }
    }

    async fn renew(&self) -> Infallible {
        let mut waits = Waits::new();
        loop {
            let validity = Validity::of_file(&self.identity_file());
            let left = validity.map_or(Duration::ZERO, |validity| validity.until_renewal(now()));
            if !left.is_zero() {
                sleep(left.min(LOOK_EVERY)).await;
                continue;
            }
            let attempt = timeout(ATTEMPT_TIMEOUT, self.obtain()).await;
            self.zone.clear();
            match attempt.unwrap_or(Err(AttemptError::TimedOut)) {
                Ok(()) => {
                    tracing::info!(base = %self.base, "there is a new certificate");
                    waits = Waits::new();
                }
                Err(error) => {
                    let report = Report::new(&error).to_string();
                    let pause = waits.after(error.failed());
                    let again_in = format!("{} s", pause.as_secs());
                    let next_step = error.next_step(self);
                    tracing::warn!(report, again_in, next_step, "there is no new certificate");
                    sleep(pause).await;
                }
            }
        }
    }

    async fn obtain(&self) -> Result<(), AttemptError> {
        let account = self.account().await?;
        let names = [self.base.to_string(), format!("*.{}", self.base)];
        let names = names.map(Identifier::Dns);
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        self.meet_challenges(&mut order).await?;
        match order.poll_ready(&PATIENCE).await? {
            OrderStatus::Ready => {}
            status => return Err(refusal(&mut order, status).await),
        }
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&PATIENCE).await?;
        let identity = format!("{chain}\n{key}");
        write(&self.identity_file(), identity.as_bytes()).map_err(AttemptError::Keep)?;
        // Asking at once for the next would go on for ever.
        match Validity::of_file(&self.identity_file()) {
            Some(validity) if !validity.until_renewal(now()).is_zero() => Ok(()),
            _ => Err(AttemptError::DueAlready),
        }
    }

    /// The account of an earlier time, or a new one. Having asked for certificates of this
    /// authority is having agreed to its terms.
    async fn account(&self) -> Result<Account, AttemptError> {
        let path = self.directory.join("account.json");
        let builder = Account::builder_with_http(self.http()?);
        if let Some(kept) = read_if_there(&path).map_err(AttemptError::Keep)? {
            let credentials: AccountCredentials =
                serde_json::from_slice(&kept).map_err(AttemptError::Account)?;
            return Ok(builder.from_credentials(credentials).await?);
        }
        let new = NewAccount {
            contact: &[],
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let directory_url = self.config.directory_url.clone();
        let (account, credentials) = builder.create(&new, directory_url, None).await?;
        let kept = serde_json::to_vec(&credentials).map_err(AttemptError::Account)?;
        write(&path, &kept).map_err(AttemptError::Keep)?;
        Ok(account)
    }

    fn http(&self) -> Result<Box<dyn instant_acme::HttpClient>, AttemptError> {
        let other = |error: client::TrustError| instant_acme::Error::Other(Box::new(error));
        let trust = client::trust(self.config.root_file.as_deref()).map_err(other)?;
        Ok(Box::new(client::Client::new(trust)))
    }

    /// Publishes what the authority wants to see, and asks it to look.
    async fn meet_challenges(&self, order: &mut Order) -> Result<(), AttemptError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = authorization.identifier().to_string();
            let challenge = authorization.challenge(ChallengeType::Dns01);
            let mut challenge = challenge.ok_or(AttemptError::NoChallenge { name })?;
            self.zone.publish(challenge.key_authorization().dns_value());
            challenge.set_ready().await?;
        }
        Ok(())
    }
}

/// Why an order did not become ready, as far as the authority says.
async fn refusal(order: &mut Order, status: OrderStatus) -> AttemptError {
    let mut authorizations = order.authorizations();
    while let Some(Ok(authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        let mut problems = authorization.challenges.iter();
        if let Some(problem) = problems.find_map(|one| one.error.as_ref()) {
            let detail = problem.to_string();
            return AttemptError::NotValid { name, detail };
        }
    }
    AttemptError::Unfinished { status }
}

/// The name of the directory for what one authority gave for one base.
fn slug(directory_url: &str, base: &Base) -> String {
    let plain = |character: char| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' => character,
        _ => '-',
    };
    let authority = directory_url.trim_start_matches("https://");
    format!(
        "{base}@{}",
        authority.chars().map(plain).collect::<String>()
    )
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a file in the place of another, whole; nobody else may read it.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_authority_and_base_has_a_directory_of_its_own() {
        let base: Base = "a.example".parse().unwrap();
        let slugged = slug("https://acme.example/dir?x=1", &base);
        assert_eq!(slugged, "a.example@acme.example-dir-x-1");
    }
}
