//! Serves HTTP from a sandbox to the world: to everybody who has the address,
//! and to those who have a token as well.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use tombolo_client::{Client, Sandbox};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?;
    let sandbox = Sandbox::builder().expose_http(8000).create(&client).await?;
    println!("everybody: {}", sandbox.url().unwrap_or_default());

    let code = "Deno.serve({ port: 8000 }, () => new Response('served'))";
    let server = sandbox.deno().run_code(code).spawn().await?;
    println!("it listens: {}", server.http_ready().await?);

    // Without going out and in again:
    let answer = server.fetch("http://anything/").send().await?;
    println!("it answers: {}", answer.text().await?);

    let private = sandbox.expose_http_privately(8000).await?;
    println!("with a token: {}", private.exposure.url);
    let name = private.exposure.name.parse()?;
    sandbox.unexpose(&name).await?;
    println!("{} exposure is left", sandbox.exposures().await?.len());

    sandbox.close().await;
    Ok(())
}
