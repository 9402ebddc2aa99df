//! nginx as somebody would put it before a program, with the same certificate.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{sleep, timeout};
use tombolo_proc::Command;

use crate::stand::{IDENTITY_FILE, Stand};
use crate::way::Way;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A running nginx; it ends with this.
pub(crate) struct Nginx {
    _program: Child,
    address: SocketAddr,
}

impl Nginx {
    /// None if it is not installed.
    pub(crate) async fn start(stand: &Stand, directory: &Path) -> anyhow::Result<Option<Self>> {
        // It takes no port 0: one that was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = directory.join("nginx.conf");
        fs_err::write(&file, configuration(stand.program(), address, directory))?;
        let started = Command::new("nginx")
            .arg("-p")
            .arg(directory)
            .arg("-c")
            .arg(&file)
            .kill_on_drop(true)
            .spawn(Stdio::null(), Stdio::null(), Stdio::inherit());
        let program = match started {
            Ok(program) => program,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let nginx = Self {
            _program: program,
            address,
        };
        let way = nginx.way(stand)?;
        timeout(START_TIMEOUT, async {
            while way.connect().await.is_err() {
                sleep(LOOK_AGAIN).await;
            }
        })
        .await?;
        Ok(Some(nginx))
    }

    pub(crate) fn way(&self, stand: &Stand) -> anyhow::Result<Way> {
        stand.way("through nginx", self.address)
    }
}

fn configuration(program: SocketAddr, address: SocketAddr, directory: &Path) -> String {
    let identity = directory.join(IDENTITY_FILE);
    let (identity, here) = (identity.display(), directory.display());
    format!(
        "daemon off; master_process off; worker_processes 1; pid {here}/nginx.pid;
         error_log stderr error;
         events {{ worker_connections 1024; }}
         http {{
           access_log off; keepalive_requests 1000000000;
           upstream program {{ server {program}; keepalive 64; keepalive_requests 1000000000; }}
           server {{
             listen {address} ssl;
             ssl_certificate {identity}; ssl_certificate_key {identity};
             location / {{
               proxy_pass http://program; proxy_http_version 1.1;
               proxy_set_header Connection \"\"; proxy_set_header Host $host;
               proxy_buffering off;
             }}
           }}
         }}"
    )
}
