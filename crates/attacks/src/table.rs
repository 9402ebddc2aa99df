//! The table of attacks: a row for each, where it is tried, and what
//! came of it. `docs/attacks.md` is made from it, and a test compares the two.
//!
//! Where an attack is tried is read from the sources, so that the table cannot
//! name a test that is not there: a function of `guest/cases_*.py` is named after
//! its attack and runs inside a sandbox; a Rust test has a comment directly above
//! it that begins with the attacks it tries, as in `/// NET-01, TLS-02: …`.

mod content;
mod network;
mod sources;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

pub use sources::{Place, Sources};

/// The chapters, in order, and how many attacks each has.
const CHAPTERS: [(&str, &str, u32); 8] = [
    ("NET", "Reaching the network without the policy", 23),
    ("DNS", "Names", 13),
    ("TLS", "TLS", 16),
    ("HTTP", "HTTP", 27),
    ("SUB", "Substitution of values", 24),
    ("REF", "Reflection of values", 19),
    ("LEAK", "Leaks", 8),
    ("TIM", "Timing", 2),
];

/// One attack.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its id, such as `NET-01`.
    pub id: &'static str,
    /// What it tries, in a few words.
    pub attack: &'static str,
    /// What comes of it.
    pub outcome: Outcome,
}

/// What comes of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It fails, in every way it can be tried.
    Holds,
    /// It fails in the ways that are tried; these are not.
    Partly(&'static str),
    /// It cannot be tried, and this is why.
    NotTried(&'static str),
    /// It succeeds, or nobody knows: what is missing.
    Open(&'static str),
}

use Outcome::{Holds, NotTried, Open, Partly};

const fn row(id: &'static str, attack: &'static str, outcome: Outcome) -> Row {
    Row {
        id,
        attack,
        outcome,
    }
}

/// All rows, in the order of the chapters.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    let parts = [network::ROWS, tls::ROWS, content::ROWS];
    parts.into_iter().flatten()
}

/// The ids, in order.
fn ids() -> Vec<String> {
    let ids = |(name, _, count): &(&str, &str, u32)| {
        let name = (*name).to_owned();
        (1..=*count).map(move |number| format!("{name}-{number:02}"))
    };
    CHAPTERS.iter().flat_map(ids).collect()
}

/// Everything that is wrong with the table, as sentences.
pub fn problems(sources: &Sources) -> Vec<String> {
    let (mut problems, ids) = (Vec::new(), ids());
    let given: Vec<&str> = rows().map(|row| row.id).collect();
    let known: BTreeSet<&str> = given.iter().copied().collect();
    for id in &ids {
        if !known.contains(id.as_str()) {
            problems.push(format!("{id} has no row"));
        }
    }
    if problems.is_empty() && given != ids {
        problems.push("the rows are not those of the chapters, in order".to_owned());
    }
    for row in rows() {
        let is_tried = !sources.places(row.id).is_empty();
        match row.outcome {
            Holds | Partly(_) if !is_tried => {
                problems.push(format!("{} is said to hold and nothing tries it", row.id));
            }
            NotTried(_) if is_tried => {
                problems.push(format!(
                    "{} is tried and its row says that it is not",
                    row.id
                ));
            }
            _ => {}
        }
    }
    for id in sources.ids() {
        let is_ours = |(chapter, ..): &(&str, _, _)| id.split('-').next() == Some(chapter);
        if CHAPTERS.iter().any(is_ours) && !known.contains(id) {
            problems.push(format!(
                "a test says that it tries {id}, which is no attack"
            ));
        }
    }
    problems
}

/// The page of documentation.
pub fn page(sources: &Sources) -> String {
    let mut page = String::from(
        "# Attacks\n\n\
         Made from `crates/attacks/src/table` and the tests; do not edit.\n\
         `UPDATE=1 cargo test -p tombolo-attacks --lib` makes it anew.\n\n\
         Attacks on what lies between a sandbox and the network, each with the tests that try it. Those in\n\
         `crates/attacks/guest` run as root inside real sandboxes, whose server is in a network that exists for the\n\
         test alone; after each of them it is checked that\n\n\
         - no byte that the guest received contains the secret's value, in any of nine encodings;\n\
         - nobody but the host it is for has seen the value, and nobody else a packet, a connection or a question;\n\
         - the egress proxy runs, has not grown and has given its descriptors back;\n\
         - there is one record for each attempt, with a decision, and the value in none.\n\n\
         At the end memory, disks, database and logs are searched for the value. *holds* means that all\n\
         tests of the row pass: they are part of `cargo xtask test`.\n",
    );
    let mut counts = BTreeMap::new();
    for row in rows() {
        let kind = match row.outcome {
            Holds => "hold",
            Partly(_) => "hold in part",
            NotTried(_) => "cannot be tried",
            Open(_) => "are open",
        };
        *counts.entry(kind).or_insert(0) += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    // Writing to a string cannot fail.
    writeln!(page, "\n{} attacks: {}.", rows().count(), counts.join(", ")).ok();
    for (chapter, title, _) in CHAPTERS {
        writeln!(
            page,
            "\n## {title}\n\n| id | attack | tried by | result |\n|---|---|---|---|"
        )
        .ok();
        let prefix = format!("{chapter}-");
        for row in rows().filter(|row| row.id.starts_with(&prefix)) {
            let places: Vec<String> = sources.places(row.id).iter().map(Place::link).collect();
            let result = match row.outcome {
                Holds => "holds".to_owned(),
                Partly(but) => format!("holds, but {but}"),
                NotTried(why) => format!("not tried: {why}"),
                Open(what) => format!("**open**: {what}"),
            };
            let (id, attack, places) = (row.id, row.attack, places.join("<br>"));
            writeln!(page, "| {id} | {attack} | {places} | {result} |").ok();
        }
    }
    page
}

/// The workspace that this crate was built from.
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "docs/attacks.md";

    #[test]
    fn every_attack_has_a_row_and_what_holds_is_tried() {
        let sources = Sources::read(workspace()).unwrap();
        assert_eq!(problems(&sources), Vec::<String>::new());
    }

    #[test]
    fn the_page_is_current() {
        let page = page(&Sources::read(workspace()).unwrap());
        let path = workspace().join(PAGE);
        if std::env::var_os("UPDATE").is_some() {
            fs_err::write(&path, &page).unwrap();
        }
        let written = fs_err::read_to_string(&path).unwrap_or_default();
        let is_current = written == page;
        assert!(
            is_current,
            "{PAGE} is stale: write it anew by \"UPDATE=1 cargo test -p tombolo-attacks --lib\""
        );
    }

    #[test]
    fn what_is_missing_is_noticed() {
        let nothing = Sources::default();
        let said = problems(&nothing);
        let word = "NET-01 is said to hold and nothing tries it".to_owned();
        assert!(said.contains(&word), "{said:?}");
        let mut odd = Sources::default();
        odd.add("NET-99", Place::new("a.rs", "test"));
        let word = "a test says that it tries NET-99, which is no attack".to_owned();
        assert!(problems(&odd).contains(&word));
    }
}
