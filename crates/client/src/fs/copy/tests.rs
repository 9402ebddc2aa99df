//! The rules that keep a copy below its destination.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::local::{self, LocalWalk, LocalWriter};
use super::remote::is_name;
use super::side::{Kind, join};
use super::{name_of, printable};

#[test]
fn names_from_a_sandbox_lead_nowhere_else() {
    for (name, expected) in [
        ("a", true),
        ("..a b", true),
        ("", false),
        (".", false),
        ("..", false),
        ("/", false),
        ("/a", false),
        ("a/", false),
        ("a/.", false),
        ("a/b", false),
        ("a/../../b", false),
    ] {
        assert_eq!(is_name(name), expected, "{name}");
    }
}

#[test]
fn copies_are_called_as_their_source() {
    for (path, expected) in [
        ("a", Some("a")),
        ("a/b/", Some("b")),
        ("/a/b", Some("b")),
        ("a/.", None),
        (".", None),
        ("..", None),
        ("a/..", None),
        ("/", None),
        ("", None),
    ] {
        assert_eq!(name_of(path), expected, "{path}");
    }
}

#[test]
fn what_a_sandbox_chose_does_nothing_to_a_terminal() {
    assert_eq!(printable("a b\u{1b}[2J\u{e4}"), "a b\\u{1b}[2J\u{e4}");
}

#[test]
fn paths_are_joined_as_text() {
    for (base, relative, expected) in [
        ("a", "", "a"),
        ("a/", "b", "a/b"),
        ("/", "b/c", "/b/c"),
        (".", "b", "./b"),
    ] {
        assert_eq!(join(base, Path::new(relative)), expected);
    }
}

#[test]
fn a_walk_names_directories_before_what_is_in_them() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs_err::create_dir_all(root.join("b/c")).unwrap();
    fs_err::write(root.join("b/c/file"), "12345").unwrap();
    fs_err::write(root.join("a"), "").unwrap();
    fs_err::os::unix::fs::symlink("nowhere", root.join("z")).unwrap();
    let mut walk = LocalWalk::new(root.to_str().unwrap()).unwrap();
    let mut seen = Vec::new();
    while let Some(entry) = walk.next().unwrap() {
        let what = match entry.kind {
            Kind::Directory { .. } => "d".to_owned(),
            Kind::File { size, .. } => format!("f{size}"),
            Kind::Link { to } => format!("->{to}"),
            Kind::Other => "?".to_owned(),
        };
        seen.push(format!("{}:{what}", entry.relative.display()));
    }
    assert_eq!(
        seen,
        [":d", "a:f0", "b:d", "b/c:d", "b/c/file:f5", "z:->nowhere"]
    );
}

#[tokio::test]
async fn a_file_replaces_a_link_and_does_not_follow_it() {
    let directory = tempfile::tempdir().unwrap();
    let victim = directory.path().join("victim");
    fs_err::write(&victim, "precious").unwrap();
    let path = directory.path().join("copy");
    fs_err::os::unix::fs::symlink(&victim, &path).unwrap();
    let mut writer = LocalWriter::open(path.to_str().unwrap(), 0o4751)
        .await
        .unwrap();
    writer.write(b"new").await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(fs_err::read_to_string(&victim).unwrap(), "precious");
    let metadata = fs_err::symlink_metadata(&path).unwrap();
    assert!(metadata.is_file());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o751);
    assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn what_is_no_file_is_written_through() {
    use std::os::unix::fs::FileTypeExt as _;

    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    fs_err::os::unix::fs::symlink("/dev/null", &link).unwrap();
    let mut writer = LocalWriter::open_named(link.to_str().unwrap(), 0o644)
        .await
        .unwrap();
    writer.write(b"gone").await.unwrap();
    writer.finish().await.unwrap();
    assert!(fs_err::symlink_metadata(&link).unwrap().is_symlink());
    assert!(
        fs_err::metadata(&link)
            .unwrap()
            .file_type()
            .is_char_device()
    );
    // As `/dev/stdout` is, if it was redirected into a file.
    let file = fs_err::File::create(directory.path().join("file")).unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(file.file());
    for _twice in 0..2 {
        let named = format!("/dev/fd/{descriptor}");
        let mut writer = LocalWriter::open_named(&named, 0o644).await.unwrap();
        writer.write(b"new").await.unwrap();
        writer.finish().await.unwrap();
    }
    assert_eq!(fs_err::read_to_string(file.path()).unwrap(), "newnew");
    // A file of that name in a directory that is copied replaces it.
    let path = link.to_str().unwrap();
    let writer = LocalWriter::open(path, 0o644).await.unwrap();
    writer.finish().await.unwrap();
    assert!(fs_err::symlink_metadata(&link).unwrap().is_file());
}

#[tokio::test]
async fn a_write_that_breaks_off_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copy");
    let mut writer = LocalWriter::open(path.to_str().unwrap(), 0o644)
        .await
        .unwrap();
    writer.write(b"half").await.unwrap();
    drop(writer);
    assert_eq!(fs_err::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_link_in_the_place_of_a_directory_is_not_entered() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    fs_err::create_dir(&outside).unwrap();
    let path = directory.path().join("inside");
    fs_err::os::unix::fs::symlink(&outside, &path).unwrap();
    let path = path.to_str().unwrap();
    assert!(local::make_directory(path, 0o755, false).is_err());
    // The destination itself was named by the person.
    assert!(local::make_directory(path, 0o755, true).is_ok());
}

#[test]
fn a_directory_can_be_filled_whatever_its_mode() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("d");
    local::make_directory(path.to_str().unwrap(), 0o2555, false).unwrap();
    let mode = fs_err::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}
