//! How large the image is that set-up made: no disk of a sandbox may be smaller.

use std::io::{self, Read as _};
use std::path::Path;

/// What every qcow2 file begins with (QEMU, docs/interop/qcow2.rst).
const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Where the header has the size of the disk, as eight bytes, the highest first.
const SIZE_OFFSET: usize = 24;
const HEADER_LEN: usize = 32;

/// The size of the disk in a qcow2 image, in bytes.
pub(crate) fn disk_bytes(image: &Path) -> io::Result<u64> {
    let mut header = [0; HEADER_LEN];
    fs_err::File::open(image)?.read_exact(&mut header)?;
    let size = header.last_chunk::<{ HEADER_LEN - SIZE_OFFSET }>();
    match size {
        Some(size) if header.starts_with(&MAGIC) => Ok(u64::from_be_bytes(*size)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is no qcow2 image; run `tombolo setup`", image.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_read_from_the_header() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.qcow2");
        let header = |magic: &[u8], size: u64| [magic, &[0; 20], &size.to_be_bytes()].concat();
        let cases = [
            (header(b"QFI\xfb", 10 << 30), Some(10 << 30)),
            (header(b"QFI\xfb", 0), Some(0)),
            (header(b"QFI\0", 10 << 30), None),
            (b"QFI\xfb".to_vec(), None),
            (Vec::new(), None),
        ];
        for (bytes, size) in cases {
            fs_err::write(&path, &bytes).unwrap();
            assert_eq!(disk_bytes(&path).ok(), size, "{bytes:?}");
        }
    }
}
