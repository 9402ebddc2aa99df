//! The store of certificates that Java reads. Debian's Java looks for it beside
//! the bundle; others are pointed to it by a variable.
//!
//! Its form is JKS, version 2, which every Java reads: a head with the number
//! of entries, the entries, and a SHA-1 digest over a password and all of that.
//! The image's certificates are written while a template is made, and only the
//! end is written for a sandbox: parsing and hashing the whole bundle would take
//! longer than everything else that a new sandbox waits for.

use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha1::{Digest as _, Sha1};

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
/// Where the head has the number of entries.
const COUNT_OFFSET: u64 = 8;
/// An entry that is a trusted certificate.
const TRUSTED: u32 = 2;
/// What Java's tools call the kind of certificate.
const KIND: &str = "X.509";
/// The name of the entry that is the sandbox's own.
const OWN_ALIAS: &str = "tombolo";
/// Certificates of the image that are taken.
const CERTIFICATES_MAX: u32 = 1000;
/// The password of all such stores, and what Java mixes into their digests.
const PASSWORD: &str = "changeit";
const WHITENER: &[u8] = b"Mighty Aphrodite";

/// The store as far as it is the same for every sandbox of a template.
#[derive(Debug, Clone)]
pub(crate) struct JavaStore {
    /// Its certificates.
    count: u32,
    /// Where the next entry begins.
    entries_end: u64,
    /// Over everything before that, with one more entry counted.
    digest: Sha1,
    /// That ends the store while it has no such entry.
    image_digest: [u8; 20],
}

impl JavaStore {
    /// Writes the store with the certificates of a bundle. What is no
    /// certificate in it is left out.
    ///
    /// # Errors
    /// Of the files.
    pub(crate) fn write(bundle: &Path, store: &Path) -> io::Result<Self> {
        let bundle = fs_err::read(bundle)?;
        let mut entries = Vec::new();
        let mut count = 0;
        let certificates = CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok);
        for certificate in certificates.take(CERTIFICATES_MAX as usize) {
            push_entry(&mut entries, &format!("image-{count}"), &certificate);
            count += 1;
        }
        let bytes = [&head(count)[..], &entries].concat();
        if let Some(directory) = store.parent() {
            fs_err::create_dir_all(directory)?;
        }
        let image_digest = begun_digest().chain_update(&bytes).finalize();
        fs_err::write(store, [&bytes[..], &image_digest].concat())?;
        let digest = begun_digest()
            .chain_update(head(count + 1))
            .chain_update(&entries);
        let entries_end = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        Ok(Self {
            count,
            entries_end,
            digest,
            image_digest: image_digest.into(),
        })
    }

    /// Adds a certificate, in the place of one that was added before.
    ///
    /// # Errors
    /// Of the file.
    pub(crate) fn add(&self, store: &Path, certificate: &CertificateDer<'_>) -> io::Result<()> {
        let mut entry = Vec::new();
        push_entry(&mut entry, OWN_ALIAS, certificate);
        let digest = self.digest.clone().chain_update(&entry).finalize();
        let end = [&entry[..], &digest].concat();
        self.write_end(store, &end, self.count + 1)
    }

    /// Takes out the certificate that was added.
    ///
    /// # Errors
    /// Of the file.
    pub(crate) fn remove(&self, store: &Path) -> io::Result<()> {
        self.write_end(store, &self.image_digest, self.count)
    }

    /// What follows the image's entries, and how many entries there are then.
    fn write_end(&self, store: &Path, end: &[u8], count: u32) -> io::Result<()> {
        let file = fs_err::OpenOptions::new().write(true).open(store)?;
        let mut file = file.into_file();
        file.seek(SeekFrom::Start(self.entries_end))?;
        file.write_all(end)?;
        let len = file.stream_position()?;
        file.set_len(len)?;
        file.write_all_at(&count.to_be_bytes(), COUNT_OFFSET)
    }
}

fn head(count: u32) -> [u8; 12] {
    let mut head = [0; 12];
    for (place, number) in head.chunks_exact_mut(4).zip([MAGIC, VERSION, count]) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    head
}

/// `alias` must be short. The time of an entry says nothing here and is zero.
fn push_entry(to: &mut Vec<u8>, alias: &str, certificate: &CertificateDer<'_>) {
    let push_text = |to: &mut Vec<u8>, text: &str| {
        to.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        to.extend_from_slice(text.as_bytes());
    };
    to.extend_from_slice(&TRUSTED.to_be_bytes());
    push_text(to, alias);
    to.extend_from_slice(&0_u64.to_be_bytes());
    push_text(to, KIND);
    let len = u32::try_from(certificate.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&len.to_be_bytes());
    to.extend_from_slice(certificate);
}

fn begun_digest() -> Sha1 {
    let password: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    Sha1::new().chain_update(password).chain_update(WHITENER)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neither needs to be a certificate: nothing here looks inside.
    const BUNDLE: &str = "a comment\n\
        -----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n\
        -----BEGIN CERTIFICATE-----\nAwQF\n-----END CERTIFICATE-----\n";

    /// The names and certificates of a store whose digest is right.
    fn read(store: &Path) -> Vec<(String, Vec<u8>)> {
        fn take<'a>(from: &mut &'a [u8], len: usize) -> &'a [u8] {
            let (taken, rest) = from.split_at(len);
            *from = rest;
            taken
        }
        fn number(from: &mut &[u8], len: usize) -> usize {
            let bytes = take(from, len).iter();
            bytes.fold(0, |number, byte| number << 8 | usize::from(*byte))
        }
        let bytes = fs_err::read(store).unwrap();
        let (mut rest, digest) = bytes.split_at(bytes.len() - 20);
        let expected = begun_digest().chain_update(rest).finalize();
        assert_eq!(digest, &expected[..]);
        assert_eq!(number(&mut rest, 4), 0xfeed_feed);
        assert_eq!(number(&mut rest, 4), 2);
        let count = number(&mut rest, 4);
        let entries = (0..count).map(|_| {
            assert_eq!(number(&mut rest, 4), 2);
            let len = number(&mut rest, 2);
            let name = String::from_utf8(take(&mut rest, len).to_vec()).unwrap();
            assert_eq!(number(&mut rest, 8), 0);
            let len = number(&mut rest, 2);
            assert_eq!(take(&mut rest, len), b"X.509");
            let len = number(&mut rest, 4);
            (name, take(&mut rest, len).to_vec())
        });
        let entries = entries.collect();
        assert!(rest.is_empty());
        entries
    }

    #[test]
    fn a_store_has_the_images_certificates_and_the_last_one_added() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().join("bundle");
        let store = directory.path().join("java/cacerts");
        fs_err::write(&bundle, BUNDLE).unwrap();
        let java = JavaStore::write(&bundle, &store).unwrap();
        let images = [
            ("image-0".to_owned(), vec![0, 1, 2]),
            ("image-1".to_owned(), vec![3, 4, 5]),
        ];
        assert_eq!(read(&store), images);
        for own in [vec![7; 900], vec![8; 30]] {
            java.add(&store, &CertificateDer::from(own.clone()))
                .unwrap();
            let expected = [&images[..], &[("tombolo".to_owned(), own)]].concat();
            assert_eq!(read(&store), expected);
        }
        java.remove(&store).unwrap();
        assert_eq!(read(&store), images);
    }
}
