//! Records are read with their key and purpose, and with nothing else.

use proptest::prelude::*;

use super::*;
use crate::SecretName;

proptest! {
    #[test]
    fn what_is_written_is_read(plaintext: Vec<u8>, purpose: Vec<u8>, other: Vec<u8>, flip: usize) {
        let key = StorageKey::generate().unwrap();
        let bytes = key.encrypt(&plaintext, &purpose).unwrap().to_bytes();
        let record = Encrypted::from_bytes(&bytes).unwrap();
        let read = key.decrypt(&record, &purpose).unwrap();
        prop_assert_eq!(&read[..], &plaintext[..]);
        if other != purpose {
            prop_assert_eq!(key.decrypt(&record, &other).unwrap_err(), DecryptError::Damaged);
        }
        let mut changed = bytes.clone();
        changed[flip % bytes.len()] ^= 0x10;
        let read = Encrypted::from_bytes(&changed).map(|record| key.decrypt(&record, &purpose));
        prop_assert!(!matches!(read, Ok(Ok(_))));
    }

    #[test]
    fn parsing_takes_anything(bytes: Vec<u8>) {
        if let Ok(record) = Encrypted::from_bytes(&bytes) {
            prop_assert_eq!(record.to_bytes(), bytes);
        }
    }
}

#[test]
fn another_key_reads_nothing() {
    let (key, other) = (
        StorageKey::generate().unwrap(),
        StorageKey::generate().unwrap(),
    );
    let record = key.encrypt(b"canary", b"").unwrap();
    assert_eq!(other.decrypt(&record, b""), Err(DecryptError::Damaged));
    let again = StorageKey::from_bytes(key.to_bytes());
    assert_eq!(&again.decrypt(&record, b"").unwrap()[..], b"canary");
}

#[test]
fn a_secret_is_bound_and_hidden() {
    let key = StorageKey::generate().unwrap();
    let (name, other) = (
        SecretName::parse("A").unwrap(),
        SecretName::parse("B").unwrap(),
    );
    let context = |name| SecretContext {
        organisation: "o",
        sandbox: "s",
        name,
    };
    let value = SecretValue::new("canary-value".to_owned()).unwrap();
    let record = key.encrypt_secret(&value, &context(&name)).unwrap();
    let read = key.decrypt_secret(&record, &context(&name)).unwrap();
    assert!(read.is_same(&value));
    assert!(key.decrypt_secret(&record, &context(&other)).is_err());
    let shown = format!("{record:?} {key:?} {value:?}");
    assert!(!shown.contains("canary"));
    let bytes = record.to_bytes();
    assert!(!bytes.windows(6).any(|window| window == b"canary"));
}
