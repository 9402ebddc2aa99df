//! Who may depend on whom. The programs are separated by trust and the cores
//! from the shells; this table is what keeps them so.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

use super::Finding;

const PREFIX: &str = "tombolo-";

/// What each crate may depend on directly, among ours; nothing else.
const ALLOWED: [(&str, &[&str]); 31] = [
    ("ids", &[]),
    ("diag", &[]),
    ("fuzz", &[]),
    ("leftovers", &[]),
    ("places", &[]),
    ("proc", &[]),
    ("secret", &[]),
    ("sys", &[]),
    ("api", &["ids", "secret"]),
    ("client", &["api", "ids"]),
    ("guest-proto", &["ids"]),
    ("node-proto", &["ids"]),
    ("lifecycle", &["ids"]),
    ("substitute", &["secret"]),
    ("policy", &[]),
    ("setup", &["ids", "proc", "sys"]),
    (
        "host",
        &["diag", "guest-proto", "ids", "net", "proc", "sys"],
    ),
    ("net", &["ids", "proc", "sys"]),
    ("ingress", &["diag", "ids", "places"]),
    ("ssh", &["diag", "places"]),
    (
        "server",
        &[
            "api",
            "diag",
            "guest-proto",
            "ids",
            "ingress",
            "lifecycle",
            "node-proto",
            "policy",
            "secret",
            "ssh",
        ],
    ),
    (
        "node",
        &[
            "diag",
            "guest-proto",
            "host",
            "ids",
            "lifecycle",
            "net",
            "node-proto",
        ],
    ),
    (
        "egress",
        &[
            "diag",
            "ids",
            "node-proto",
            "policy",
            "secret",
            "substitute",
        ],
    ),
    ("agent", &["diag", "guest-proto", "ids", "proc", "sys"]),
    (
        "cli",
        &[
            "api", "client", "diag", "egress", "ids", "node", "policy", "proc", "secret", "server",
            "setup",
        ],
    ),
    (
        "testkit",
        &["api", "guest-proto", "ids", "node-proto", "proc", "secret"],
    ),
    (
        "e2e",
        &["api", "client", "ids", "leftovers", "proc", "testkit"],
    ),
    ("attacks", &["api", "e2e", "proc"]),
    (
        "egress-bench",
        &["ids", "net", "node-proto", "proc", "secret"],
    ),
    (
        "ingress-bench",
        &["client", "ids", "proc", "server", "testkit"],
    ),
    ("xtask", &["proc", "fuzz", "leftovers"]),
];

/// What a crate must not reach by any path, ours or not, and why.
const UNREACHABLE: [(&str, &[&str], &str); 9] = [
    (
        "server",
        &["sys", "host", "node", "setup"],
        "the program that faces the network has no host rights and no unsafe code of ours",
    ),
    (
        "lifecycle",
        &["tokio", "hyper", "nix", "rustix", "rand", "axum", "tonic"],
        "a core has no clock, no sockets and no chance in it",
    ),
    (
        "policy",
        &["tokio", "hyper", "nix", "rustix", "rand", "axum", "tonic"],
        "a core has no clock, no sockets and no chance in it",
    ),
    (
        "secret",
        &["tokio", "hyper", "nix", "rustix", "serde_json"],
        "values pass through as few hands as can be",
    ),
    (
        "substitute",
        &["tokio", "hyper", "nix", "rustix", "rand", "axum", "tonic"],
        "a core has no clock, no sockets and no chance in it",
    ),
    (
        "api",
        &["tokio", "hyper", "axum", "tonic", "nix"],
        "a contract is types alone",
    ),
    (
        "ids",
        &["tokio", "hyper", "nix"],
        "the vocabulary is usable everywhere",
    ),
    (
        "client",
        &[
            "server", "node", "host", "sqlx", "tonic", "axum", "clap", "nix",
        ],
        "a library of other people's programs weighs what a client needs",
    ),
    (
        "agent",
        &["clap", "reqwest", "rustls", "sqlx"],
        "what ships into every guest stays small",
    ),
];

/// Crates that only tests may depend on.
const TESTS_ONLY: [(&str, &[&str]); 3] = [
    ("testkit", &["e2e", "ingress-bench"]),
    ("fuzz", &["xtask"]),
    ("leftovers", &["e2e", "xtask"]),
];

const MEND_EDGE: &str = "move the code to the layer it belongs to; a new edge is a decision for ARCHITECTURE.md and this table";
const MEND_LINTS: &str = "add `[lints]` with `workspace = true` to the manifest";
const MEND_UNKNOWN: &str = "say in xtask/src/tidy/layers.rs what the new crate may depend on";

pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let metadata = MetadataCommand::new()
        .current_dir(root)
        .exec()
        .context("cannot ask cargo for the packages")?;
    let graph = Graph::new(&metadata);
    let mut findings = graph.check();
    for package in metadata.workspace_packages() {
        let manifest = package.manifest_path.as_std_path();
        let text = fs_err::read_to_string(manifest)?;
        if !inherits_lints(&text) {
            findings.push(Finding {
                path: manifest.strip_prefix(root).unwrap_or(manifest).to_owned(),
                line: 0,
                what: "does not use the workspace's lints".to_owned(),
                mend: MEND_LINTS,
            });
        }
    }
    Ok(findings)
}

fn inherits_lints(manifest: &str) -> bool {
    let Ok(table) = manifest.parse::<toml::Table>() else {
        return false;
    };
    table
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(toml::Value::as_bool)
        .unwrap_or(false)
}

/// Names of packages and what each needs to be built and to run, or to be tested.
#[derive(Debug, Default)]
struct Graph {
    ours: BTreeSet<String>,
    normal: BTreeMap<String, BTreeSet<String>>,
    development: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn new(metadata: &Metadata) -> Self {
        let mut graph = Self::default();
        for package in metadata.workspace_packages() {
            graph.ours.insert(short(&package.name).to_owned());
        }
        let packages: BTreeMap<_, &Package> = metadata
            .packages
            .iter()
            .map(|package| (&package.id, package))
            .collect();
        let nodes = metadata.resolve.iter().flat_map(|resolve| &resolve.nodes);
        for node in nodes {
            let Some(package) = packages.get(&node.id) else {
                continue;
            };
            for dependency in &node.deps {
                let Some(target) = packages.get(&dependency.pkg) else {
                    continue;
                };
                for kind in &dependency.dep_kinds {
                    graph.add(&package.name, &target.name, kind.kind);
                }
            }
        }
        graph
    }

    fn add(&mut self, from: &str, to: &str, kind: DependencyKind) {
        let edges = match kind {
            DependencyKind::Normal => &mut self.normal,
            DependencyKind::Development => &mut self.development,
            // What a build script uses does not become part of the program.
            _ => return,
        };
        edges
            .entry(short(from).to_owned())
            .or_default()
            .insert(short(to).to_owned());
    }

    fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for name in &self.ours {
            match ALLOWED.iter().find(|(known, _)| known == name) {
                Some((_, allowed)) => findings.extend(self.check_edges(name, allowed)),
                None => findings.push(finding(name, "has no layer", MEND_UNKNOWN)),
            }
        }
        for (name, banned, why) in UNREACHABLE {
            for target in banned {
                if let Some(path) = self.path(name, target) {
                    let what = format!("reaches {target} ({}), but {why}", path.join(" -> "));
                    findings.push(finding(name, &what, MEND_EDGE));
                }
            }
        }
        findings
    }

    fn check_edges(&self, name: &str, allowed: &[&str]) -> Vec<Finding> {
        let targets = self.normal.get(name).into_iter().flatten();
        let ours = targets.filter(|target| self.ours.contains(*target));
        let foreign = ours.filter(|target| {
            let tests_only = TESTS_ONLY
                .iter()
                .any(|(kept, users)| kept == *target && !users.contains(&name));
            tests_only || !allowed.contains(&target.as_str())
        });
        foreign
            .map(|target| finding(name, &format!("must not depend on {target}"), MEND_EDGE))
            .collect()
    }

    /// The shortest way from one package to another, if there is one.
    fn path(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut paths = VecDeque::from([vec![from.to_owned()]]);
        let mut seen = BTreeSet::new();
        while let Some(path) = paths.pop_front() {
            let last = path.last().map(String::as_str).unwrap_or_default();
            for next in self.normal.get(last).into_iter().flatten() {
                let longer = [path.clone(), vec![next.clone()]].concat();
                if next == to {
                    return Some(longer);
                }
                if seen.insert(next.clone()) {
                    paths.push_back(longer);
                }
            }
        }
        None
    }
}

fn short(package: &str) -> &str {
    package.strip_prefix(PREFIX).unwrap_or(package)
}

fn finding(name: &str, what: &str, mend: &'static str) -> Finding {
    let directory = if name == "xtask" {
        PathBuf::from(name)
    } else {
        Path::new("crates").join(name)
    };
    Finding {
        path: directory.join("Cargo.toml"),
        line: 0,
        what: format!("{name} {what}"),
        mend,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(edges: &[(&str, &str, DependencyKind)], expected: &[&str]) {
        let mut graph = Graph::default();
        for (from, to, kind) in edges {
            for name in [from, to] {
                if ALLOWED.iter().any(|(known, _)| known == name) || *name == "new" {
                    graph.ours.insert((*name).to_owned());
                }
            }
            graph.add(&format!("{PREFIX}{from}"), to, *kind);
        }
        let found: Vec<String> = graph.check().into_iter().map(|f| f.what).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_table_decides() {
        let normal = DependencyKind::Normal;
        check(&[("api", "ids", normal)], &[]);
        check(&[("ids", "api", normal)], &["ids must not depend on api"]);
        check(&[("new", "ids", normal)], &["new has no layer"]);
        check(&[("server", "testkit", DependencyKind::Development)], &[]);
        check(
            &[("server", "testkit", normal)],
            &["server must not depend on testkit"],
        );
        check(&[("e2e", "testkit", normal)], &[]);
    }

    #[test]
    fn reaching_counts_every_step() {
        let normal = DependencyKind::Normal;
        let edges = [
            ("lifecycle", "ids", normal),
            ("ids", "helper", normal),
            ("helper", "tokio", normal),
        ];
        let cores = "a core has no clock, no sockets and no chance in it";
        let words = "the vocabulary is usable everywhere";
        let expected = [
            format!("lifecycle reaches tokio (lifecycle -> ids -> helper -> tokio), but {cores}"),
            format!("ids reaches tokio (ids -> helper -> tokio), but {words}"),
        ];
        check(&edges, &[expected[0].as_str(), expected[1].as_str()]);
    }

    #[test]
    fn lints_are_inherited_or_they_are_not() {
        assert!(inherits_lints(
            "[package]\nname='a'\n[lints]\nworkspace = true\n"
        ));
        for manifest in [
            "[package]\nname='a'\n",
            "[lints]\nworkspace = false\n",
            "[lints",
        ] {
            assert!(!inherits_lints(manifest), "{manifest}");
        }
    }

    #[test]
    fn the_table_is_acyclic_and_names_what_it_knows() {
        let names: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
        let mut done: Vec<&str> = Vec::new();
        while done.len() < names.len() {
            let ready = |entry: &&(&'static str, &[&str])| {
                !done.contains(&entry.0) && entry.1.iter().all(|to| done.contains(to))
            };
            let next = ALLOWED.iter().find(ready);
            done.push(next.expect("the rest of the table is a cycle").0);
        }
    }
}
