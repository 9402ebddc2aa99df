//! The tables of decisions, row by row.

use super::*;

const CAP: u64 = 1000;

fn framing() -> RequestFraming {
    RequestFraming {
        kind: Some(BodyKind::Json),
        length: BodyLength::Known(10),
        codings: Ok(Codings::default()),
        has_digest: false,
        upstream: UpstreamFraming::Http1,
        buffer_max_bytes: CAP,
        is_strict: false,
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the tables compare it with refusals"
)]
fn buffer(codings: &[Coding], on_change: OnChange) -> Result<BodyPlan, Refusal> {
    Ok(BodyPlan::Buffer {
        codings: Codings(codings.to_vec()),
        max_bytes: CAP,
        on_change,
    })
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the tables compare it with refusals"
)]
fn stream(codings: &[Coding]) -> Result<BodyPlan, Refusal> {
    Ok(BodyPlan::Stream {
        codings: Codings(codings.to_vec()),
    })
}

/// SUB-08, SUB-09, SUB-10, SUB-11, SUB-12: each row of the request table.
#[test]
fn each_row_of_the_request_table() {
    use BodyLength::{Empty, Known, Unknown};
    use UpstreamFraming::{Http1, Http1LengthOnly, Http2};
    let declare = || buffer(&[], OnChange::DeclareLength);
    let too_large = || Err(Refusal::BodyTooLarge { max_bytes: CAP });
    for (length, upstream, expected) in [
        (Empty, Http1, Ok(BodyPlan::Untouched)),
        (Known(CAP), Http1, declare()),
        (Known(CAP), Http2, declare()),
        (Known(CAP), Http1LengthOnly, declare()),
        (Known(CAP + 1), Http1, stream(&[])),
        (Known(CAP + 1), Http2, stream(&[])),
        (Known(CAP + 1), Http1LengthOnly, too_large()),
        (Unknown, Http1, stream(&[])),
        (Unknown, Http2, stream(&[])),
        (Unknown, Http1LengthOnly, declare()),
    ] {
        let framing = RequestFraming {
            length,
            upstream,
            ..framing()
        };
        assert_eq!(
            plan_request(&framing, false),
            expected,
            "{length:?} {upstream:?}"
        );
    }
}

/// SUB-10, SUB-11: what may flow, and what is decoded.
#[test]
fn same_length_streams_and_codings_are_undone() {
    let known = |length| RequestFraming {
        length: BodyLength::Known(length),
        ..framing()
    };
    assert_eq!(
        plan_request(&known(CAP + 1), true),
        Ok(BodyPlan::SameLength)
    );
    let coded = |length, is_strict, value: &str| RequestFraming {
        codings: Codings::parse(value),
        is_strict,
        ..known(length)
    };
    let gzip = [Coding::Gzip];
    assert_eq!(
        plan_request(&coded(5, false, "gzip"), true),
        buffer(&gzip, OnChange::DeclareLength)
    );
    assert_eq!(
        plan_request(&coded(CAP + 1, false, "gzip"), true),
        stream(&gzip)
    );
    assert_eq!(
        plan_request(&coded(5, false, "lzma"), true),
        Ok(BodyPlan::Literal)
    );
    assert_eq!(
        plan_request(&coded(5, true, "lzma"), true),
        Err(Refusal::UnknownEncoding)
    );
}

/// SUB-12: digests are never stale.
#[test]
fn sub_12_digests_are_never_stale() {
    let digest = |length| RequestFraming {
        length,
        has_digest: true,
        ..framing()
    };
    for (length, expected) in [
        (BodyLength::Known(5), buffer(&[], OnChange::Refuse)),
        (BodyLength::Unknown, buffer(&[], OnChange::Refuse)),
        (BodyLength::Known(CAP + 1), Err(Refusal::DigestWouldBreak)),
    ] {
        assert_eq!(plan_request(&digest(length), false), expected);
        assert_eq!(plan_request(&digest(length), true), expected);
    }
    for (name, value, expected) in [
        ("Content-MD5", "x", true),
        ("Digest", "x", true),
        ("Repr-Digest", "x", true),
        ("Content-Digest", "x", true),
        ("X-Amz-Content-Sha256", "e3b0", true),
        ("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD", false),
        ("x-amz-checksum-crc32", "x", true),
        ("x-goog-hash", "x", true),
        ("etag", "x", false),
    ] {
        assert_eq!(is_digest_header(name, value.as_bytes()), expected, "{name}");
    }
}

/// REF-03, REF-04, REF-16, REF-17, REF-19: each row of the response table.
#[test]
fn each_row_of_the_response_table() {
    use BodyLength::{Empty, Known, Unknown};
    let plain = || Codings(vec![]);
    let both = || Codings(vec![Coding::Gzip, Coding::Brotli]);
    let small = |codings| ResponsePlan::Buffer {
        codings,
        max_bytes: RESPONSE_BUFFER_LEN_MAX,
    };
    let json = Some("application/json");
    let binary = Some("application/octet-stream");
    for (content_type, length, coding, expected) in [
        (json, Empty, "", Ok(ResponsePlan::HeadersOnly)),
        (json, Known(10), "", Ok(small(plain()))),
        (json, Known(10), "gzip, br", Ok(small(both()))),
        (
            json,
            Known(1 << 20),
            "",
            Ok(ResponsePlan::Stream { codings: plain() }),
        ),
        (
            Some("text/event-stream"),
            Unknown,
            "",
            Ok(ResponsePlan::Stream { codings: plain() }),
        ),
        (
            binary,
            Known(1 << 30),
            "",
            Ok(ResponsePlan::Mask { codings: plain() }),
        ),
        (
            binary,
            Unknown,
            "gzip,br",
            Ok(ResponsePlan::Mask { codings: both() }),
        ),
        (
            Some("application/grpc+proto"),
            Unknown,
            "",
            Ok(ResponsePlan::Mask { codings: plain() }),
        ),
        (
            None,
            Known(10),
            "",
            Ok(ResponsePlan::Mask { codings: plain() }),
        ),
        (json, Known(10), "lzma", Err(Refusal::UnscannableEncoding)),
        (
            json,
            Known(10),
            "gzip,gzip,gzip",
            Err(Refusal::UnscannableEncoding),
        ),
        (binary, Unknown, "dcb", Err(Refusal::UnscannableEncoding)),
    ] {
        let found = plan_response(&ResponseFraming {
            content_type,
            length,
            codings: Codings::parse(coding),
        });
        assert_eq!(found, expected, "{content_type:?} {length:?} {coding}");
    }
}

#[test]
fn only_codings_that_can_be_undone_are_asked_for() {
    for (asked, expected) in [
        ("gzip, deflate, br, zstd", "gzip, deflate, br, zstd"),
        ("gzip;q=0.5, dcb, *;q=0.1", "gzip;q=0.5"),
        ("dcz", "identity"),
        ("*", "identity"),
        ("", "identity"),
        ("identity", "identity"),
        ("GZIP", "GZIP"),
    ] {
        assert_eq!(accepted_codings(asked, |_| true), expected, "{asked}");
    }
    let no_brotli = |coding| coding != Coding::Brotli;
    assert_eq!(accepted_codings("br, gzip;q=0.5", no_brotli), "gzip;q=0.5");
    assert_eq!(accepted_codings("br", no_brotli), "identity");
    assert_eq!(
        Codings::parse("identity, x-gzip"),
        Ok(Codings(vec![Coding::Gzip]))
    );
    assert_eq!(Codings::parse("gzip;x"), Err(UnknownCoding));
}

#[test]
fn each_refusal_has_its_own_code() {
    let secret = || tombolo_secret::SecretName::parse("K").unwrap();
    let all = [
        Refusal::BodyTooLarge { max_bytes: 1 },
        Refusal::DigestWouldBreak,
        Refusal::UnknownEncoding,
        Refusal::UnscannableEncoding,
        Refusal::PathStructure { secret: secret() },
        Refusal::ColonInUser { secret: secret() },
        Refusal::CredentialMissing { secret: secret() },
        Refusal::ForeignCredential { secret: secret() },
        Refusal::MessageTooLarge { max_bytes: 1 },
    ];
    let codes: std::collections::BTreeSet<&str> = all.iter().map(Refusal::code).collect();
    assert_eq!(codes.len(), all.len());
    let reference = include_str!("../../../../docs/reference/network.md");
    for code in codes {
        assert!(reference.contains(&format!("`{code}`")), "{code}");
    }
    assert!(
        all.iter()
            .all(|refusal| (400..600).contains(&refusal.status()))
    );
}
