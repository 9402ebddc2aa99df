//! Uses a key that the sandbox never sees, on the one host it is for. The key
//! is taken from `API_KEY`, and the host is `api.example.com`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use tombolo_client::egress::ExplainRequest;
use tombolo_client::{Client, Sandbox};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?;
    let key = std::env::var_os("API_KEY").ok_or("API_KEY is not set")?;
    let key = key.into_string().map_err(|_bytes| "API_KEY is no text")?;
    let host = "api.example.com";
    let sandbox = Sandbox::builder()
        .allow_net([host])
        .secret("API_KEY", [host], key)
        .create(&client)
        .await?;

    // What the guest has is a placeholder; the host sees the key.
    let placeholder = sandbox.env().get("API_KEY").await?.unwrap_or_default();
    println!("the guest has {placeholder:.23}…");
    let response = sandbox
        .fetch(format!("https://{host}/v1/me"))
        .header("authorization", format!("Bearer {placeholder}"))
        .send()
        .await?;
    println!("{host} answers {}", response.status);

    let refused = sandbox.fetch("https://evil.example/").send().await?;
    println!("evil.example answers {}", refused.status);

    // The rules can be asked, changed and watched while it lives.
    let egress = sandbox.egress();
    let request = ExplainRequest {
        method: "GET".to_owned(),
        url: "https://evil.example/".to_owned(),
        headers: Vec::new(),
        body: None,
    };
    let why: serde_json::Value = egress.explain(&request).await?;
    println!("because {}", why["connect"]["reason"]);
    egress.revoke_secret("API_KEY").await?;
    let change = egress.set_allow_net(Some(Vec::new())).await?;
    println!("policy {} allows nothing", change.generation);

    sandbox.close().await;
    Ok(())
}
