//! Writes, reads and finds files, works inside an open one, and copies a
//! directory in and out.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use tombolo_client::fs::{OpenOptions, SeekFrom, WalkOptions};
use tombolo_client::{Client, Sandbox};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?;
    let sandbox = Sandbox::create(&client).await?;
    let fs = sandbox.fs();

    fs.mkdir("notes").await?;
    fs.write_text_file("notes/a.txt", "one two three").await?;
    println!("{}", fs.read_text_file("notes/a.txt").await?);

    let options = OpenOptions::new().read(true).write(true);
    let mut file = fs.open_with("notes/a.txt", options).await?;
    file.seek(SeekFrom::Start(4)).await?;
    file.write_all(b"TWO").await?;
    file.sync().await?;
    file.close().await?;

    let mut walk = fs
        .walk_with("notes", WalkOptions::new().include_dirs(false))
        .await?;
    while let Some(entry) = walk.next().await? {
        println!("{}: {:?}", entry.name, entry.file_type);
    }

    let here = tempfile::tempdir()?;
    let here = here.path().to_str().ok_or("no path")?;
    let copied = fs.download("notes", here).await?;
    println!("{} file, {} bytes came out", copied.files, copied.bytes);
    let copied = fs.upload(&format!("{here}/notes"), "/tmp").await?;
    println!("{} file went in", copied.files);
    println!("{}", fs.read_text_file("/tmp/notes/a.txt").await?);

    if let Err(error) = fs.stat("nowhere").await {
        println!("{error} (not found: {})", error.is_not_found());
    }
    sandbox.close().await;
    Ok(())
}
