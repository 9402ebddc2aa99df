//! File operations by path.

use rustix::io::Errno;
use tombolo_guest_proto::v1::{
    ChmodRequest, ChownRequest, DirEntry, FileInfo, MakeTempRequest, MkdirRequest, RemoveRequest,
    StatRequest, TruncateRequest, TwoPathsRequest, UtimeRequest, WriteFileOpen,
};
use tonic::Status;

use crate::support::{Guest, create, errno, failure, is_root, path, within};

fn two(from: &str, to: &str) -> TwoPathsRequest {
    TwoPathsRequest {
        from: from.into(),
        to: to.into(),
    }
}

async fn lstat(guest: &Guest, path: &str) -> Result<FileInfo, Status> {
    let request = StatRequest {
        path: path.into(),
        follow_symlinks: false,
    };
    let reply = within(guest.client.clone().stat(request)).await;
    reply.map(tonic::Response::into_inner)
}

async fn mode(guest: &Guest, path: &str) -> u32 {
    lstat(guest, path).await.unwrap().mode & 0o7777
}

async fn list(guest: &Guest, directory: &str) -> Result<Vec<DirEntry>, Status> {
    within(async {
        let mut batches = guest.client.clone().read_dir(path(directory)).await?;
        let mut entries = Vec::new();
        while let Some(batch) = batches.get_mut().message().await? {
            assert!(!batch.entries.is_empty());
            entries.extend(batch.entries);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    })
    .await
}

/// As a shell would name what is at `path`, its content with it.
async fn tree(guest: &Guest) -> String {
    let script = "find . -mindepth 1 | sort | while read -r f; do \
        if test -L \"$f\"; then echo \"$f -> $(readlink \"$f\")\"; \
        elif test -d \"$f\"; then echo \"$f/\"; else echo \"$f=$(cat \"$f\")\"; fi; done";
    guest.sh(script).await.stdout
}

#[tokio::test]
async fn writes_as_the_options_say() {
    let guest = Guest::start().await;
    let exists = Errno::EXIST.raw_os_error();
    let missing = Errno::NOENT.raw_os_error();
    let open = |append, create, create_new, mode| WriteFileOpen {
        path: "f".into(),
        append,
        create,
        create_new,
        mode,
    };
    // Each on what the ones before left.
    let cases = [
        (open(false, false, false, None), "no", missing, ""),
        (open(true, false, false, None), "no", missing, ""),
        (open(false, true, false, None), "one", 0, "one"),
        (open(false, true, false, Some(0o600)), "2", 0, "2"),
        (open(true, true, false, None), "+3", 0, "2+3"),
        (open(true, false, false, Some(0o640)), "", 0, "2+3"),
        (open(false, true, true, None), "no", exists, "2+3"),
        (open(false, false, false, None), "four", 0, "four"),
    ];
    for (open, data, expected, content) in cases {
        let written = guest.write(open.clone(), data.as_bytes()).await;
        assert_eq!(errno(&written), expected, "{open:?}");
        if expected != missing {
            assert_eq!(guest.read_text("f").await, content, "{open:?}");
        }
    }
    assert_eq!(mode(&guest, "f").await, 0o640);
    let new = WriteFileOpen {
        path: "new".into(),
        create_new: true,
        mode: Some(0o777),
        ..WriteFileOpen::default()
    };
    guest.write(new, b"x").await.unwrap();
    assert_eq!(mode(&guest, "new").await, 0o777, "whatever the mask");
}

#[tokio::test]
async fn moves_files_of_any_size() {
    let guest = Guest::start().await;
    for len in [0_u64, 1, 65_535, 65_536, 65_537, 262_144, 3_000_000] {
        let bytes = (0..len).map(|at| u8::try_from(at % 251).unwrap());
        let data: Vec<u8> = bytes.collect();
        guest.write(create("f"), &data).await.unwrap();
        let read = guest.read("f").await.unwrap();
        assert!(read == data, "{len} bytes came back as {}", read.len());
        let size = lstat(&guest, "f").await.unwrap().size;
        assert_eq!(size, len);
    }
    let status = guest.read_text("/proc/self/status").await;
    assert!(status.contains("VmRSS"), "{status}");
}

#[tokio::test]
async fn names_what_fails_and_where() {
    let guest = Guest::start().await;
    guest
        .sh("mkdir d; echo x > f; ln -s loop loop; mkdir ro; chmod 500 ro")
        .await;
    let long = "x".repeat(300);
    let deep = "d/".repeat(3000);
    let mut cases = vec![
        ("nope", Errno::NOENT),
        ("f/x", Errno::NOTDIR),
        ("loop", Errno::LOOP),
        (&long, Errno::NAMETOOLONG),
        (&deep, Errno::NAMETOOLONG),
        ("d", Errno::ISDIR),
    ];
    if is_root() {
        cases.push(("/etc/shadow", Errno::ACCESS));
    }
    for (name, expected) in cases {
        let status = guest.read(name).await.unwrap_err();
        let shown = name
            .get(..1024)
            .map_or(name.to_owned(), |name| format!("{name}…"));
        let end = format!("(os error {}): readfile '{shown}'", expected.raw_os_error());
        assert!(status.message().ends_with(&end), "{}", status.message());
        let error = failure::<()>(Err(status));
        let got = (error.errno, error.operation.as_str(), error.path);
        assert_eq!(got, (expected.raw_os_error(), "readfile", shown));
    }
    let empty = guest.read("").await;
    assert_eq!(errno(&empty), Errno::NOENT.raw_os_error());
    let error = failure(guest.read("a\0b").await);
    assert_eq!((error.errno, error.kind.as_str()), (0, "invalid_argument"));
    let written = guest.write(create("ro/new"), b"x").await;
    assert_eq!(errno(&written), Errno::ACCESS.raw_os_error());
    let renamed = within(guest.client.clone().rename(two("nope", "d"))).await;
    let message = renamed.unwrap_err().message().to_owned();
    assert_eq!(
        message,
        "No such file or directory (os error 2): rename 'nope' -> 'd'"
    );
}

#[tokio::test]
async fn makes_directories() {
    let guest = Guest::start().await;
    let mkdir = async |path: &str, recursive, mode| {
        let request = MkdirRequest {
            path: path.into(),
            recursive,
            mode,
        };
        within(guest.client.clone().mkdir(request)).await
    };
    guest.sh("echo > f").await;
    let cases = [
        ("a", false, None, Ok(0o755)),
        ("a", false, None, Err(Errno::EXIST)),
        ("a", true, None, Ok(0o755)),
        ("b/c/d", false, None, Err(Errno::NOENT)),
        ("b/c/d", true, Some(0o700), Ok(0o700)),
        ("f", false, None, Err(Errno::EXIST)),
        ("f", true, None, Err(Errno::EXIST)),
        ("f/x", true, None, Err(Errno::NOTDIR)),
        ("m", false, Some(0o777), Ok(0o755)),
    ];
    for (name, recursive, bits, expected) in cases {
        let made = mkdir(name, recursive, bits).await;
        match expected {
            Ok(expected) => {
                made.unwrap();
                assert_eq!(mode(&guest, name).await, expected, "{name}");
            }
            Err(expected) => assert_eq!(errno(&made), expected.raw_os_error(), "{name}"),
        }
    }
}

#[tokio::test]
async fn removes_what_is_named_and_no_more() {
    let guest = Guest::start().await;
    let script = "mkdir -p keep/sub full/sub empty; echo x > keep/f; echo y > full/sub/f; \
        ln -s keep link; ln -s ../../keep full/sub/out; ln -s nowhere dangling; echo > f; \
        mkfifo fifo";
    guest.sh(script).await;
    let remove = async |path: &str, recursive| {
        let request = RemoveRequest {
            path: path.into(),
            recursive,
        };
        errno(&within(guest.client.clone().remove(request)).await)
    };
    let cases = [
        ("nope", false, Errno::NOENT.raw_os_error()),
        ("nope", true, Errno::NOENT.raw_os_error()),
        ("full", false, Errno::NOTEMPTY.raw_os_error()),
        ("full", true, 0),
        ("empty", false, 0),
        ("link", true, 0),
        ("dangling", false, 0),
        ("f", true, 0),
        ("fifo", false, 0),
    ];
    for (path, recursive, expected) in cases {
        assert_eq!(
            remove(path, recursive).await,
            expected,
            "{path} {recursive}"
        );
    }
    assert_eq!(tree(&guest).await, "./keep/\n./keep/f=x\n./keep/sub/\n");
}

#[tokio::test]
async fn links_copies_and_renames() {
    let guest = Guest::start().await;
    let mut client = guest.client.clone();
    guest
        .sh("mkdir d; echo one > f; chmod 751 f; echo longer > old")
        .await;
    client.symlink(two("../f", "d/s")).await.unwrap();
    client.symlink(two("any \u{e9} text", "t")).await.unwrap();
    client.link(two("f", "hard")).await.unwrap();
    client.copy_file(two("d/s", "copy")).await.unwrap();
    client.copy_file(two("f", "old")).await.unwrap();
    client.copy_file(two("f", "hard")).await.unwrap();
    client.rename(two("hard", "d/moved")).await.unwrap();
    let expected = "./copy=one\n./d/\n./d/moved=one\n./d/s -> ../f\n./f=one\n./old=one\n\
        ./t -> any \u{e9} text\n";
    assert_eq!(tree(&guest).await, expected);
    assert_eq!(mode(&guest, "copy").await, 0o751);
    let link = client.read_link(path("t")).await.unwrap().into_inner().path;
    assert_eq!(link, "any \u{e9} text");
    let real = client
        .real_path(path("d/../d/s"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(real.path, format!("{}/f", guest.home.display()));
    let real = client.real_path(path("t")).await;
    assert_eq!(errno(&real), Errno::NOENT.raw_os_error());
    let link = client.read_link(path("f")).await;
    assert_eq!(errno(&link), Errno::INVAL.raw_os_error());
    let again = client.symlink(two("x", "t")).await;
    assert_eq!(errno(&again), Errno::EXIST.raw_os_error());
}

#[tokio::test]
async fn tells_what_a_file_is() {
    let guest = Guest::start().await;
    guest
        .sh("echo hello > f; ln -s f s; mkfifo p; chmod 4711 f; ln f f2")
        .await;
    let mut client = guest.client.clone();
    let times = UtimeRequest {
        path: "f".into(),
        atime_nanos: -1_500_000_001,
        mtime_nanos: 4_000_000_000_123_456_789,
    };
    client.utime(times).await.unwrap();
    let followed = StatRequest {
        path: "s".into(),
        follow_symlinks: true,
    };
    let info = client.stat(followed).await.unwrap().into_inner();
    assert_eq!(info.mode, 0o104_711);
    assert_eq!((info.size, info.nlink), (6, 2));
    assert_eq!(info.atime_nanos, -1_500_000_001);
    assert_eq!(info.mtime_nanos, 4_000_000_000_123_456_789);
    let shown = guest.sh("stat -c '%i %d %u %g %o %b %Z' f").await.stdout;
    let seconds = info.ctime_nanos / 1_000_000_000;
    let expected = [info.ino, info.dev, info.uid.into(), info.gid.into()];
    let expected = expected.map(|field| field.to_string()).join(" ");
    let expected = format!("{expected} {} {} {seconds}", info.blksize, info.blocks);
    assert_eq!(shown.trim(), expected);
    assert!(info.birthtime_nanos > 0 && info.birthtime_nanos <= info.ctime_nanos);
    let link = lstat(&guest, "s").await.unwrap();
    assert_eq!((link.mode >> 12, link.size), (0o12, 1));
    assert_eq!(lstat(&guest, "p").await.unwrap().mode >> 12, 0o1);
    let null = lstat(&guest, "/dev/null").await.unwrap();
    assert_eq!((null.mode >> 12, null.rdev), (0o2, 0x103));
}

#[tokio::test]
async fn changes_modes_owners_and_lengths() {
    let guest = Guest::start().await;
    guest.sh("echo hello > f; ln -s f s").await;
    let mut client = guest.client.clone();
    let chmod = |mode| ChmodRequest {
        path: "s".into(),
        mode,
    };
    client.chmod(chmod(0o100_642)).await.unwrap();
    assert_eq!(mode(&guest, "f").await, 0o642);
    let truncate = |length| TruncateRequest {
        path: "s".into(),
        length,
    };
    client.truncate(truncate(2)).await.unwrap();
    assert_eq!(guest.read_text("f").await, "he");
    client.truncate(truncate(4)).await.unwrap();
    assert_eq!(guest.read_text("f").await, "he\0\0");
    let info = lstat(&guest, "f").await.unwrap();
    let chown = |uid, gid| ChownRequest {
        path: "f".into(),
        uid,
        gid,
    };
    client.chown(chown(None, None)).await.unwrap();
    client
        .chown(chown(Some(info.uid), Some(info.gid)))
        .await
        .unwrap();
    let cases = [
        (chown(Some(info.uid + 1), None), Errno::PERM),
        (chown(None, Some(0)), Errno::PERM),
        (chown(Some(u32::MAX), None), Errno::INVAL),
    ];
    for (request, expected) in cases {
        let changed = client.chown(request.clone()).await;
        assert_eq!(errno(&changed), expected.raw_os_error(), "{request:?}");
    }
    if is_root() {
        let request = ChmodRequest {
            path: "/etc/passwd".into(),
            mode: 0o777,
        };
        let changed = client.chmod(request).await;
        assert_eq!(errno(&changed), Errno::PERM.raw_os_error());
    }
}

#[tokio::test]
async fn lists_directories_of_any_size() {
    let guest = Guest::start().await;
    let script = "mkdir d many; cd d; echo > f; mkdir sub; ln -s f s; mkfifo p; cd ../many; \
        seq 1 2000 | xargs touch";
    guest.sh(script).await;
    let kinds = list(&guest, "d").await.unwrap();
    let kinds: Vec<_> = kinds
        .into_iter()
        .map(|entry| {
            let kinds = [entry.is_file, entry.is_directory, entry.is_symlink];
            (entry.name, kinds)
        })
        .collect();
    let expected = [
        ("f", [true, false, false]),
        ("p", [false, false, false]),
        ("s", [false, false, true]),
        ("sub", [false, true, false]),
    ];
    assert_eq!(
        kinds,
        expected.map(|(name, kinds)| (name.to_owned(), kinds))
    );
    assert_eq!(list(&guest, "many").await.unwrap().len(), 2000);
    assert!(list(&guest, "d/sub").await.unwrap().is_empty());
    let not_one = list(&guest, "d/f").await;
    assert_eq!(errno(&not_one), Errno::NOTDIR.raw_os_error());
}

#[tokio::test]
async fn makes_temporary_files_that_are_private() {
    let guest = Guest::start().await;
    guest.sh("mkdir d").await;
    let make = async |directory, dir: &str, prefix: &str, suffix: &str| {
        let request = MakeTempRequest {
            directory,
            dir: dir.into(),
            prefix: prefix.into(),
            suffix: suffix.into(),
        };
        let made = within(guest.client.clone().make_temp(request)).await;
        made.map(|made| made.into_inner().path)
    };
    let home = guest.home.display().to_string();
    for (directory, bits) in [(true, 0o700), (false, 0o600)] {
        let first = make(directory, "d", "pre-", "-suf").await.unwrap();
        let second = make(directory, &home, "", "").await.unwrap();
        assert_ne!(first, second);
        assert!(
            first.starts_with("d/pre-") && first.ends_with("-suf"),
            "{first}"
        );
        assert!(second.starts_with(&format!("{home}/")), "{second}");
        for made in [&first, &second] {
            assert_eq!(mode(&guest, made).await, bits);
            assert_eq!(
                lstat(&guest, made).await.unwrap().mode >> 14 == 1,
                directory
            );
        }
    }
    let missing = make(false, "nope", "", "").await;
    assert_eq!(errno(&missing), Errno::NOENT.raw_os_error());
    for part in ["a/b", "../x", "\0"] {
        let error = failure(make(false, "d", part, "").await);
        assert_eq!(error.kind, "invalid_argument", "{part:?}");
    }
    let default = make(false, "", "tombolo-agent-test-", "").await.unwrap();
    assert!(default.starts_with("/tmp/"), "{default}");
    guest.sh(&format!("rm {default}")).await;
}
