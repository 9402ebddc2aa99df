//! Walks against a model that has the whole tree in memory.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::collection::btree_map;
use proptest::prelude::*;

use tombolo_guest_proto::v1::Regex;

use super::*;

/// A directory by its entries; a file is `None`.
#[derive(Clone, Debug)]
struct Tree(BTreeMap<String, Option<Tree>>);

fn trees() -> impl Strategy<Value = Tree> {
    let name =
        "[ab.é ]{1,3}(\\.ts|\\.js)?".prop_filter("not a name", |name| name != "." && name != "..");
    let leaf = Just(Tree(BTreeMap::new()));
    leaf.prop_recursive(4, 24, 4, move |inner| {
        btree_map(name.clone(), proptest::option::of(inner), 0..4).prop_map(Tree)
    })
}

fn plant(tree: &Tree, at: &Path) {
    fs_err::create_dir(at).unwrap();
    for (name, below) in &tree.0 {
        match below {
            Some(below) => plant(below, &at.join(name)),
            None => fs_err::write(at.join(name), "").unwrap(),
        }
    }
}

/// The options a model can do without knowing regular expressions.
#[derive(Clone, Debug)]
struct Wanted {
    files: bool,
    dirs: bool,
    max_depth: Option<u32>,
    ext: Option<&'static str>,
    skip: Option<&'static str>,
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let skip = proptest::option::of(prop_oneof![Just("a"), Just("b/"), Just("é")]);
    let ext = proptest::option::of(prop_oneof![Just(".ts"), Just("js"), Just("")]);
    let depth = proptest::option::of(0..4_u32);
    (any::<bool>(), any::<bool>(), depth, ext, skip).prop_map(
        |(files, dirs, max_depth, ext, skip)| Wanted {
            files,
            dirs,
            max_depth,
            ext,
            skip,
        },
    )
}

fn expect(tree: &Tree, path: &str, depth: u32, wanted: &Wanted, found: &mut Vec<String>) {
    let skipped = |path: &str| wanted.skip.is_some_and(|skip| path.contains(skip));
    let with_dot = |ext: &str| format!(".{}", ext.trim_start_matches('.'));
    let included =
        |path: &str| !skipped(path) && wanted.ext.is_none_or(|ext| path.ends_with(&with_dot(ext)));
    if wanted.dirs && included(path) {
        found.push(path.to_owned());
    }
    if skipped(path) || wanted.max_depth.is_some_and(|max| depth >= max) {
        return;
    }
    for (name, below) in &tree.0 {
        let path = format!("{path}/{name}");
        match below {
            Some(below) => expect(below, &path, depth + 1, wanted, found),
            None if wanted.files && included(&path) => found.push(path),
            None => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_walk_finds_what_the_model_says(tree in trees(), wanted in wanted()) {
        let directory = tempfile::tempdir().unwrap();
        plant(&tree, &directory.path().join("root"));
        let skip = wanted.skip.map(|source| Regex { source: source.into(), flags: String::new() });
        let request = WalkRequest {
            path: "root".into(),
            max_depth: wanted.max_depth,
            include_files: wanted.files,
            include_dirs: wanted.dirs,
            exts: wanted.ext.map(str::to_owned).into_iter().collect(),
            has_exts: wanted.ext.is_some(),
            skip: skip.into_iter().collect(),
            ..WalkRequest::default()
        };
        let options = WalkOptions::compile(&request, directory.path().to_owned()).unwrap();
        let mut walker = Walker::new(options, OsStr::new("root"));
        let mut found = Vec::new();
        loop {
            match walker.step().unwrap() {
                Step::Wanted(entry) => found.push(entry.path.into_string().unwrap()),
                Step::Unwanted => {}
                Step::End => break,
            }
        }
        let mut expected = Vec::new();
        expect(&tree, "root", 0, &wanted, &mut expected);
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected);
    }
}
