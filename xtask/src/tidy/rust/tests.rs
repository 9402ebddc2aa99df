//! Each rule with an offending example and one that is just fine.

use std::path::PathBuf;

use super::*;
use crate::tidy::summary;

fn check_text(path: &str, text: &str, expected: &[&str]) {
    let source = Source {
        path: PathBuf::from(path),
        text: text.to_owned(),
    };
    assert_eq!(summary(&check(&source)), expected, "{path}:\n{text}");
}

/// A module with this after its documentation.
fn check_body(body: &str, expected: &[&str]) {
    check_text(
        "crates/a/src/b.rs",
        &format!("//! A module.\n{body}"),
        expected,
    );
}

#[test]
fn modules_open_with_what_they_are() {
    check_body("", &[]);
    check_text("a.rs", "fn a() {}\n", &["1: does not open with `//!`"]);
    check_text("a/mod.rs", "//! A module.\n", &["0: is called mod.rs"]);
    check_text("a.rs", "//! A module.\nfn a( {}\n", &["0: does not parse"]);
}

#[test]
fn functions_are_short() {
    let function = |lines: usize| format!("fn long() {{\n{}}}\n", "    a();\n".repeat(lines - 2));
    check_body(&function(FUNCTION_LINES_MAX), &[]);
    let found = ["2: long has 71 lines, more than 70"];
    check_body(&function(FUNCTION_LINES_MAX + 1), &found);
    let method = format!("impl A {{ {} }}", function(FUNCTION_LINES_MAX + 1));
    check_body(&method, &found);
    let default = format!("trait A {{ {} }}", function(FUNCTION_LINES_MAX + 1));
    check_body(&default, &found);
}

#[test]
fn files_are_short_without_their_tests() {
    let lines = |count: usize| "const A: u8 = 1;\n".repeat(count);
    check_body(&lines(FILE_LINES_MAX - 1), &[]);
    check_body(
        &lines(FILE_LINES_MAX),
        &["0: 501 lines without tests, more than 500"],
    );
    let tests = |count: usize| format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(count - 3));
    check_body(
        &(lines(FILE_LINES_MAX - 1) + &tests(INLINE_TEST_LINES_MAX)),
        &[],
    );
    check_body(
        &tests(INLINE_TEST_LINES_MAX + 1),
        &["2: 151 lines of tests, more than 150"],
    );
    for path in ["crates/a/src/b/tests.rs", "crates/a/tests/c.rs"] {
        check_text(path, &format!("//! Tests.\n{}", lines(FILE_LINES_MAX)), &[]);
    }
}

#[test]
fn unsafe_lives_in_one_crate() {
    let text = "//! A module.\nunsafe fn a() {}\nfn b() { unsafe { a() } }\n";
    check_text("crates/a/src/b.rs", text, &["2: is unsafe", "3: is unsafe"]);
    check_text("crates/sys/src/b.rs", text, &[]);
    let hidden = "#[cfg(test)]\nmod tests { fn b() { unsafe { a() } } }\n";
    check_body(hidden, &["3: is unsafe"]);
}

#[test]
fn errors_carry_more_than_text() {
    let found = ["2: A::B carries only text"];
    check_body(
        "#[derive(Debug, thiserror::Error)] enum A { B(String) }",
        &found,
    );
    check_body("#[derive(Error)] enum A { B(std::string::String) }", &found);
    check_body(
        "#[derive(Error)] enum A { B { name: String }, C(Io), D }",
        &[],
    );
    check_body("#[derive(Debug)] enum A { B(String) }", &[]);
}

#[test]
fn comments_do_not_draw() {
    check_body("// -------- Helpers --------\n", &["2: is a banner"]);
    check_body("//////////////////\n", &["2: is a banner"]);
    check_body("    // ====\n", &["2: is a banner"]);
    check_body(
        "/// | a |\n/// |---|\n// a --> b\n// --- a/file of a patch\nstruct A;\n",
        &[],
    );
}
