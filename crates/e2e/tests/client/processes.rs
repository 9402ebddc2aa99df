//! Rows of processes and their streams.

use anyhow::{Context as _, ensure};
use tokio::io::AsyncBufReadExt as _;
use tombolo_client::{ProcessError, Sandbox, Signal, Stdio, StreamError, TerminalSize};

use crate::rows::Rig;

pub(crate) async fn output(rig: Rig) -> anyhow::Result<()> {
    let script = "echo out $1; echo err >&2; exit 3";
    let command = rig.sandbox.command("sh").arg("-c").args([script, "-", "a"]);
    let output = command.clone().output().await?;
    let texts = (output.stdout_text(), output.stderr_text());
    ensure!(
        texts == ("out a\n".to_owned(), "err\n".to_owned()),
        "{texts:?}"
    );
    ensure!(output.status.code == 3 && !output.status.success);
    ensure!(command.status().await?.code == 3);
    let error = rig.sandbox.command("no-such-program").spawn().await;
    let error = error.err().context("it started")?;
    ensure!(
        error.is_not_found() && error.next_step().is_some(),
        "{error:?}"
    );
    Ok(())
}

pub(crate) async fn settings(rig: Rig) -> anyhow::Result<()> {
    let script = rig.sandbox.sh("pwd; echo $A $B $HOME");
    let script = script.env("A", "1").envs([("B", "2")]).current_dir("/tmp");
    let text = script.clone().output().await?.stdout_text();
    ensure!(text == "/tmp\n1 2 /home/app\n", "{text}");
    let cleared = rig
        .sandbox
        .command("/usr/bin/env")
        .env_clear()
        .env("A", "1");
    let text = cleared.output().await?.stdout_text();
    ensure!(text == "A=1\n", "{text}");
    let long = script.output_len_max(3).output().await;
    let Err(ProcessError::Output { source, .. }) = long else {
        anyhow::bail!("{long:?}")
    };
    ensure!(
        matches!(source, StreamError::TooLong { limit: 3 }),
        "{source}"
    );
    Ok(())
}

pub(crate) async fn streams(rig: Rig) -> anyhow::Result<()> {
    let cat = rig.sandbox.command("cat").stdin(Stdio::Piped);
    let mut process = cat.clone().stdout(Stdio::Piped).spawn().await?;
    ensure!(process.stderr.is_none());
    let stdin = process.stdin.take().context("no input")?;
    let mut stdout = process.stdout.take().context("no output")?;
    stdin.write(b"first").await?;
    let first = stdout.chunk().await?.context("no chunk")?;
    ensure!(first == "first", "{first:?}");
    stdin.write(&vec![b'x'; 200_000]).await?;
    stdin.finish().await?;
    let rest = stdout.read_to_end(1 << 20).await?;
    ensure!(rest.len() == 200_000, "{}", rest.len());
    ensure!(process.status().await?.success);

    let shell = rig.sandbox.sh("echo a; echo b; echo oops >&2");
    let shell = shell.stdout(Stdio::Piped).stderr(Stdio::Piped);
    let mut process = shell.spawn().await?;
    let stdout = process.stdout.take().context("no output")?;
    let mut lines = stdout.into_async_read().lines();
    ensure!(lines.next_line().await?.as_deref() == Some("a"));
    ensure!(lines.next_line().await?.as_deref() == Some("b"));
    ensure!(lines.next_line().await?.is_none());
    let stderr = process.stderr.take().context("no error output")?;
    ensure!(stderr.read_to_string(100).await? == "oops\n");
    Ok(())
}

pub(crate) async fn dropped(rig: Rig) -> anyhow::Result<()> {
    // Without end: only a closed pipe stops it.
    let endless = rig.sandbox.command("yes").stdout(Stdio::Piped);
    let mut process = endless.spawn().await?;
    let mut stdout = process.stdout.take().context("no output")?;
    stdout.chunk().await?;
    drop(stdout);
    let status = process.status().await?;
    ensure!(status.signal.as_deref() == Some("SIGPIPE"), "{status:?}");
    // One that nobody took holds up nobody: waiting reads it.
    let much = rig.sandbox.sh("head -c 30000000 /dev/zero");
    let mut process = much.stdout(Stdio::Piped).spawn().await?;
    ensure!(process.status().await?.success);
    Ok(())
}

pub(crate) async fn signals(rig: Rig) -> anyhow::Result<()> {
    let mut process = rig.sandbox.command("sleep").arg("600").spawn().await?;
    let handle = process.handle();
    ensure!(process.pid() == handle.pid() && handle.pid() > 0);
    let (killed, exited) = tokio::join!(handle.kill(Signal::Int), process.exited());
    killed?;
    ensure!(exited?.signal.as_deref() == Some(Signal::Int.as_str()));
    // One that has gone is no error.
    process.kill(Signal::Kill).await?;
    // A process of another connection.
    let other = Sandbox::connect(&rig.client, rig.sandbox.id().as_str()).await?;
    let mut process = other.command("sleep").arg("600").spawn().await?;
    rig.sandbox
        .process(process.pid())
        .kill(Signal::Kill)
        .await?;
    let status = process.status().await?;
    ensure!(status.signal.as_deref() == Some("SIGKILL"), "{status:?}");
    other.close().await;
    Ok(())
}

pub(crate) async fn terminal(rig: Rig) -> anyhow::Result<()> {
    let size = |rows, columns| TerminalSize { rows, columns };
    let script = "trap 'stty size' WINCH; stty size; read line; echo $line; \
                  while :; do sleep 0.1; done";
    let command = rig.sandbox.sh(script).terminal(size(30, 100));
    let mut process = command.spawn().await?;
    let stdin = process.stdin.take().context("no input")?;
    let stdout = process.stdout.take().context("no output")?;
    let mut lines = stdout.into_async_read().lines();
    ensure!(lines.next_line().await?.as_deref() == Some("30 100"));
    stdin.write(b"typed\n").await?;
    // The terminal shows what is typed, too.
    for _ in 0..2 {
        ensure!(lines.next_line().await?.as_deref() == Some("typed"));
    }
    process.resize(size(40, 120)).await?;
    ensure!(lines.next_line().await?.as_deref() == Some("40 120"));
    // Left with its input open, and taken over again.
    let listed = rig.sandbox.processes().await?;
    ensure!(
        listed.iter().any(|row| row.pid == process.pid()),
        "{listed:?}"
    );
    let again = rig.sandbox.process(process.pid());
    let mut again = again.attach(size(50, 130)).await?;
    let stdout = again.stdout.take().context("no output")?;
    let mut lines = stdout.into_async_read().lines();
    while let Some(line) = lines.next_line().await? {
        if line.trim_end() == "50 130" {
            break;
        }
    }
    again.kill(Signal::Kill).await?;
    Ok(())
}
