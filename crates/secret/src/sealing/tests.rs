//! Sealed secrets open for their key and context, and for nothing else.
#![expect(
    clippy::format_collect,
    reason = "hexadecimal texts are short and made once"
)]

use proptest::prelude::*;

use super::*;
use crate::SecretName;

const CANARY: &str = "sk-canary-0123456789abcdef";

fn value() -> SecretValue {
    SecretValue::new(CANARY.to_owned()).unwrap()
}

fn name() -> SecretName {
    SecretName::parse("API_KEY").unwrap()
}

fn context(name: &SecretName) -> SecretContext<'_> {
    SecretContext {
        organisation: "o1",
        sandbox: "s1",
        name,
    }
}

#[test]
fn only_the_private_key_opens() {
    let (key, other) = (
        OpeningKey::generate().unwrap(),
        OpeningKey::generate().unwrap(),
    );
    let name = name();
    let sealed = key.sealing_key().seal(&value(), &context(&name)).unwrap();
    assert_eq!(key.open(&sealed, &context(&name)).unwrap().expose(), CANARY);
    assert!(matches!(
        other.open(&sealed, &context(&name)),
        Err(OpenError::WrongKey { .. })
    ));
    // Claiming to be for the other key does not help.
    let mut claimed = sealed;
    claimed.fingerprint = other.public.fingerprint();
    assert!(matches!(
        other.open(&claimed, &context(&name)),
        Err(OpenError::Damaged(_))
    ));
}

#[test]
fn a_sealed_secret_cannot_be_moved() {
    let key = OpeningKey::generate().unwrap();
    let (name, other_name) = (name(), SecretName::parse("OTHER").unwrap());
    let sealed = key.sealing_key().seal(&value(), &context(&name)).unwrap();
    let here = context(&name);
    for elsewhere in [
        SecretContext {
            organisation: "o2",
            ..here
        },
        SecretContext {
            sandbox: "s2",
            ..here
        },
        SecretContext {
            name: &other_name,
            ..here
        },
    ] {
        assert!(matches!(
            key.open(&sealed, &elsewhere),
            Err(OpenError::Damaged(_))
        ));
    }
}

#[test]
fn every_changed_bit_is_noticed() {
    let key = OpeningKey::generate().unwrap();
    let name = name();
    let bytes = key
        .sealing_key()
        .seal(&value(), &context(&name))
        .unwrap()
        .to_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let opened = SealedSecret::from_bytes(&changed)
            .ok()
            .and_then(|sealed| key.open(&sealed, &context(&name)).ok());
        assert!(opened.is_none(), "byte {at}");
    }
    for len in 0..bytes.len() {
        let cut = SealedSecret::from_bytes(&bytes[..len])
            .ok()
            .and_then(|sealed| key.open(&sealed, &context(&name)).ok());
        assert!(cut.is_none(), "cut to {len}");
    }
}

#[test]
fn keys_are_kept_and_sent() {
    let key = OpeningKey::generate().unwrap();
    let again = OpeningKey::from_bytes(key.to_bytes().as_ref()).unwrap();
    let public: SealingKey = key.sealing_key().to_string().parse().unwrap();
    let name = name();
    let sealed = public.seal(&value(), &context(&name)).unwrap();
    assert_eq!(
        again.open(&sealed, &context(&name)).unwrap().expose(),
        CANARY
    );
    assert!(OpeningKey::from_bytes(&[0; 31]).is_err());
    assert!("AAAA".parse::<SealingKey>().is_err());
    assert!("?".parse::<SealingKey>().is_err());
    // A point of small order gives a shared secret that everybody knows.
    let zero = SealingKey::from_bytes(&[0; 32]);
    assert!(zero.map_or(true, |key| key.seal(&value(), &context(&name)).is_err()));
}

#[test]
fn json_carries_it_and_nothing_shows_it() {
    let key = OpeningKey::generate().unwrap();
    let name = name();
    let sealed = key.sealing_key().seal(&value(), &context(&name)).unwrap();
    let json = serde_json::to_string(&sealed).unwrap();
    let private: String = key.to_bytes().iter().map(|b| format!("{b:02x}")).collect();
    let shown = format!("{sealed:?} {key:?} {:?} {json}", key.sealing_key());
    assert!(!shown.contains(CANARY) && !shown.contains(&private));
    assert_eq!(serde_json::from_str::<SealedSecret>(&json).unwrap(), sealed);
    assert!(serde_json::from_str::<SealedSecret>("\"AQ\"").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_is_opened(text in "[ -~é\u{1f512}]{1,300}", organisation: String, sandbox: String) {
        let key = OpeningKey::generate().unwrap();
        let name = name();
        let context = SecretContext { organisation: &organisation, sandbox: &sandbox, name: &name };
        let value = SecretValue::new(text).unwrap();
        let sealed = key.sealing_key().seal(&value, &context).unwrap();
        let sent = SealedSecret::from_bytes(&sealed.to_bytes()).unwrap();
        prop_assert!(key.open(&sent, &context).unwrap().is_same(&value));
    }

    #[test]
    fn parsing_takes_anything(bytes: Vec<u8>) {
        if let Ok(sealed) = SealedSecret::from_bytes(&bytes) {
            prop_assert_eq!(sealed.to_bytes(), bytes);
        }
    }
}
