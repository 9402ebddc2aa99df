//! Runs code in a sandbox that ends with this program.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use tombolo_client::{Client, Sandbox};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?;
    let sandbox = Sandbox::create(&client).await?;

    let code = "import platform; print(platform.node(), 6 * 7)";
    let output = sandbox
        .command("python3")
        .arg("-c")
        .arg(code)
        .output()
        .await?;
    print!("{}", output.stdout_text());

    let status = sandbox.sh("exit 3").status().await?;
    println!("a script ended with {}", status.code);

    sandbox.close().await;
    Ok(())
}
