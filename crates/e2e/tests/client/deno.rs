//! Rows of Deno and of fetches.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::timeout;
use tombolo_client::deno::{DenoProcess, EvalError};
use tombolo_client::fetch::Redirect;
use tombolo_client::{Signal, Stdio};

use crate::rows::Rig;

/// How often a file is written until that is noticed...
const CHANGES_MAX: usize = 20;
/// ... each time for longer than Deno gathers changes, which is 200 ms.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

pub(crate) async fn run(rig: Rig) -> anyhow::Result<()> {
    let deno = rig.sandbox.deno();
    let code = "console.log(Deno.args, Deno.cwd(), Deno.env.get('A')); Deno.exit(3)";
    let program = deno.run_code(code).arg("a").args(["--b"]).env("A", "1");
    let output = program.current_dir("/tmp").output().await?;
    let text = output.stdout_text();
    ensure!(text == "[ \"a\", \"--b\" ] /tmp 1\n", "{text}");
    ensure!(output.status.code == 3);
    let script = deno
        .run_code("console.log(typeof require)")
        .extension("cjs");
    ensure!(script.output().await?.stdout_text() == "function\n");
    let path = format!("{}/main.ts", rig.directory().await?);
    let code = "console.log(await new Response(Deno.stdin.readable).text())";
    rig.fs.write_text_file(&path, code).await?;
    let program = deno
        .run(path.as_str())
        .stdin(Stdio::Piped)
        .stdout(Stdio::Piped);
    let mut program = program.spawn().await?;
    let stdin = program.process.stdin.take().context("no input")?;
    stdin.write(b"typed").await?;
    stdin.finish().await?;
    ensure!(program.process.output().await?.stdout_text() == "typed\n");
    let wrong = deno.run_code("let = ;").output().await?;
    ensure!(wrong.status.code == 1 && !wrong.stderr.is_empty());
    Ok(())
}

/// Writes until the restart is told: Deno begins to watch after the program has begun to
/// run, so that a change right after its first output may not be seen.
async fn change(
    rig: &Rig,
    watched: &mut DenoProcess,
    path: &str,
    text: &str,
) -> anyhow::Result<()> {
    for _ in 0..CHANGES_MAX {
        rig.fs.write_text_file(path, text).await?;
        if let Ok(told) = timeout(SEEN_WITHIN, watched.restarted()).await {
            return told.context("it does not watch");
        }
    }
    bail!("it does not restart")
}

pub(crate) async fn watch(rig: Rig) -> anyhow::Result<()> {
    let directory = rig.directory().await?;
    let path = format!("{directory}/main.ts");
    let beside = format!("{directory}/beside.txt");
    rig.fs.write_text_file(&path, "console.log('one')").await?;
    rig.fs.write_text_file(&beside, "").await?;
    let program = rig.sandbox.deno().run(path.as_str()).stdout(Stdio::Piped);
    let mut watched = program.clone().watch().spawn().await?;
    let mut stdout = watched.process.stdout.take().context("no output")?;
    ensure!(stdout.chunk().await?.as_deref() == Some("one\n".as_bytes()));
    change(&rig, &mut watched, &path, "console.log('two')").await?;
    let said = stdout.chunk().await?.context("it says nothing")?;
    let said = String::from_utf8(said.to_vec())?;
    // Once for each change that was seen by then.
    ensure!(
        said.starts_with("two\n") && said.lines().all(|line| line == "two"),
        "{said}"
    );
    watched.process.kill(Signal::Kill).await?;
    let mut watched = program.watch_also([beside.as_str()]).spawn().await?;
    let mut stdout = watched.process.stdout.take().context("no output")?;
    ensure!(stdout.chunk().await?.as_deref() == Some("two\n".as_bytes()));
    change(&rig, &mut watched, &beside, "changed").await?;
    watched.process.kill(Signal::Kill).await?;
    Ok(())
}

async fn serving(rig: &Rig, handler: &str) -> anyhow::Result<DenoProcess> {
    let code = format!("Deno.serve({{ port: 0, onListen() {{}} }}, {handler});");
    Ok(rig.sandbox.deno().run_code(code).spawn().await?)
}

pub(crate) async fn serve(rig: Rig) -> anyhow::Result<()> {
    let server = serving(&rig, "(request) => new Response(new URL(request.url).host)").await?;
    ensure!(server.http_ready().await?);
    let answer = server.fetch("http://example.com/").send().await?;
    ensure!(answer.text().await? == "example.com");
    server.process.kill(Signal::Kill).await?;
    let ends = rig.sandbox.deno().run_code("1").spawn().await?;
    ensure!(!ends.http_ready().await?);
    let error = ends.fetch("http://h/").send().await.err();
    ensure!(error.context("nobody listens")?.next_step().is_some());
    Ok(())
}

pub(crate) async fn eval(rig: Rig) -> anyhow::Result<()> {
    let deno = rig.sandbox.deno();
    let sum: u32 = deno.eval("const a: number = 20; a * 2 + 2").await?;
    ensure!(sum == 42);
    let command = deno.repl().arg("x").env("A", "1").current_dir("/tmp");
    let mut repl = command.stdout(Stdio::Piped).spawn().await?;
    let seen: (Vec<String>, String, String) = repl
        .eval("[Deno.args, Deno.env.get('A'), Deno.cwd()]")
        .await?;
    ensure!(
        seen == (vec!["x".to_owned()], "1".to_owned(), "/tmp".to_owned()),
        "{seen:?}"
    );
    repl.eval::<()>("function add(...all: number[]) { return all.reduce((a, b) => a + b, 0); }")
        .await?;
    ensure!(repl.call::<Value>("add", (1, 2.5)).await? == json!(3.5));
    ensure!(repl.call::<u8>("add", ()).await? == 0);
    ensure!(repl.call::<u8>("add", [1, 2, 3]).await? == 6);
    let echo: Value = repl
        .call("async (...all) => all", (json!({"k": [null]}), "x"))
        .await?;
    ensure!(echo == json!([{"k": [null]}, "x"]), "{echo}");
    let error = repl
        .eval::<()>("function f() { throw new RangeError('m') }\nf()")
        .await;
    let error = error.err().context("nothing was thrown")?;
    let thrown = error.thrown().context("it was not thrown")?;
    ensure!(
        (thrown.class(), thrown.message()) == ("RangeError", "m"),
        "{thrown:?}"
    );
    ensure!(
        thrown.stack().is_some_and(|stack| stack.contains("at f")),
        "{thrown:?}"
    );
    let error = repl.eval::<u8>("'text'").await;
    ensure!(matches!(error, Err(EvalError::Value(_))), "{error:?}");
    repl.close().await?;
    repl.close().await?;
    let error = repl.eval::<u8>("1").await;
    ensure!(matches!(error, Err(EvalError::Call(_))), "{error:?}");
    ensure!(repl.process.status().await?.code == 0);
    Ok(())
}

pub(crate) async fn fetch(rig: Rig) -> anyhow::Result<()> {
    let handler = "async (request) => {
        const { pathname } = new URL(request.url);
        if (pathname === '/moved') return Response.redirect(new URL('/there', request.url));
        if (pathname === '/none') return new Response(null, { status: 204 });
        if (pathname === '/json') return Response.json({ method: request.method });
        return new Response(await request.text() || pathname, { headers: { 'X-A': request.headers.get('a') } });
    }";
    let server = serving(&rig, handler).await?;
    let posted = server
        .fetch("http://h/")
        .header("a", "b")
        .body(vec![b'b'; 200_000])
        .send()
        .await?;
    ensure!(
        posted.is_success() && posted.header("X-A") == Some("b"),
        "{posted:?}"
    );
    ensure!(posted.bytes().await?.len() == 200_000);
    let chunks = ["one ", "two"].map(|chunk| Ok(Bytes::from(chunk)));
    let streamed = server
        .fetch("http://h/")
        .body_stream(futures_util::stream::iter(chunks));
    ensure!(streamed.send().await?.text().await? == "one two");
    ensure!(server.fetch("http://h/moved").send().await?.text().await? == "/there");
    let manual = server
        .fetch("http://h/moved")
        .redirect(Redirect::Manual)
        .send()
        .await?;
    ensure!(manual.status == 302 && manual.header("location") == Some("http://h/there"));
    let none = server.fetch("http://h/none").send().await?;
    ensure!(none.status == 204 && none.body.is_none() && none.text().await?.is_empty());
    let put: Value = server
        .fetch("http://h/json")
        .method("PUT")
        .send()
        .await?
        .json()
        .await?;
    ensure!(put == json!({"method": "PUT"}), "{put}");
    server.process.kill(Signal::Kill).await?;
    let error = rig.sandbox.fetch("ftp://example.com/").send().await;
    ensure!(error.is_err());
    Ok(())
}

pub(crate) async fn aborted(rig: Rig) -> anyhow::Result<()> {
    // The server tells when a request of its is given up.
    let handler = "(request) => {
        request.signal.addEventListener('abort', () => console.log('given up'));
        if (request.url.endsWith('/never')) return new Promise(() => {});
        return new Response(new ReadableStream({ pull: (it) => it.enqueue(new Uint8Array(9999)) }));
    }";
    let code = format!("Deno.serve({{ port: 0, onListen() {{}} }}, {handler});");
    let program = rig.sandbox.deno().run_code(code).stdout(Stdio::Piped);
    let mut server = program.spawn().await?;
    let mut stdout = server.process.stdout.take().context("no output")?;
    ensure!(server.http_ready().await?);
    let never = timeout(
        Duration::from_secs(2),
        server.fetch("http://h/never").send(),
    );
    ensure!(never.await.is_err(), "it was answered");
    ensure!(stdout.chunk().await?.as_deref() == Some("given up\n".as_bytes()));
    let mut endless = server.fetch("http://h/endless").send().await?;
    let body = endless.body.as_mut().context("no body")?;
    ensure!(body.chunk().await?.is_some());
    drop(endless);
    ensure!(stdout.chunk().await?.as_deref() == Some("given up\n".as_bytes()));
    server.process.kill(Signal::Kill).await?;
    Ok(())
}
