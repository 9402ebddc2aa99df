//! From the rules of a document to rules that can be evaluated.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    CONDITIONS_MAX, GUIDANCE_LEN_MAX, HOSTS_MAX, NAME_LEN_MAX, ProblemKind, RULES_MAX,
    TEXT_LEN_MAX, VALUES_MAX,
    check::{Problems, cut},
};
use crate::{
    decision::RuleId,
    document::{JsonCondition, OneOrMany, RuleAction, RuleDocument, RuleMode, TextCondition},
    rate::Rate,
    request::{Expression, MediaPattern, PathGlob, Pointer, Rule, is_token},
};

pub(super) fn compile(documents: &[RuleDocument], problems: &mut Problems) -> Vec<Rule> {
    problems.bound("net.rules", documents.len(), RULES_MAX);
    let mut ids = BTreeSet::new();
    let mut rules = Vec::new();
    for (index, document) in documents.iter().take(RULES_MAX).enumerate() {
        let at = format!("net.rules[{index}]");
        if !ids.insert(document.id.as_str()) {
            let kind = ProblemKind::RuleTwice {
                id: cut(&document.id),
            };
            problems.add(format!("{at}.id"), kind);
        }
        rules.push(rule(&at, document, problems));
    }
    rules
}

fn rule(at: &str, document: &RuleDocument, problems: &mut Problems) -> Rule {
    check_form(at, document, problems);
    let host_at = format!("{at}.host");
    if document.host.is_empty() {
        problems.add(host_at.as_str(), ProblemKind::Empty);
    }
    let rate_text = document.rate.as_deref();
    let when_text = document.when.as_deref();
    Rule {
        id: RuleId(document.id.clone()),
        hosts: problems.entries(&host_at, document.host.as_slice(), HOSTS_MAX),
        action: document.action,
        mode: document.mode,
        methods: methods(&format!("{at}.method"), &document.method, problems),
        paths: paths(&format!("{at}.path"), &document.path, problems),
        encoded_slash: document.encoded_slash,
        query: texts(&format!("{at}.query"), &document.query, problems),
        headers: headers(&format!("{at}.headers"), &document.headers, problems),
        content_types: media(
            &format!("{at}.content_type"),
            &document.content_type,
            problems,
        ),
        max_body_bytes: document.max_body_bytes,
        rate: rate_text.and_then(|text| rate(&format!("{at}.rate"), text, problems)),
        json: pointers(&format!("{at}.json"), &document.json, problems),
        when: when_text.and_then(|text| expression(&format!("{at}.when"), text, problems)),
        guidance: document.guidance.clone(),
    }
}

fn check_form(at: &str, document: &RuleDocument, problems: &mut Problems) {
    let id = document.id.as_str();
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > NAME_LEN_MAX || !id.bytes().all(is_part) {
        problems.add(format!("{at}.id"), ProblemKind::RuleName { id: cut(id) });
    }
    let limited = document.rate.is_some() || document.max_body_bytes.is_some();
    match (document.action, document.mode) {
        (RuleAction::Deny, _) if limited => problems.add(at, ProblemKind::LimitOnDeny),
        (RuleAction::Allow, RuleMode::Audit) => {
            problems.add(format!("{at}.mode"), ProblemKind::AuditOnAllow);
        }
        (RuleAction::Allow | RuleAction::Deny, _) => {}
    }
    if let Some(guidance) = &document.guidance {
        problems.bound_text(&format!("{at}.guidance"), guidance, GUIDANCE_LEN_MAX);
    }
}

fn each<'a>(
    at: &str,
    texts: &'a OneOrMany,
    problems: &mut Problems,
    mut visit: impl FnMut(String, &'a str, &mut Problems),
) {
    let texts = texts.as_slice();
    problems.bound(at, texts.len(), CONDITIONS_MAX);
    for (index, text) in texts.iter().take(CONDITIONS_MAX).enumerate() {
        visit(format!("{at}[{index}]"), text, problems);
    }
}

fn methods(at: &str, texts: &OneOrMany, problems: &mut Problems) -> Vec<String> {
    let mut methods = Vec::new();
    each(at, texts, problems, |at, text, problems| {
        let is_part = |byte: u8| is_token(byte) && !byte.is_ascii_lowercase();
        if !text.is_empty() && text.len() <= 32 && text.bytes().all(is_part) {
            methods.push(text.to_owned());
        } else {
            problems.add(at, ProblemKind::Method { method: cut(text) });
        }
    });
    methods
}

fn paths(at: &str, texts: &OneOrMany, problems: &mut Problems) -> Vec<PathGlob> {
    let mut globs = Vec::new();
    each(
        at,
        texts,
        problems,
        |at, text, problems| match PathGlob::parse(text) {
            Ok(glob) => globs.push(glob),
            Err(source) => {
                let glob = cut(text);
                problems.add(at, ProblemKind::Glob { glob, source });
            }
        },
    );
    globs
}

fn texts(
    at: &str,
    conditions: &BTreeMap<String, TextCondition>,
    problems: &mut Problems,
) -> Vec<(String, TextCondition)> {
    problems.bound(at, conditions.len(), CONDITIONS_MAX);
    let mut checked = Vec::new();
    for (name, condition) in conditions.iter().take(CONDITIONS_MAX) {
        let at = format!("{at}.{}", cut(name));
        problems.bound_text(&at, name, TEXT_LEN_MAX);
        check_text(&at, condition, problems);
        checked.push((name.clone(), condition.clone()));
    }
    checked
}

fn check_text(at: &str, condition: &TextCondition, problems: &mut Problems) {
    match condition {
        TextCondition::Present(_) => {}
        TextCondition::Equals(text) => problems.bound_text(at, text, TEXT_LEN_MAX),
        TextCondition::OneOf(texts) => {
            if texts.is_empty() {
                problems.add(at, ProblemKind::Empty);
            }
            problems.bound(at, texts.len(), VALUES_MAX);
            for text in texts.iter().take(VALUES_MAX) {
                problems.bound_text(at, text, TEXT_LEN_MAX);
            }
        }
    }
}

fn headers(
    at: &str,
    conditions: &BTreeMap<String, TextCondition>,
    problems: &mut Problems,
) -> Vec<(String, TextCondition)> {
    for name in conditions.keys().take(CONDITIONS_MAX) {
        if name.is_empty() || !name.bytes().all(is_token) {
            problems.add(at, ProblemKind::HeaderName { name: cut(name) });
        }
    }
    texts(at, conditions, problems)
        .into_iter()
        .map(|(name, condition)| (name.to_ascii_lowercase(), condition))
        .collect()
}

fn media(at: &str, texts: &OneOrMany, problems: &mut Problems) -> Vec<MediaPattern> {
    let mut patterns = Vec::new();
    each(at, texts, problems, |at, text, problems| {
        if text.len() <= NAME_LEN_MAX && is_media_pattern(text) {
            patterns.push(MediaPattern(text.to_ascii_lowercase()));
        } else {
            problems.add(
                at,
                ProblemKind::MediaType {
                    media_type: cut(text),
                },
            );
        }
    });
    patterns
}

fn is_media_pattern(text: &str) -> bool {
    let is_part = |byte: u8| is_token(byte) && byte != b'*';
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_part);
    text.split_once('/')
        .is_some_and(|(kind, subtype)| is_name(kind) && (subtype == "*" || is_name(subtype)))
}

/// `100/min`: that many in each minute.
fn rate(at: &str, text: &str, problems: &mut Problems) -> Option<Rate> {
    let parsed = text.split_once('/').and_then(|(count, unit)| {
        let period = match unit {
            "s" | "sec" => Duration::from_secs(1),
            "m" | "min" => Duration::from_mins(1),
            "h" | "hour" => Duration::from_hours(1),
            "d" | "day" => Duration::from_hours(24),
            _ => return None,
        };
        let digits = count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|_| digits)?;
        Rate::per(count, period)
    });
    if parsed.is_none() {
        problems.add(at, ProblemKind::Rate { rate: cut(text) });
    }
    parsed
}

fn pointers(
    at: &str,
    conditions: &BTreeMap<String, JsonCondition>,
    problems: &mut Problems,
) -> Vec<(Pointer, JsonCondition)> {
    problems.bound(at, conditions.len(), CONDITIONS_MAX);
    let mut checked = Vec::new();
    for (text, condition) in conditions.iter().take(CONDITIONS_MAX) {
        let at = format!("{at}.{}", cut(text));
        check_json(&at, condition, problems);
        match Pointer::parse(text) {
            Ok(pointer) => checked.push((pointer, condition.clone())),
            Err(source) => {
                let pointer = cut(text);
                problems.add(at, ProblemKind::Pointer { pointer, source });
            }
        }
    }
    checked
}

fn check_json(at: &str, condition: &JsonCondition, problems: &mut Problems) {
    let values = condition.one_of.as_deref().unwrap_or_default();
    problems.bound(at, values.len(), VALUES_MAX);
    if condition.one_of.as_ref().is_some_and(Vec::is_empty) {
        problems.add(format!("{at}.in"), ProblemKind::Empty);
    }
    let others = condition.equals.is_some()
        || condition.one_of.is_some()
        || condition.min.is_some()
        || condition.max.is_some();
    match (condition.present, others) {
        (None, false) => problems.add(at, ProblemKind::EmptyCondition),
        (Some(false), true) => problems.add(at, ProblemKind::AbsentWithOthers),
        (Some(_), false) | (None | Some(true), true) => {}
    }
}

fn expression(at: &str, text: &str, problems: &mut Problems) -> Option<Expression> {
    match Expression::compile(text) {
        Ok(expression) => Some(expression),
        Err(error) => {
            problems.add(at, ProblemKind::Expression(error));
            None
        }
    }
}
