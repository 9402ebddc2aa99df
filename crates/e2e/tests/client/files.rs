//! Rows of files.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use tombolo_client::FileChangeKind;
use tombolo_client::fs::{
    CopyEvent, CopyPlace, ExpandGlobOptions, FileType, Fs, MakeTempOptions, MkdirOptions,
    OpenOptions, Pattern, SeekFrom, WalkOptions, WriteOptions, copy, copy_with,
};

use crate::rows::Rig;

/// A directory with a file, a link to it, and a file below.
async fn tree(rig: &Rig) -> anyhow::Result<String> {
    let root = rig.directory().await?;
    rig.fs.mkdir(&format!("{root}/sub")).await?;
    rig.fs
        .write_text_file(&format!("{root}/a.txt"), "a")
        .await?;
    rig.fs
        .write_text_file(&format!("{root}/sub/b.py"), "b")
        .await?;
    rig.fs.symlink("a.txt", &format!("{root}/link")).await?;
    Ok(root)
}

pub(crate) async fn whole(rig: Rig) -> anyhow::Result<()> {
    let fs = &rig.fs;
    let path = rig.file("ä €").await?;
    ensure!(fs.read_text_file(&path).await? == "ä €");
    fs.write_file(&path, vec![255; 200_000]).await?;
    let more = WriteOptions::new().append(true).create(false).mode(0o600);
    fs.write_file_with(&path, "!?", more).await?;
    let content = fs.read_file(&path).await?;
    ensure!(content.len() == 200_002 && content.ends_with(b"!?"));
    ensure!(fs.stat(&path).await?.mode & 0o777 == 0o600);
    let error = fs
        .read_text_file(&path)
        .await
        .err()
        .context("it is no text")?;
    ensure!(error.kind() == std::io::ErrorKind::InvalidData, "{error:?}");
    let fresh = WriteOptions::new().create_new(true);
    let error = fs.write_file_with(&path, "", fresh).await;
    let error = error.err().context("it exists")?;
    ensure!(
        error.kind() == std::io::ErrorKind::AlreadyExists,
        "{error:?}"
    );
    let error = fs.read_file("/nowhere").await.err().context("no file")?;
    ensure!(
        error.is_not_found() && error.path() == "/nowhere",
        "{error:?}"
    );
    let error = fs
        .write_text_file("/etc/x", "")
        .await
        .err()
        .context("not ours")?;
    ensure!(
        error.kind() == std::io::ErrorKind::PermissionDenied,
        "{error:?}"
    );
    ensure!(error.next_step().is_some());
    Ok(())
}

pub(crate) async fn pieces(rig: Rig) -> anyhow::Result<()> {
    const LEN: usize = 5_000_000;
    let fs = &rig.fs;
    let path = rig.file("").await?;
    let mut writer = fs.write_stream(&path).await?;
    for piece in vec![7; LEN].chunks(1_000_000) {
        writer.write(piece).await?;
    }
    writer.finish().await?;
    let mut reader = fs.read_stream(&path).await?;
    let mut len = 0;
    while let Some(piece) = reader.chunk().await? {
        len += piece.len();
    }
    reader.close().await?;
    ensure!(len == LEN, "{len}");
    // What is wrong with the file is told, at the latest at its end.
    let strict = WriteOptions::new().create(false);
    let mut writer = fs.write_stream_with("/home/app/none", strict).await?;
    let error = loop {
        if writer.write(&vec![0; 100_000]).await.is_err() {
            break writer.reason().await;
        }
    };
    ensure!(error.is_not_found(), "{error:?}");
    Ok(())
}

pub(crate) async fn directories(rig: Rig) -> anyhow::Result<()> {
    let fs = &rig.fs;
    let root = tree(&rig).await?;
    let mut entries = fs.read_dir(&root).await?;
    entries.sort_by(|left, right| left.name.cmp(&right.name));
    let seen: Vec<_> = entries
        .iter()
        .map(|e| (e.name.as_str(), e.file_type))
        .collect();
    let expected = [
        ("a.txt", FileType::File),
        ("link", FileType::Symlink),
        ("sub", FileType::Directory),
    ];
    ensure!(seen == expected, "{seen:?}");
    ensure!(
        entries
            .iter()
            .all(|entry| entry.path == format!("{root}/{}", entry.name))
    );
    let deep = format!("{root}/x/y");
    ensure!(fs.mkdir(&deep).await.is_err());
    let options = MkdirOptions::new().recursive(true).mode(0o700);
    fs.mkdir_with(&deep, options).await?;
    ensure!(fs.stat(&deep).await?.mode & 0o777 == 0o700);
    fs.remove(&deep).await?;
    ensure!(fs.remove(&root).await.is_err());
    fs.remove_all(&root).await?;
    ensure!(fs.try_stat(&root).await?.is_none());
    Ok(())
}

pub(crate) async fn names(rig: Rig) -> anyhow::Result<()> {
    let fs = &rig.fs;
    let path = rig.file("x").await?;
    let [moved, copied, linked, symbolic] = ["m", "c", "l", "s"].map(|end| format!("{path}{end}"));
    fs.rename(&path, &moved).await?;
    fs.copy_file(&moved, &copied).await?;
    fs.link(&moved, &linked).await?;
    fs.symlink(&moved, &symbolic).await?;
    for name in [&moved, &copied, &linked, &symbolic] {
        ensure!(fs.read_text_file(name).await? == "x", "{name}");
    }
    ensure!(fs.stat(&linked).await?.links == 2);
    ensure!(fs.read_link(&symbolic).await? == moved);
    ensure!(fs.real_path(&symbolic).await? == moved);
    Ok(())
}

pub(crate) async fn metadata(rig: Rig) -> anyhow::Result<()> {
    let fs = &rig.fs;
    let path = rig.file("four").await?;
    let link = format!("{path}l");
    fs.symlink(&path, &link).await?;
    let found = fs.stat(&link).await?;
    ensure!(
        found.is_file() && found.len == 4 && found.uid == 1000,
        "{found:?}"
    );
    ensure!(fs.lstat(&link).await?.is_symlink());
    ensure!(fs.stat("/").await?.is_dir());
    ensure!(fs.stat("/dev/null").await?.file_type == FileType::CharDevice);
    let age = found
        .modified
        .context("no time")?
        .elapsed()
        .unwrap_or_default();
    ensure!(age < Duration::from_mins(1), "{age:?}");
    fs.chmod(&path, 0o705).await?;
    ensure!(fs.stat(&path).await?.mode & 0o777 == 0o705);
    fs.chown(&path, Some(1000), None).await?;
    let error = fs.chown(&path, Some(0), Some(0)).await.err();
    let error = error.context("it was given away")?;
    ensure!(
        error.kind() == std::io::ErrorKind::PermissionDenied,
        "{error:?}"
    );
    fs.truncate(&path, 2).await?;
    ensure!(fs.read_text_file(&path).await? == "fo");
    let (accessed, modified) = moments();
    fs.utime(&path, accessed, modified).await?;
    let found = fs.stat(&path).await?;
    ensure!(found.modified == Some(modified), "{found:?}");
    ensure!(found.accessed == Some(accessed), "{found:?}");
    let before = fs.umask(Some(0o077)).await?;
    ensure!(fs.umask(Some(before)).await? == 0o077);
    ensure!(fs.umask(None).await? == before);
    Ok(())
}

fn moments() -> (std::time::SystemTime, std::time::SystemTime) {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    (at(1_577_836_800), at(1_609_459_200))
}

pub(crate) async fn temporary(rig: Rig) -> anyhow::Result<()> {
    let options = MakeTempOptions::new().prefix("p").suffix("s");
    let directory = rig.fs.make_temp_dir(options).await?;
    ensure!(
        directory.starts_with("/tmp/p") && directory.ends_with('s'),
        "{directory}"
    );
    let options = MakeTempOptions::new().dir(&directory);
    let file = rig.fs.make_temp_file(options).await?;
    ensure!(file.starts_with(&directory) && rig.fs.stat(&file).await?.is_file());
    Ok(())
}

async fn walked(fs: &Fs, root: &str, options: WalkOptions) -> anyhow::Result<Vec<String>> {
    let found = fs.walk_with(root, options).await?.all().await?;
    let mut names: Vec<_> = found.into_iter().map(|entry| entry.name).collect();
    names.sort();
    Ok(names)
}

pub(crate) async fn walk(rig: Rig) -> anyhow::Result<()> {
    let fs = &rig.fs;
    let root = tree(&rig).await?;
    let mut walk = fs.walk(&root).await?;
    let mut count = 0;
    while let Some(entry) = walk.next().await? {
        ensure!(entry.path.starts_with(&root), "{entry:?}");
        count += 1;
    }
    ensure!(count == 5, "{count}");
    let pattern = |source: &str| Pattern {
        source: source.to_owned(),
        flags: String::new(),
    };
    let plain = WalkOptions::new;
    let cases = [
        (
            plain().max_depth(1).include_dirs(false),
            vec!["a.txt", "link"],
        ),
        (
            plain()
                .include_files(false)
                .include_symlinks(false)
                .max_depth(1),
            vec!["", "sub"],
        ),
        (
            plain().exts(vec![".py".to_owned()]).include_dirs(false),
            vec!["b.py"],
        ),
        (plain().matching(vec![pattern("sub/")]), vec!["b.py"]),
        (
            plain()
                .skip(vec![pattern("sub"), pattern("link")])
                .include_dirs(false),
            vec!["a.txt"],
        ),
        (
            plain()
                .follow_symlinks(true)
                .canonicalize(false)
                .include_dirs(false),
            vec!["a.txt", "b.py", "link"],
        ),
    ];
    let base = root.rsplit('/').next().unwrap_or_default();
    for (options, expected) in cases {
        let mut expected: Vec<String> = expected
            .into_iter()
            .map(|name| if name.is_empty() { base } else { name }.to_owned())
            .collect();
        expected.sort();
        let names = walked(fs, &root, options.clone()).await?;
        ensure!(names == expected, "{options:?}: {names:?}");
    }
    let error = fs.walk("/nowhere").await;
    let error = match error {
        Ok(mut walk) => walk.next().await.err(),
        Err(error) => Some(error),
    };
    ensure!(error.context("nothing to walk")?.is_not_found());
    Ok(())
}

pub(crate) async fn glob(rig: Rig) -> anyhow::Result<()> {
    let fs = &rig.fs;
    let root = tree(&rig).await?;
    let found = fs
        .expand_glob(&format!("{root}/*.txt"))
        .await?
        .all()
        .await?;
    ensure!(found.len() == 1, "{found:?}");
    let options = ExpandGlobOptions::new()
        .root(&root)
        .include_dirs(false)
        .exclude(vec!["sub".to_owned()])
        .follow_symlinks(false)
        .canonicalize(true)
        .extended(true)
        .globstar(true)
        .case_insensitive(true);
    let found = fs.expand_glob_with("**/*.{TXT,PY}", options).await?;
    let names: Vec<_> = found.all().await?.into_iter().map(|e| e.name).collect();
    ensure!(names == ["a.txt"], "{names:?}");
    Ok(())
}

pub(crate) async fn handles(rig: Rig) -> anyhow::Result<()> {
    let fs = &rig.fs;
    let path = rig.file("text").await?;
    let options = OpenOptions::new().read(true).write(true);
    let mut file = fs.open_with(&path, options).await?;
    ensure!(file.path() == path);
    ensure!(file.read(9).await?.as_deref() == Some("text".as_bytes()));
    ensure!(file.read(9).await?.is_none());
    ensure!(file.seek(SeekFrom::End(-1)).await? == 3);
    ensure!(file.seek(SeekFrom::Current(-1)).await? == 2);
    file.write_all(&vec![b'x'; 1_200_000]).await?;
    ensure!(file.seek(SeekFrom::Start(2)).await? == 2);
    ensure!(file.write(b"yy").await? == 2);
    file.sync().await?;
    file.sync_data().await?;
    ensure!(file.stat().await?.len == 1_200_002);
    file.truncate(5).await?;
    let (accessed, modified) = moments();
    file.utime(accessed, modified).await?;
    ensure!(file.stat().await?.modified == Some(modified));
    file.close().await?;
    ensure!(fs.read_text_file(&path).await? == "teyyx");
    let mut file = fs.create(&path).await?;
    file.write_all(b"new").await?;
    file.seek(SeekFrom::Start(0)).await?;
    ensure!(file.read(9).await?.as_deref() == Some("new".as_bytes()));
    // Closed as well, without being waited for.
    drop(file);
    let end = OpenOptions::new()
        .append(true)
        .truncate(false)
        .create(true)
        .mode(0o600);
    let mut file = fs.open_with(&path, end).await?;
    file.write_all(b"er").await?;
    file.close().await?;
    let mut file = fs.open(&path).await?;
    ensure!(file.read(9).await?.as_deref() == Some("newer".as_bytes()));
    ensure!(file.write(b"x").await.is_err());
    let fresh = OpenOptions::new().write(true).create_new(true);
    ensure!(fs.open_with(&path, fresh).await.is_err());
    Ok(())
}

pub(crate) async fn locks(rig: Rig) -> anyhow::Result<()> {
    let path = rig.file("").await?;
    let write = || OpenOptions::new().write(true);
    let first = rig.fs.open_with(&path, write()).await?;
    let second = rig.fs.open_with(&path, write()).await?;
    first.lock().await?;
    let is_given_back = std::sync::atomic::AtomicBool::new(false);
    let waiting = async {
        second.lock_shared().await?;
        let order = std::sync::atomic::Ordering::SeqCst;
        ensure!(is_given_back.load(order), "both have the lock");
        Ok(())
    };
    let giving = async {
        // Calls on the other file go on.
        first.stat().await?;
        is_given_back.store(true, std::sync::atomic::Ordering::SeqCst);
        Ok(first.unlock().await?)
    };
    tokio::try_join!(waiting, giving)?;
    first.lock_shared().await?;
    first.close().await?;
    second.close().await?;
    Ok(())
}

pub(crate) async fn copies(rig: Rig) -> anyhow::Result<()> {
    let fs = &rig.fs;
    let here = tempfile::tempdir()?;
    let up = here.path().join("up");
    fs_err::create_dir_all(up.join("sub"))?;
    fs_err::write(up.join("sub/file"), vec![255; 300_000])?;
    fs_err::os::unix::fs::symlink("sub/file", up.join("link"))?;
    let target = rig.directory().await?;
    let up = up.to_str().context("a path is text")?;
    let copied = fs.upload(up, &target).await?;
    let counts = (copied.files, copied.directories, copied.links, copied.bytes);
    ensure!(counts == (1, 2, 1, 300_000), "{copied:?}");
    ensure!(fs.read_file(&format!("{target}/up/link")).await?.len() == 300_000);
    let down = here.path().join("down");
    let path = down.to_str().context("a path is text")?;
    let copied = fs.download(&format!("{target}/up"), path).await?;
    ensure!(copied.bytes == 300_000, "{copied:?}");
    ensure!(fs_err::read(down.join("sub/file"))?.len() == 300_000);
    ensure!(fs_err::read_link(down.join("link"))?.as_os_str() == "sub/file");
    // More of them than one connection keeps waiting.
    let make = format!("mkdir -p {target}/many/.d && cd {target}/many && touch $(seq 100) .d/x");
    ensure!(rig.sandbox.sh(&make).status().await?.success);
    let copied = fs.download(&format!("{target}/many"), path).await?;
    ensure!((copied.files, copied.directories) == (101, 2), "{copied:?}");
    // Within one sandbox, and telling what happens.
    let (from, to) = (format!("{target}/up"), format!("{target}/again"));
    let mut told = 0;
    copy_with(
        CopyPlace::Sandbox(fs, &from),
        CopyPlace::Sandbox(fs, &to),
        |event| told += u32::from(matches!(event, CopyEvent::File(_))),
    )
    .await?;
    ensure!(told == 1 && fs.read_link(&format!("{to}/link")).await? == "sub/file");
    let nothing = copy(CopyPlace::Here("/nowhere"), CopyPlace::Sandbox(fs, "/tmp"));
    ensure!(nothing.await.is_err());
    Ok(())
}

pub(crate) async fn changes(rig: Rig) -> anyhow::Result<()> {
    let root = rig.directory().await?;
    rig.fs.mkdir(&format!("{root}/sub")).await?;
    let mut near = rig.sandbox.watch(&root).await?;
    let mut all = rig.sandbox.watch_all(&root).await?;
    let names = ["sub/deep", "near"].map(|name| format!("{root}/{name}"));
    for name in &names {
        rig.fs.write_text_file(name, "x").await?;
    }
    for (changes, expected) in [(&mut near, &names[1]), (&mut all, &names[0])] {
        loop {
            let change = changes.next().await?.context("the watch ended")?;
            ensure!(change.kind != FileChangeKind::Missed, "{change:?}");
            if change.kind == FileChangeKind::Created && change.path == *expected {
                break;
            }
        }
    }
    Ok(())
}
