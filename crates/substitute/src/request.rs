//! One request: its head at once, its body as a stream.

use std::sync::Arc;

use tombolo_secret::{PLACEHOLDER_LEN, Placeholder, SecretName};
use zeroize::Zeroizing;

use crate::{
    BodyKind, BodyPlan, BodySubstitution, Composite, Eligibility, Finding, Findings,
    IneligibleReason, InjectedHeader, Injection, Refusal, RequestFraming, SecretTable, Slot, Slots,
    body::{FormGrammar, substitute_form, substitute_json},
    encode::Encoding,
    framing,
    head::{
        basic_token, decode_base64, encode_base64, is_credential_header, is_credential_parameter,
        is_header_excluded, is_only_placeholder, lower_case,
    },
    scan::{Resolver, Scanner, may_contain},
    table::{Requirement, SecretRule},
};

/// The longest message of a WebSocket in which anything is substituted, in bytes.
pub const WEBSOCKET_MESSAGE_LEN_MAX: usize = 1 << 20;

/// The substitution of one request. Give it the parts of the head that are
/// there; what it answers with replaces them.
///
/// Nothing it writes is read again: a value that a placeholder became is never
/// searched.
#[derive(Debug)]
pub struct RequestSubstitution {
    resolver: Resolver,
    composites: Vec<Composite>,
    credential: Credential,
}

/// What was seen of credentials, for [`Requirement::Required`].
#[derive(Debug, Default)]
struct Credential {
    /// A header or parameter for credentials holds something of the guest's own.
    foreign: bool,
}

/// What became of a text.
struct Substituted {
    text: Zeroizing<Vec<u8>>,
    count: u32,
}

impl RequestSubstitution {
    /// Begins a request.
    #[must_use]
    pub fn new(table: &Arc<SecretTable>, eligibility: Eligibility) -> Self {
        Self {
            resolver: Resolver {
                table: Arc::clone(table),
                eligibility: Arc::new(eligibility),
                findings: Findings::default(),
            },
            composites: Vec::new(),
            credential: Credential::default(),
        }
    }

    /// The value that a header must have instead; `None` if it may stay.
    /// Call it for every header line, so that nothing is overlooked.
    ///
    /// A header that was substituted must not be kept in a compression table
    /// (HPACK's never-indexed, RFC 7541, 6.2.3).
    pub fn header(
        &mut self,
        name: &str,
        value: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Refusal> {
        let name = lower_case(name);
        if self.is_injected(&name) {
            return Ok(None);
        }
        if is_header_excluded(&name) {
            self.note_excluded(value);
            return Ok(None);
        }
        let before = self.resolver.findings.substituted();
        let replaced = self.replaced_header(&name, value)?;
        let substituted = self.resolver.findings.substituted() > before;
        let basic = name == "authorization" && basic_token(value).is_some();
        let ours = substituted && (basic || is_only_placeholder(value, PLACEHOLDER_LEN));
        if is_credential_header(&name) && !ours {
            self.credential.foreign = true;
        }
        Ok(replaced)
    }

    /// The query that a target must have instead, without its `?`; `None` if it
    /// may stay. Only values are substituted; all else keeps its bytes.
    pub fn query(&mut self, query: &str) -> Option<String> {
        let mut out = Vec::with_capacity(query.len());
        let mut count = 0;
        for (index, pair) in query.split('&').enumerate() {
            if index > 0 {
                out.push(b'&');
            }
            let replaced = self.percent(Slot::Query, FormGrammar::Pairs, pair.as_bytes());
            let name = pair.split_once('=').map_or("", |(name, _)| name);
            if is_credential_parameter(name) && replaced.count == 0 {
                self.credential.foreign = true;
            }
            out.extend_from_slice(&replaced.text);
            count += replaced.count;
        }
        (count > 0).then(|| String::from_utf8(out).ok()).flatten()
    }

    /// The path that a target must have instead; `None` if it may stay. A value
    /// is written so that it adds no segment and removes none.
    pub fn path(&mut self, path: &str) -> Result<Option<String>, Refusal> {
        let replaced = self.percent(Slot::Path, FormGrammar::Segments, path.as_bytes());
        if replaced.count == 0 {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&replaced.text).into_owned();
        let unsafe_segment = path.split('/').zip(text.split('/')).any(|(old, new)| {
            let decoded = new.replace("%2e", ".").replace("%2E", ".");
            old != new && matches!(decoded.as_str(), "" | "." | "..")
        });
        match self
            .first_substituted(Slot::Path)
            .filter(|_| unsafe_segment)
        {
            Some(secret) => Err(Refusal::PathStructure { secret }),
            None => Ok(Some(text)),
        }
    }

    /// The headers that must be set, over whatever is there of the same name.
    pub fn injected_headers(&mut self) -> Vec<InjectedHeader> {
        let mut headers = Vec::new();
        let table = Arc::clone(&self.resolver.table);
        let eligibility = Arc::clone(&self.resolver.eligibility);
        for secret in table.eligible(&eligibility) {
            let Some(injection) = &secret.injection else {
                continue;
            };
            let (value, slot) = self.injected_value(injection, secret);
            self.resolver.findings.add(Finding::Substituted {
                secret: secret.name.clone(),
                slot,
                count: 1,
            });
            headers.push(InjectedHeader {
                name: injection.header().to_ascii_lowercase(),
                value,
            });
        }
        headers
    }

    /// Whether the request carries what its host requires and no other
    /// credential. After all headers, the path and the query.
    pub fn check_required(&self) -> Result<(), Refusal> {
        let table = &self.resolver.table;
        let required = table
            .eligible(&self.resolver.eligibility)
            .filter(|secret| secret.requirement == Requirement::Required);
        let mut names = required.map(|secret| &secret.name).peekable();
        let Some(first) = names.peek().copied().cloned() else {
            return Ok(());
        };
        let carried = |name: &SecretName| {
            self.resolver.findings.iter().any(
                |finding| matches!(finding, Finding::Substituted { secret, .. } if secret == name),
            )
        };
        let ours = names.any(carried);
        match (ours, self.credential.foreign) {
            (_, true) => Err(Refusal::ForeignCredential { secret: first }),
            (false, false) => Err(Refusal::CredentialMissing { secret: first }),
            (true, false) => Ok(()),
        }
    }

    /// What to do with the body, by its framing and by what may be substituted
    /// in it.
    pub fn plan_body(&self, framing: &RequestFraming) -> Result<BodyPlan, Refusal> {
        let wanted = framing
            .kind
            .as_ref()
            .is_some_and(|kind| self.wants(kind.slot()));
        if !wanted {
            return Ok(BodyPlan::Untouched);
        }
        framing::plan_request(framing, self.keeps_length(framing.kind.as_ref()))
    }

    /// The substitution of the body. Its findings are its own: merge them when
    /// it has ended.
    #[must_use]
    pub fn body(&self, kind: &BodyKind) -> BodySubstitution {
        let resolver = Resolver {
            table: Arc::clone(&self.resolver.table),
            eligibility: Arc::clone(&self.resolver.eligibility),
            findings: Findings::default(),
        };
        BodySubstitution::new(kind, Scanner::new(resolver, kind.slot(), kind.encoding()))
    }

    /// The secrets whose values may be written in a slot.
    pub fn usable(&self, slot: Slot) -> impl Iterator<Item = SecretName> {
        let Resolver {
            table, eligibility, ..
        } = &self.resolver;
        table
            .eligible(eligibility)
            .filter(move |secret| secret.slots.contains(slot))
            .map(|secret| secret.name.clone())
    }

    /// Whether messages of a WebSocket need to be read at all.
    #[must_use]
    pub fn wants_websocket(&self) -> bool {
        self.wants(Slot::WebSocket)
    }

    /// The text that a whole message from the guest must have instead; `None` if
    /// it may stay. A message that begins as a JSON object or array is taken for
    /// JSON.
    pub fn websocket_text(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        if message.len() > WEBSOCKET_MESSAGE_LEN_MAX {
            return Err(Refusal::MessageTooLarge {
                max_bytes: WEBSOCKET_MESSAGE_LEN_MAX,
            });
        }
        let first = message.iter().find(|byte| !byte.is_ascii_whitespace());
        let before = self.resolver.findings.substituted();
        let text = if matches!(first, Some(b'{' | b'[')) {
            let scanner = Scanner::new(self.resolver.lend(), Slot::WebSocket, Encoding::Json);
            let (text, scanner) = substitute_json(scanner, message);
            self.resolver = scanner.resolver;
            text
        } else {
            self.raw(Slot::WebSocket, message).text.to_vec()
        };
        let substituted = self.resolver.findings.substituted() > before;
        Ok(substituted.then_some(text))
    }

    /// What was found in the head and in messages.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.resolver.findings
    }

    /// What was made of values and must be recognised in responses. Register it
    /// before the request is sent.
    pub fn take_composites(&mut self) -> Vec<Composite> {
        std::mem::take(&mut self.composites)
    }

    fn replaced_header(
        &mut self,
        name: &str,
        value: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Refusal> {
        if name == "authorization"
            && let Some(token) = basic_token(value)
        {
            return self.basic(token);
        }
        if name.ends_with("-bin") {
            return Ok(self.binary_metadata(value));
        }
        let slot = if name == "cookie" {
            Slot::Cookie
        } else {
            Slot::Header
        };
        if !may_contain(value) {
            return Ok(None);
        }
        let replaced = self.raw(slot, value);
        Ok((replaced.count > 0).then_some(replaced.text))
    }

    /// Metadata of gRPC whose name ends in `-bin` is base64.
    fn binary_metadata(&mut self, value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let decoded = decode_base64(value).filter(|decoded| may_contain(decoded))?;
        let replaced = self.raw(Slot::Header, &decoded);
        let encoded = encode_base64(&replaced.text);
        let unpadded = encoded.trim_end_matches('=').as_bytes().to_vec();
        (replaced.count > 0).then_some(Zeroizing::new(unpadded))
    }

    fn basic(&mut self, token: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Refusal> {
        let Some(decoded) = decode_base64(token.as_bytes()).filter(|text| may_contain(text)) else {
            return Ok(None);
        };
        let colon = memchr::memchr(b':', &decoded).unwrap_or(decoded.len());
        let (user, password) = decoded.split_at(colon);
        let user = self.raw(Slot::Basic, user);
        let ends_early = user.count > 0 && user.text.contains(&b':');
        if let Some(secret) = self.first_substituted(Slot::Basic).filter(|_| ends_early) {
            return Err(Refusal::ColonInUser { secret });
        }
        let password = self.raw(Slot::Basic, password);
        if user.count + password.count == 0 {
            return Ok(None);
        }
        let both = Zeroizing::new([user.text.as_slice(), password.text.as_slice()].concat());
        self.composites.push(Composite::basic(&both, token));
        let value = format!("Basic {}", encode_base64(&both));
        Ok(Some(Zeroizing::new(value.into_bytes())))
    }

    fn injected_value(
        &mut self,
        injection: &Injection,
        secret: &SecretRule,
    ) -> (Zeroizing<Vec<u8>>, Slot) {
        let value = secret.value.expose();
        match injection {
            Injection::Header { template, .. } => {
                let text = template.replacen("{}", value, 1);
                (Zeroizing::new(text.into_bytes()), Slot::Header)
            }
            Injection::Basic { user } => {
                let both = Zeroizing::new(format!("{user}:{value}"));
                let shown = secret.placeholder.to_string();
                self.composites
                    .push(Composite::basic(both.as_bytes(), &shown));
                let text = format!("Basic {}", encode_base64(both.as_bytes()));
                (Zeroizing::new(text.into_bytes()), Slot::Basic)
            }
        }
    }

    fn is_injected(&self, name: &str) -> bool {
        if !self.resolver.table.has_injections() {
            return false;
        }
        let mut eligible = self.resolver.table.eligible(&self.resolver.eligibility);
        eligible.any(|secret| {
            let injection = secret.injection.as_ref();
            injection.is_some_and(|injection| injection.header().eq_ignore_ascii_case(name))
        })
    }

    /// Counts placeholders where none may become a value.
    fn note_excluded(&mut self, value: &[u8]) {
        if !may_contain(value) {
            return;
        }
        let windows = value.windows(PLACEHOLDER_LEN);
        for placeholder in windows.filter_map(|window| Placeholder::parse(window).ok()) {
            let slot = Slot::Header;
            let finding = match self.resolver.table.find(&placeholder) {
                Some((_, secret)) => Finding::Ineligible {
                    secret: secret.name.clone(),
                    slot,
                    reason: IneligibleReason::Header,
                    count: 1,
                },
                None => Finding::Foreign { slot, count: 1 },
            };
            self.resolver.findings.add(finding);
        }
    }

    fn raw(&mut self, slot: Slot, text: &[u8]) -> Substituted {
        self.scan(slot, Encoding::Raw, |scanner, out| {
            scanner.raw(text, out);
            scanner.flush(out);
        })
    }

    fn percent(&mut self, slot: Slot, grammar: FormGrammar, text: &[u8]) -> Substituted {
        // Without an escape a placeholder is there as it is, or not at all.
        if !text.contains(&b'%') && !may_contain(text) {
            let text = Zeroizing::new(text.to_vec());
            return Substituted { text, count: 0 };
        }
        let before = self.resolver.findings.substituted();
        let scanner = Scanner::new(self.resolver.lend(), slot, Encoding::Percent);
        let (text, scanner) = substitute_form(scanner, grammar, text);
        self.resolver = scanner.resolver;
        let count = self.resolver.findings.substituted() - before;
        let text = Zeroizing::new(text);
        Substituted { text, count }
    }

    fn scan(
        &mut self,
        slot: Slot,
        encoding: Encoding,
        feed: impl FnOnce(&mut Scanner, &mut Vec<u8>),
    ) -> Substituted {
        let before = self.resolver.findings.substituted();
        let mut scanner = Scanner::new(self.resolver.lend(), slot, encoding);
        let mut out = Vec::new();
        feed(&mut scanner, &mut out);
        self.resolver = scanner.resolver;
        let count = self.resolver.findings.substituted() - before;
        let text = Zeroizing::new(out);
        Substituted { text, count }
    }

    fn first_substituted(&self, wanted: Slot) -> Option<SecretName> {
        self.resolver
            .findings
            .iter()
            .find_map(|finding| match finding {
                Finding::Substituted { secret, slot, .. } if *slot == wanted => {
                    Some(secret.clone())
                }
                _ => None,
            })
    }

    fn wants(&self, slot: Slot) -> bool {
        let eligible = self.resolver.table.eligible(&self.resolver.eligibility);
        let slots = eligible.map(|secret| secret.slots);
        slots.fold(Slots::NONE, Slots::union).contains(slot)
    }

    /// Whether no substitution in a body of this kind can change its length.
    fn keeps_length(&self, kind: Option<&BodyKind>) -> bool {
        // Elsewhere a placeholder may be written with escapes, longer than a value.
        let Some(kind @ (BodyKind::Text | BodyKind::Xml | BodyKind::Multipart { .. })) = kind
        else {
            return false;
        };
        let eligible = self.resolver.table.eligible(&self.resolver.eligibility);
        let mut here = eligible.filter(|secret| secret.slots.contains(kind.slot()));
        here.all(|secret| {
            let mut written = Zeroizing::new(Vec::new());
            kind.encoding().encode(secret.value.expose(), &mut written);
            written.len() == PLACEHOLDER_LEN
        })
    }
}

#[cfg(test)]
mod tests;
