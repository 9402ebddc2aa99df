//! Rows of sandboxes: their lives, their ways in, their network.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use tombolo_client::api::config::NewSandbox;
use tombolo_client::api::native::{SandboxPhase, TOKENS_PATH};
use tombolo_client::api::secret::SecretValue;
use tombolo_client::egress::ExplainRequest;
use tombolo_client::{Client, ConnectError, PutSecret, RecordEvent, Sandbox, Target, Token};

use crate::KEY;
use crate::rows::Rig;

const HOST: &str = "api.example.com";

pub(crate) async fn server(rig: Rig) -> anyhow::Result<()> {
    ensure!(rig.client.healthy().await);
    let info = rig.client.info().await?;
    ensure!(info.region == "ord" && info.node.is_some(), "{info:?}");
    // Addresses without a method of their own; this token may not.
    let error = rig.client.get::<Value>(TOKENS_PATH).await.err();
    let error = error.context("it may list tokens")?;
    let refusal = error.refusal().context("no refusal")?;
    ensure!(
        refusal.code == "FORBIDDEN" && !refusal.is_temporary(),
        "{refusal:?}"
    );
    ensure!(
        rig.client
            .delete(&format!("{TOKENS_PATH}/x"))
            .await
            .is_err()
    );
    let stranger = Client::new(rig.client.endpoint().clone(), Token::new("ddo_wrong"));
    let error = Sandbox::create(&stranger)
        .await
        .err()
        .context("it was let in")?;
    let refusal = error.refusal().context("no refusal")?;
    ensure!(refusal.code == "INVALID_TOKEN", "{refusal:?}");
    ensure!(error.next_step().is_some());
    Ok(())
}

pub(crate) async fn create(rig: Rig) -> anyhow::Result<()> {
    let config = NewSandbox {
        memory_mb: Some(1024),
        ..NewSandbox::default()
    };
    let builder = Sandbox::builder().config(config).memory_mib(1280);
    let builder = builder
        .timeout(Duration::from_mins(5))
        .label("job", "create");
    let sandbox = builder
        .env("MY_VAR", "x")
        .region("ord")
        .create(&rig.client)
        .await?;
    ensure!(sandbox.id().as_str().starts_with("sbx_ord_"));
    ensure!(sandbox.warnings().is_empty(), "{:?}", sandbox.warnings());
    let output = sandbox.sh("echo $MY_VAR").output().await?;
    ensure!(output.stdout_text() == "x\n");
    sandbox.kill().await?;
    let nowhere = Sandbox::builder().region("xyz").create(&rig.client).await;
    ensure!(nowhere.is_err());
    Ok(())
}

pub(crate) async fn network(rig: Rig) -> anyhow::Result<()> {
    let builder = Sandbox::builder().allow_net([HOST]);
    let builder = builder.secret("API_KEY", [HOST], KEY);
    let sandbox = builder.create(&rig.client).await?;
    let placeholder = sandbox.env().get("API_KEY").await?.context("no variable")?;
    ensure!(
        placeholder.starts_with("DENO_SECRET_PLACEHOLDER_"),
        "{placeholder}"
    );
    let fetch = sandbox.fetch(format!("https://{HOST}/x"));
    let echo: Value = fetch
        .header("authorization", &placeholder)
        .send()
        .await?
        .json()
        .await?;
    ensure!(echo["authorization"] == placeholder, "{echo}");
    ensure!(sandbox.fetch("https://evil.example/").send().await?.status == 403);
    let policy = sandbox.egress().policy().await?;
    sandbox.kill().await?;
    let wrong = Sandbox::builder().secret("A", [HOST], "two\nlines");
    let error = wrong.create(&rig.client).await;
    ensure!(
        matches!(error, Err(ConnectError::Secret { .. })),
        "{error:?}"
    );
    let none: [String; 0] = [];
    let closed = Sandbox::builder()
        .allow_net(none)
        .create(&rig.client)
        .await?;
    ensure!(
        closed
            .fetch(format!("https://{HOST}/"))
            .send()
            .await
            .map_or(true, |r| r.status == 403)
    );
    closed.kill().await?;
    // What a sandbox has can be given to another, but for the secrets.
    let mut policy = policy;
    if let Some(policy) = policy.as_object_mut() {
        policy.remove("secrets");
        policy.remove("generation");
    }
    let again = Sandbox::builder()
        .egress_policy(policy)
        .create(&rig.client)
        .await?;
    let explained: Value = again
        .egress()
        .explain(&ask("https://evil.example/"))
        .await?;
    ensure!(explained["connect"]["verdict"] == "deny", "{explained}");
    let explained: Value = again
        .egress()
        .explain(&ask(&format!("https://{HOST}/")))
        .await?;
    ensure!(explained["connect"]["verdict"] == "allow", "{explained}");
    Ok(again.kill().await?)
}

pub(crate) async fn ways_in(rig: Rig) -> anyhow::Result<()> {
    let builder = Sandbox::builder().expose_ssh().expose_http(8000);
    let sandbox = builder.create(&rig.client).await?;
    let ssh = sandbox.ssh().context("no way in")?;
    ensure!(ssh.username.len() == 32, "{ssh:?}");
    ensure!(sandbox.url().is_some_and(|url| url.starts_with("https://")));
    sandbox.kill().await?;
    ensure!(rig.sandbox.ssh().is_none() && rig.sandbox.url().is_none());
    // What cannot be had from the start leaves nothing behind.
    let before = rig.client.sandboxes().running().all().await?.len();
    let error = Sandbox::builder().expose_http(0).create(&rig.client).await;
    ensure!(matches!(error, Err(ConnectError::Prepare(_))), "{error:?}");
    ensure!(rig.client.sandboxes().running().all().await?.len() == before);
    Ok(())
}

pub(crate) async fn connect(rig: Rig) -> anyhow::Result<()> {
    let path = rig.file("shared").await?;
    let id = rig.sandbox.id();
    for other in [
        Sandbox::connect(&rig.client, id.as_str()).await?,
        rig.client.sandbox(id).connect().await?,
    ] {
        ensure!(other.fs().read_text_file(&path).await? == "shared");
        other.close().await;
    }
    let error = Sandbox::connect(&rig.client, "sbx_ord_00000000000000000000").await;
    let error = error.err().context("it is there")?;
    ensure!(
        error
            .refusal()
            .is_some_and(|r| r.code == "SANDBOX_NOT_FOUND"),
        "{error:?}"
    );
    let error = Sandbox::connect(&rig.client, "nonsense").await;
    ensure!(matches!(error, Err(ConnectError::Id { .. })), "{error:?}");
    Ok(())
}

pub(crate) async fn list(rig: Rig) -> anyhow::Result<()> {
    let job = "the-listing";
    let mut made = Vec::new();
    for _ in 0..2 {
        made.push(
            Sandbox::builder()
                .label("job", job)
                .create(&rig.client)
                .await?,
        );
    }
    let listing = || rig.client.sandboxes().label("job", job);
    ensure!(listing().all().await?.len() == 2);
    let stream = listing().running().fresh_usage().stream();
    let rows: Vec<_> = stream.try_collect().await?;
    ensure!(
        rows.len() == 2 && rows.iter().all(|row| row.usage.is_some()),
        "{rows:?}"
    );
    let pages: Vec<_> = listing().limit(1).pages().try_collect().await?;
    ensure!(pages.len() == 1 && pages[0].len() == 1, "{pages:?}");
    for sandbox in made {
        sandbox.kill().await?;
    }
    ensure!(listing().running().all().await?.is_empty());
    let ended = rig
        .client
        .sandboxes()
        .labels([("job", job)])
        .state(SandboxPhase::Stopped);
    ensure!(ended.all().await?.len() == 2);
    Ok(())
}

pub(crate) async fn end(rig: Rig) -> anyhow::Result<()> {
    let sandbox = Sandbox::builder()
        .timeout(Duration::from_mins(1))
        .create(&rig.client)
        .await?;
    let end = sandbox.extend_timeout(Duration::from_mins(5)).await?;
    let left = end.duration_since(SystemTime::now())?;
    ensure!(
        left > Duration::from_mins(4) && left < Duration::from_mins(6),
        "{left:?}"
    );
    let mut process = sandbox.command("sleep").arg("600").spawn().await?;
    let other = sandbox.clone();
    let closed = tokio::spawn(async move { other.closed().await });
    let id = sandbox.id().clone();
    sandbox.kill().await?;
    closed.await?;
    ensure!(process.status().await.is_err());
    let error = rig
        .client
        .sandbox(&id)
        .connect()
        .await
        .err()
        .context("it lives")?;
    let code = error.refusal().map(|refusal| refusal.code.as_str());
    ensure!(code == Some("SANDBOX_ALREADY_TERMINATED"), "{error:?}");
    Ok(())
}

pub(crate) async fn close(rig: Rig) -> anyhow::Result<()> {
    let sandbox = Sandbox::create(&rig.client).await?;
    let (id, fs) = (sandbox.id().clone(), sandbox.fs());
    sandbox.close().await;
    let error = fs.stat("/").await.err().context("it answers")?;
    ensure!(
        error.kind() == std::io::ErrorKind::ConnectionReset,
        "{error:?}"
    );
    // It lived as long as its connection; so does one that is dropped.
    let dropped = Sandbox::create(&rig.client).await?;
    let ids = [id, dropped.id().clone()];
    drop(dropped);
    loop {
        let rows = rig.client.sandboxes().running().all().await?;
        if !rows.iter().any(|row| ids.contains(&row.id)) {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn expose(rig: Rig) -> anyhow::Result<()> {
    let sandbox = &rig.sandbox;
    let public = sandbox.expose_http(8001).await?;
    ensure!(
        !public.private && public.port.is_some_and(|port| port.get() == 8001),
        "{public:?}"
    );
    let process = sandbox.command("sleep").arg("600").spawn().await?;
    let private = sandbox
        .expose_http_privately(Target::Process(process.pid()))
        .await?;
    ensure!(private.exposure.private && private.exposure.pid == Some(process.pid()));
    ensure!(!private.access_token.reveal().is_empty());
    ensure!(!format!("{private:?}").contains(private.access_token.reveal()));
    let names = async || {
        let rows = sandbox.exposures().await?;
        anyhow::Ok(rows.into_iter().map(|row| row.name).collect::<Vec<_>>())
    };
    let before = names().await?;
    ensure!(before.contains(&public.name) && before.contains(&private.exposure.name));
    for name in [&public.name, &private.exposure.name] {
        sandbox.unexpose(&name.parse()?).await?;
    }
    ensure!(names().await?.len() == before.len() - 2);
    Ok(())
}

pub(crate) async fn ssh(rig: Rig) -> anyhow::Result<()> {
    let (first, second) = (
        rig.sandbox.expose_ssh().await?,
        rig.sandbox.expose_ssh().await?,
    );
    ensure!(first.username != second.username && first.username.len() == 32);
    Ok(rig.sandbox.unexpose_ssh().await?)
}

fn ask(url: &str) -> ExplainRequest {
    ExplainRequest {
        method: "GET".to_owned(),
        url: url.to_owned(),
        headers: Vec::new(),
        body: None,
    }
}

pub(crate) async fn policy(rig: Rig) -> anyhow::Result<()> {
    let sandbox = Sandbox::create(&rig.client).await?;
    let egress = sandbox.egress();
    let verdict = async |host: &str| {
        let explained: Value = egress.explain(&ask(&format!("https://{host}/"))).await?;
        anyhow::Ok(explained["connect"]["verdict"].clone())
    };
    let first = egress.set_allow_net(Some(vec![HOST.to_owned()])).await?;
    ensure!(verdict("evil.example").await? == "deny");
    let mut policy = egress.policy().await?;
    let second = egress.set_allow_net(Some(Vec::new())).await?;
    ensure!(second.generation > first.generation);
    ensure!(verdict(HOST).await? == "deny");
    // It is of another generation than what is in force by now.
    ensure!(egress.set_policy(&policy).await.is_err());
    if let Some(policy) = policy.as_object_mut() {
        policy.remove("generation");
    }
    egress.set_policy(&policy).await?;
    ensure!(verdict(HOST).await? == "allow");
    ensure!(egress.set_policy(&json!({"nonsense": 1})).await.is_err());
    sandbox.fetch(format!("https://{HOST}/")).send().await?;
    let sums = egress.stats().await?;
    ensure!(
        sums.iter().any(|sum| sum.host == HOST && sum.attempts > 0),
        "{sums:?}"
    );
    Ok(sandbox.kill().await?)
}

pub(crate) async fn secrets(rig: Rig) -> anyhow::Result<()> {
    let sandbox = Sandbox::builder()
        .allow_net([HOST])
        .create(&rig.client)
        .await?;
    let egress = sandbox.egress();
    ensure!(egress.secrets().await?.is_empty());
    let secret = PutSecret {
        value: Some(SecretValue::new(KEY.to_owned())?),
        hosts: Some(vec![HOST.to_owned()]),
        ..PutSecret::default()
    };
    let change = egress.put_secret("LATER", &secret).await?;
    ensure!(change.secret.name == "LATER", "{change:?}");
    let rows = egress.secrets().await?;
    ensure!(
        rows.len() == 1 && rows[0].revoked_at_ms.is_none(),
        "{rows:?}"
    );
    egress.revoke_secret("LATER").await?;
    let rows = egress.secrets().await?;
    ensure!(
        rows.iter().all(|row| row.revoked_at_ms.is_some()),
        "{rows:?}"
    );
    ensure!(egress.revoke_secret("a/../b").await.is_err());
    Ok(sandbox.kill().await?)
}

pub(crate) async fn records(rig: Rig) -> anyhow::Result<()> {
    let sandbox = Sandbox::builder()
        .allow_net([HOST])
        .create(&rig.client)
        .await?;
    let mut one = sandbox.egress().records().await?;
    let mut all = rig.client.egress_records(None).await?;
    // Listening begins somewhat after it was answered.
    let asking = async { while sandbox.fetch("https://evil.example/").send().await.is_ok() {} };
    let listening = async {
        for records in [&mut one, &mut all] {
            let event = records.next().await?.context("the server ended")?;
            let RecordEvent::Record(text) = event else {
                anyhow::bail!("{event:?}")
            };
            let record: Value = serde_json::from_str(&text)?;
            ensure!(record["sandbox"].is_string(), "{record}");
        }
        anyhow::Ok(())
    };
    tokio::select! {
        () = asking => anyhow::bail!("the sandbox does not answer"),
        heard = listening => heard?,
    }
    Ok(sandbox.kill().await?)
}

pub(crate) async fn environment(rig: Rig) -> anyhow::Result<()> {
    let env = rig.sandbox.env();
    env.set("ROW", "1").await?;
    ensure!(rig.shell("echo $ROW").await? == "1\n");
    ensure!(env.get("ROW").await?.as_deref() == Some("1"));
    ensure!(
        env.all()
            .await?
            .get("HOME")
            .is_some_and(|home| home == "/home/app")
    );
    env.delete("ROW").await?;
    ensure!(env.get("ROW").await?.is_none() && !env.all().await?.contains_key("ROW"));
    let error = env
        .set("NOT=A NAME", "x")
        .await
        .err()
        .context("it was set")?;
    ensure!(error.call().object().is_some(), "{error:?}");
    Ok(())
}

/// The machine of the tests has no VS Code, which has tests of its own: this
/// is how one learns it.
pub(crate) async fn vscode(rig: Rig) -> anyhow::Result<()> {
    let command = rig
        .sandbox
        .vscode("/home/app")
        .extension("a.b")
        .env("A", "1");
    let command = command
        .preview("http://localhost/")
        .setting("editor.fontSize", 12);
    match command.without_stop_button().start().await {
        Ok(vscode) => {
            let exposed = vscode.expose().await?;
            ensure!(exposed.url.starts_with("https://"), "{exposed:?}");
        }
        Err(error) => {
            let told = error.call().object().context("no words")?;
            ensure!(!told.message.is_empty(), "{told:?}");
        }
    }
    Ok(())
}
