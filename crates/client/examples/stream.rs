//! Talks to a process while it runs: its input, its output line by line, a
//! signal, how it ended.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use tokio::io::AsyncBufReadExt as _;
use tombolo_client::{Client, Sandbox, Signal, Stdio};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?;
    let sandbox = Sandbox::create(&client).await?;

    let script = "while read name; do echo hello $name; done; exec sleep 600";
    let shell = sandbox.sh(script).stdin(Stdio::Piped).stdout(Stdio::Piped);
    let mut process = shell.spawn().await?;

    let stdin = process.stdin.take().ok_or("no input")?;
    let stdout = process.stdout.take().ok_or("no output")?;
    let mut lines = stdout.into_async_read().lines();
    for name in ["ada", "grace"] {
        stdin.write(format!("{name}\n").as_bytes()).await?;
        println!("it said: {}", lines.next_line().await?.unwrap_or_default());
    }
    stdin.finish().await?;

    process.kill(Signal::Kill).await?;
    let status = process.status().await?;
    println!("it ended with {:?}, code {}", status.signal, status.code);

    sandbox.close().await;
    Ok(())
}
