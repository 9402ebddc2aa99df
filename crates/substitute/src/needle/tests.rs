//! The forms of a value, written by other means.
#![expect(
    clippy::format_collect,
    reason = "hexadecimal texts are short and made once"
)]

use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use super::*;

fn has(needles: &[Needle], text: &[u8]) -> bool {
    let found = |needle: &Needle| {
        text.windows(needle.real().len())
            .any(|window| window == needle.real())
    };
    needles.iter().any(found)
}

/// REF-05: every encoding contains a needle.
#[test]
fn ref_05_every_encoding_contains_a_needle() {
    for value in [
        "sk-0123456789abcdef",
        "p\u{e4}ss/w+rd=\"x\\y\"<&>'; 1 ~*",
        "12345678",
        "\u{1f512}\u{1f512}",
    ] {
        let needles = needles_of(value, "PH");
        let json = serde_json::to_string(value).unwrap();
        let utf16 = |order: fn(u16) -> [u8; 2]| value.encode_utf16().flat_map(order).collect();
        let (little, big): (Vec<u8>, Vec<u8>) = (utf16(u16::to_le_bytes), utf16(u16::to_be_bytes));
        let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
        let percent: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let unicode: String = value
            .encode_utf16()
            .map(|unit| format!("\\u{unit:04x}"))
            .collect();
        let entities: String = value
            .chars()
            .map(|c| format!("&#{};", u32::from(c)))
            .collect();
        let hex_entities: String = value
            .chars()
            .map(|c| format!("&#x{:X};", u32::from(c)))
            .collect();
        let mut texts = vec![
            value.as_bytes().to_vec(),
            json.into_bytes(),
            little,
            big,
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
            percent.to_lowercase().into_bytes(),
            percent.into_bytes(),
            unicode.into_bytes(),
            entities.into_bytes(),
            hex_entities.into_bytes(),
        ];
        for before in ["", "u", "us", "use", "user"] {
            for after in ["", "x", "xy", "xyz"] {
                let text = format!("{before}{value}{after}");
                texts.push(STANDARD.encode(&text).into_bytes());
                texts.push(URL_SAFE.encode(&text).into_bytes());
            }
        }
        for text in texts {
            assert!(has(&needles, &text), "{}", String::from_utf8_lossy(&text));
        }
    }
}

#[test]
fn encoders_in_common_use_are_known() {
    let value = "a+b/c=d e\"f'g<h>&i~j(k)*l!";
    let needles = needles_of(value, "PH");
    for text in [
        // encodeURIComponent, encodeURI, URLSearchParams, Python quote and quote_plus.
        "a%2Bb%2Fc%3Dd%20e%22f'g%3Ch%3E%26i~j(k)*l!",
        "a+b/c=d%20e%22f'g%3Ch%3E&i~j(k)*l!",
        "a%2Bb%2Fc%3Dd+e%22f%27g%3Ch%3E%26i%7Ej%28k%29*l%21",
        "a%2Bb/c%3Dd%20e%22f%27g%3Ch%3E%26i~j%28k%29%2Al%21",
        "a%2bb%2fc%3dd%20e%22f%27g%3ch%3e%26i~j%28k%29%2al%21",
        // JSON of Go, of PHP, and of ASP.NET.
        "a+b/c=d e\\\"f'g\\u003ch\\u003e\\u0026i~j(k)*l!",
        "a+b\\/c=d e\\\"f'g<h>&i~j(k)*l!",
        "a\\u002Bb/c=d e\\u0022f\\u0027g\\u003Ch\\u003E\\u0026i~j(k)*l!",
        // HTML of Go, of Python, and of XML writers.
        "a+b/c=d e&quot;f&#39;g&lt;h&gt;&amp;i~j(k)*l!",
        "a+b/c=d e&quot;f&#x27;g&lt;h&gt;&amp;i~j(k)*l!",
        "a+b/c=d e&quot;f&apos;g&lt;h&gt;&amp;i~j(k)*l!",
        "a+b/c=d e\"f'g&lt;h&gt;&amp;i~j(k)*l!",
    ] {
        assert!(has(&needles, text.as_bytes()), "{text}");
    }
}

#[test]
fn no_needle_is_so_short_that_chance_finds_it() {
    for value in ["12345678", "\u{1f512}\u{1f512}", &"x".repeat(1000)] {
        for needle in needles_of(value, "PH") {
            assert!(needle.real().len() >= SCRUB_LEN_MIN, "{value}");
        }
    }
}
