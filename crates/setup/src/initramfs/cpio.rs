//! Writing the archive form that the kernel unpacks: "newc" `cpio`, described
//! in the kernel's `Documentation/driver-api/early-userspace/buffer-format`.

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const ALIGNMENT: usize = 4;
/// What block devices and tools expect the whole archive to be a multiple of.
const BLOCK_LEN: usize = 512;

const TYPE_FILE: u32 = 0o100_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive in memory. All entries belong to root and have no time, so that
/// the same content is the same archive.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

#[derive(Debug, Default)]
struct Entry<'a> {
    name: &'a str,
    mode: u32,
    links: u32,
    device: (u32, u32),
    content: &'a [u8],
}

impl Archive {
    /// Adds a directory that everybody may read.
    pub(super) fn directory(&mut self, name: &str) {
        self.append(&Entry {
            name,
            mode: TYPE_DIRECTORY | 0o755,
            links: 2,
            ..Entry::default()
        });
    }

    /// Adds a regular file.
    pub(super) fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.append(&Entry {
            name,
            mode: TYPE_FILE | mode,
            links: 1,
            content,
            ..Entry::default()
        });
    }

    /// Adds a character device of a major and minor number.
    pub(super) fn character_device(&mut self, name: &str, mode: u32, device: (u32, u32)) {
        self.append(&Entry {
            name,
            mode: TYPE_CHARACTER_DEVICE | mode,
            links: 1,
            device,
            ..Entry::default()
        });
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.append(&Entry {
            name: TRAILER,
            links: 1,
            ..Entry::default()
        });
        self.pad(BLOCK_LEN);
        self.bytes
    }

    fn append(&mut self, entry: &Entry<'_>) {
        let inode = if entry.name == TRAILER {
            0
        } else {
            self.entries + 1
        };
        self.entries = inode;
        let (name_len, content_len) = (length(entry.name.len() + 1), length(entry.content.len()));
        let (major, minor) = entry.device;
        let fields = [
            inode,
            entry.mode,
            0,
            0,
            entry.links,
            0,
            content_len,
            0,
            0,
            major,
            minor,
            name_len,
            0,
        ];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(entry.name.as_bytes());
        self.bytes.push(0);
        self.pad(ALIGNMENT);
        self.bytes.extend_from_slice(entry.content);
        self.pad(ALIGNMENT);
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

/// The form has 32 bits for a length; what we pack is three digits of
/// megabytes below that, and an absurd length makes an archive that no kernel
/// unpacks rather than a wrong one.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use tombolo_proc::Command;

    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.character_device("dev/console", 0o600, (5, 1));
        archive.file("init", 0o755, b"hello");
        archive.finish()
    }

    #[test]
    fn the_archive_is_the_known_one() {
        let known = concat!(
            "07070100000001000041ED00000000000000000000000200000000",
            "000000000000000000000000000000000000000000000004",
            "00000000dev\0\0\0",
            "07070100000002000021800000000000000000000000010000000000000000",
            "00000000000000000000000500000001",
            "0000000C00000000dev/console\0\0\0",
            "07070100000003000081ED00000000000000000000000100000000",
            "000000050000000000000000000000000000000000000005",
            "00000000init\0\0",
            "hello\0\0\0",
            "07070100000000000000000000000000000000000000010000000000000000",
            "00000000000000000000000000000000",
            "0000000B00000000TRAILER!!!\0",
        );
        let mut bytes = known.as_bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(BLOCK_LEN), 0);
        assert_eq!(
            String::from_utf8(sample()).unwrap(),
            String::from_utf8(bytes).unwrap()
        );
    }

    #[test]
    fn another_reader_agrees_where_there_is_one() {
        let reader = Command::new("cpio").args(["--list", "--verbose", "--numeric-uid-gid"]);
        let Ok(output) = reader.input(sample()).run_blocking() else {
            return;
        };
        let text = output.stdout_text();
        let lines: Vec<&str> = text.lines().collect();
        let begins = ["drwxr-xr-x", "crw-------", "-rwxr-xr-x"];
        for (line, begin) in lines.iter().zip(begins) {
            assert!(line.starts_with(begin), "{line}");
        }
        assert_eq!(lines.len(), begins.len(), "{text}");
    }
}
