//! Evaluates TypeScript, with values that have types on both sides.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use serde::{Deserialize, Serialize};
use tombolo_client::{Client, Sandbox};

#[derive(Debug, Serialize, Deserialize)]
struct Point {
    x: f64,
    y: f64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?;
    let sandbox = Sandbox::create(&client).await?;

    let sum: u32 = sandbox.deno().eval("const a: number = 20; a + 22").await?;
    println!("sum: {sum}");

    // A REPL remembers what was declared in it.
    let mut repl = sandbox.deno().repl().spawn().await?;
    let declare = "type Point = { x: number; y: number };
        function scale(p: Point, by: number): Point { return { x: p.x * by, y: p.y * by }; }";
    repl.eval::<()>(declare).await?;
    let scaled: Point = repl.call("scale", (Point { x: 1.0, y: 2.5 }, 2)).await?;
    println!("scaled: {scaled:?}");

    let error = repl.eval::<()>("throw new RangeError('too far')").await;
    if let Some(thrown) = error.as_ref().err().and_then(|error| error.thrown()) {
        println!("thrown: {} ({})", thrown.message(), thrown.class());
    }
    repl.close().await?;
    sandbox.close().await;
    Ok(())
}
