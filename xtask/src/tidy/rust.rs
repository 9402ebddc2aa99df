//! Rules for Rust: what a module says first, how long things are, where
//! `unsafe` lives, what an error carries.

use std::path::Path;

use proc_macro2::Span;
use syn::{
    Attribute, Block, ExprUnsafe, Fields, ImplItemFn, Item, ItemEnum, ItemFn, Signature,
    TraitItemFn, Type,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use super::{Finding, Source};

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 500;
const INLINE_TEST_LINES_MAX: usize = 150;
const RULER_LEN_MIN: usize = 4;

const MEND_DOCS: &str =
    "open the module with `//!`: what it is for, who may call it, what it assumes";
const MEND_FUNCTION: &str = "split it by phase or by case; a function does one thing";
const MEND_FILE: &str = "split it by what changes together";
const MEND_TESTS: &str = "move the tests to tests.rs in the module's directory";
const MEND_MODULE: &str = "name it after the module: foo.rs beside foo/";
const MEND_UNSAFE: &str = "move it to crates/sys, with one operation per block and its argument";
const MEND_ERROR: &str = "give the variant named fields and the cause as #[source]";
const MEND_BANNER: &str = "remove it; a part that needs a title is a module or a function";

/// The only crate that may be unsafe.
const UNSAFE_CRATE: &str = "crates/sys";

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if source.name() == "mod.rs" {
        findings.push(source.finding(0, "is called mod.rs", MEND_MODULE));
    }
    findings.extend(check_banners(source));
    let Ok(file) = syn::parse_file(&source.text) else {
        findings.push(source.finding(0, "does not parse", "let the compiler tell you where"));
        return findings;
    };
    if !file.attrs.iter().any(is_inner_doc) {
        findings.push(source.finding(1, "does not open with `//!`", MEND_DOCS));
    }
    findings.extend(check_length(source, &file));
    let mut walker = Walker { source, findings };
    walker.visit_file(&file);
    walker.findings
}

fn check_length(source: &Source, file: &syn::File) -> Vec<Finding> {
    if is_test_file(&source.path) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut lines = source.text.lines().count();
    for item in &file.items {
        let Item::Mod(module) = item else { continue };
        if module.content.is_none() || !is_for_tests(&module.attrs) {
            continue;
        }
        let length = line_count(module.span());
        lines -= length.min(lines);
        if length > INLINE_TEST_LINES_MAX {
            let what = format!("{length} lines of tests, more than {INLINE_TEST_LINES_MAX}");
            findings.push(source.finding(line(module.span()), what, MEND_TESTS));
        }
    }
    if lines > FILE_LINES_MAX {
        let what = format!("{lines} lines without tests, more than {FILE_LINES_MAX}");
        findings.push(source.finding(0, what, MEND_FILE));
    }
    findings
}

/// Whether a file holds tests alone: `tests.rs`, or anything below `tests/`.
fn is_test_file(path: &Path) -> bool {
    let below = path.parent().into_iter().flat_map(Path::components);
    let in_tests = below.into_iter().any(|part| part.as_os_str() == "tests");
    in_tests || path.file_name().is_some_and(|name| name == "tests.rs")
}

/// A comment that draws a line instead of saying something. Documentation may
/// draw: tables and state diagrams are drawings.
fn check_banners(source: &Source) -> Vec<Finding> {
    let is_ruler = |c: char| "-=*#~_+/\u{2500}\u{2501}\u{2550}".contains(c);
    let banner = |text: &str| {
        let Some(comment) = text.trim_start().strip_prefix("//") else {
            return false;
        };
        let documents =
            comment.starts_with('!') || (comment.starts_with('/') && !comment.starts_with("//"));
        let comment = comment.trim();
        let ruler = comment.chars().take_while(|c| is_ruler(*c)).count();
        !documents && ruler >= RULER_LEN_MIN
    };
    let lines = source.text.lines().enumerate();
    lines
        .filter(|(_, text)| banner(text))
        .map(|(index, _)| source.finding(index + 1, "is a banner", MEND_BANNER))
        .collect()
}

struct Walker<'a> {
    source: &'a Source,
    findings: Vec<Finding>,
}

impl Walker<'_> {
    fn report(&mut self, span: Span, what: impl Into<String>, mend: &'static str) {
        self.findings
            .push(self.source.finding(line(span), what, mend));
    }

    fn function(&mut self, signature: &Signature, block: &Block) {
        let first = line(signature.span());
        let length = block.span().end().line + 1 - first;
        // A test may hold a long table of cases: that is data.
        if length > FUNCTION_LINES_MAX && !is_test_file(&self.source.path) {
            let name = &signature.ident;
            let what = format!("{name} has {length} lines, more than {FUNCTION_LINES_MAX}");
            self.report(signature.span(), what, MEND_FUNCTION);
        }
        if signature.unsafety.is_some() {
            self.unsafe_code(signature.span());
        }
    }

    fn unsafe_code(&mut self, span: Span) {
        if !self.source.path.starts_with(UNSAFE_CRATE) {
            self.report(span, "is unsafe", MEND_UNSAFE);
        }
    }
}

impl<'ast> Visit<'ast> for Walker<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast ExprUnsafe) {
        self.unsafe_code(block.span());
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        if !derives_error(&item.attrs) {
            return;
        }
        for variant in &item.variants {
            let Fields::Unnamed(fields) = &variant.fields else {
                continue;
            };
            let only_text = fields.unnamed.len() == 1 && is_string(&fields.unnamed[0].ty);
            if only_text {
                let what = format!("{}::{} carries only text", item.ident, variant.ident);
                self.report(variant.span(), what, MEND_ERROR);
            }
        }
    }
}

fn line(span: Span) -> usize {
    span.start().line
}

fn line_count(span: Span) -> usize {
    span.end().line + 1 - span.start().line
}

fn is_inner_doc(attribute: &Attribute) -> bool {
    matches!(attribute.style, syn::AttrStyle::Inner(_)) && attribute.path().is_ident("doc")
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|name| name == "test")
    })
}

fn derives_error(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let mut found = false;
        if attribute.path().is_ident("derive") {
            let looked = attribute.parse_nested_meta(|meta| {
                found |= meta
                    .path
                    .segments
                    .last()
                    .is_some_and(|last| last.ident == "Error");
                Ok(())
            });
            found &= looked.is_ok();
        }
        found
    })
}

fn is_string(kind: &Type) -> bool {
    let Type::Path(path) = kind else { return false };
    path.path
        .segments
        .last()
        .is_some_and(|last| last.ident == "String")
}

#[cfg(test)]
mod tests;
