//! Walks and globs against what Deno's standard library itself answered for the
//! same trees; `fixtures/generate.mjs` says how to ask it again.

use std::path::Path;

use serde_json::Value;
use tombolo_guest_proto::v1::{ExpandGlobRequest, Regex, WalkEntry, WalkEntryBatch, WalkRequest};
use tonic::{Status, Streaming};

use crate::support::{Guest, errno, failure, within};

const RECORDED: &str = include_str!("fixtures/walks.json");

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(text).collect()
}

fn flag(options: &Value, name: &str, default: bool) -> bool {
    options[name].as_bool().unwrap_or(default)
}

fn regexes(value: &Value) -> Vec<Regex> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|regex| Regex {
            source: text(&regex[0]),
            flags: text(&regex[1]),
        })
        .collect()
}

/// Makes the tree that the answers were recorded on.
async fn plant(guest: &Guest, tree: &Value) {
    let home = &guest.home;
    for entry in texts(tree) {
        let (name, target) = match entry.split_once("->") {
            Some((name, target)) => (name.to_owned(), Some(target.to_owned())),
            None => (entry.clone(), None),
        };
        let file = home.join(&name);
        fs_err::create_dir_all(file.parent().unwrap()).unwrap();
        if let Some(target) = target {
            std::os::unix::fs::symlink(target, file).unwrap();
        } else if name.ends_with('/') {
            fs_err::create_dir_all(file).unwrap();
        } else if let Some(pipe) = name.strip_suffix('|') {
            let made = guest.sh(&format!("mkfifo {pipe}")).await;
            assert_eq!(made.reply.code, 0, "{made:?}");
        } else {
            fs_err::write(file, "").unwrap();
        }
    }
}

fn portable(entry: &WalkEntry, home: &Path) -> Value {
    let kinds = [
        (entry.is_file, "f"),
        (entry.is_directory, "d"),
        (entry.is_symlink, "l"),
    ];
    let kinds = kinds.iter().filter(|(is, _)| *is).map(|(_, kind)| *kind);
    let path = entry.path.replace(home.to_str().unwrap(), "$HOME");
    // The home's own name differs from place to place.
    serde_json::json!([path, entry.name, kinds.collect::<String>()])
}

async fn collect(
    batches: Result<tonic::Response<Streaming<WalkEntryBatch>>, Status>,
    home: &Path,
) -> Result<Vec<Value>, Status> {
    let mut batches = batches?.into_inner();
    let mut entries = Vec::new();
    while let Some(batch) = within(batches.message()).await? {
        assert!(!batch.entries.is_empty());
        entries.extend(batch.entries.iter().map(|entry| portable(entry, home)));
    }
    Ok(entries)
}

/// Both sides of a comparison without the name of the home, which is its
/// directory's and differs from place to place.
fn without_home_name(entries: Vec<Value>) -> Vec<Value> {
    let strip = |entry: Value| match entry[0].as_str() {
        Some("$HOME" | "$HOME/") => serde_json::json!([entry[0], "", entry[2]]),
        _ => entry,
    };
    entries.into_iter().map(strip).collect()
}

fn check(case: &Value, answer: Result<Vec<Value>, Status>, ordered: bool) {
    match case["error"].as_str() {
        Some("ENOENT") => assert_eq!(errno(&answer), 2, "{case}"),
        Some("ENOTDIR") => assert_eq!(errno(&answer), 20, "{case}"),
        Some("SyntaxError") => assert_eq!(failure(answer).kind, "bad_regex", "{case}"),
        Some(other) => panic!("no such error yet: {other}"),
        None => {
            let expected = case["entries"].as_array().unwrap().clone();
            let mut expected = without_home_name(expected);
            let answer = answer.unwrap_or_else(|status| panic!("{status:?} for {case}"));
            let mut answer = without_home_name(answer);
            if !ordered {
                let by_text = |entry: &Value| entry.to_string();
                expected.sort_by_key(by_text);
                answer.sort_by_key(by_text);
            }
            let asked = serde_json::json!([case["root"], case["glob"], case["options"]]);
            assert_eq!(answer, expected, "{asked}");
        }
    }
}

#[tokio::test]
async fn walks_as_the_library_does() {
    let guest = Guest::start().await;
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    plant(&guest, &recorded["tree"]).await;
    let home = guest.home.to_str().unwrap();
    for case in recorded["walks"].as_array().unwrap() {
        let options = &case["options"];
        let max_depth = options["maxDepth"].as_u64();
        let request = WalkRequest {
            path: text(&case["root"]).replace("$HOME", home),
            max_depth: max_depth.map(|depth| u32::try_from(depth).unwrap()),
            include_files: flag(options, "includeFiles", true),
            include_dirs: flag(options, "includeDirs", true),
            include_symlinks: flag(options, "includeSymlinks", true),
            follow_symlinks: flag(options, "followSymlinks", false),
            canonicalize: flag(options, "canonicalize", true),
            exts: texts(&options["exts"]),
            has_exts: options["exts"].is_array(),
            r#match: regexes(&options["match"]),
            has_match: options["match"].is_array(),
            skip: regexes(&options["skip"]),
        };
        let batches = within(guest.client.clone().walk(request)).await;
        check(case, collect(batches, &guest.home).await, false);
    }
}

#[tokio::test]
async fn expands_globs_as_the_library_does() {
    let guest = Guest::start().await;
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    plant(&guest, &recorded["tree"]).await;
    let home = guest.home.to_str().unwrap();
    let here = |text: String| text.replace("$HOME", home);
    for case in recorded["globs"].as_array().unwrap() {
        let options = &case["options"];
        let root = options["root"].as_str().unwrap_or_default();
        let request = ExpandGlobRequest {
            glob: here(text(&case["glob"])),
            root: here(root.to_owned()),
            exclude: texts(&options["exclude"]).into_iter().map(here).collect(),
            include_dirs: flag(options, "includeDirs", true),
            follow_symlinks: flag(options, "followSymlinks", false),
            canonicalize: flag(options, "canonicalize", true),
            extended: flag(options, "extended", true),
            globstar: flag(options, "globstar", true),
            case_insensitive: flag(options, "caseInsensitive", false),
        };
        let batches = within(guest.client.clone().expand_glob(request)).await;
        check(case, collect(batches, &guest.home).await, true);
    }
}

#[tokio::test]
async fn a_walk_in_circles_ends() {
    let guest = Guest::start().await;
    guest.sh("mkdir d; ln -s .. d/up").await;
    let request = WalkRequest {
        path: "d".into(),
        include_dirs: true,
        follow_symlinks: true,
        canonicalize: true,
        ..WalkRequest::default()
    };
    let batches = within(guest.client.clone().walk(request)).await;
    let error = failure(collect(batches, &guest.home).await);
    assert_eq!(error.errno, rustix::io::Errno::LOOP.raw_os_error());
}

#[tokio::test]
async fn a_large_tree_comes_in_batches() {
    let guest = Guest::start().await;
    guest
        .sh("for d in $(seq 20); do mkdir $d; (cd $d; seq 100 | xargs touch); done")
        .await;
    let request = WalkRequest {
        path: ".".into(),
        include_files: true,
        include_dirs: true,
        ..WalkRequest::default()
    };
    let batches = within(guest.client.clone().walk(request)).await;
    let entries = collect(batches, &guest.home).await.unwrap();
    assert_eq!(entries.len(), 1 + 20 + 20 * 100);
}
