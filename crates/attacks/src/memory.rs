//! What a process has in its memory, as root can read it, and what is in files.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::canary::Canary;

/// Read at once; pieces overlap by what the longest form of a value takes.
const PIECE_LEN: usize = 4 << 20;
const OVERLAP_LEN: usize = 512;
const PAGE_LEN: usize = 4096;

/// Where in its memory a process has a canary, and in which form. What vanishes
/// meanwhile is not there.
pub fn find(canary: &Canary, pid: i32) -> anyhow::Result<Option<String>> {
    let mut found = None;
    walk(pid, |line, bytes| {
        found = canary.find(bytes).map(|form| format!("{form} in {line}"));
        found.is_some()
    })?;
    Ok(found)
}

/// Whether a process has some bytes in its memory.
pub fn contains(pid: i32, wanted: &[u8]) -> anyhow::Result<bool> {
    let search = aho_corasick::AhoCorasick::new([wanted])?;
    walk(pid, |_line, bytes| search.is_match(bytes))
}

/// The form in which a canary is in a file, if it is.
pub fn find_in_file(canary: &Canary, path: &Path) -> anyhow::Result<Option<&'static str>> {
    let mut file = fs_err::File::open(path)?;
    let mut piece = vec![0; PIECE_LEN];
    let mut kept = 0;
    loop {
        let read = file.read(piece.get_mut(kept..).unwrap_or_default())?;
        let len = kept + read;
        let bytes = piece.get(..len).unwrap_or_default();
        if let Some(form) = find_in(bytes, |bytes| canary.find(bytes)) {
            return Ok(Some(form));
        }
        if read == 0 {
            return Ok(None);
        }
        let start = len.saturating_sub(OVERLAP_LEN);
        piece.copy_within(start..len, 0);
        kept = len - start;
    }
}

/// Shows `look` everything that a process can read of its memory, until it has
/// seen enough. Answers whether it has.
fn walk(pid: i32, mut look: impl FnMut(&str, &[u8]) -> bool) -> anyhow::Result<bool> {
    let maps = fs_err::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut memory = fs_err::File::open(format!("/proc/{pid}/mem"))?;
    let mut piece = vec![0; PIECE_LEN];
    for line in maps.lines() {
        let Some((start, end)) = readable(line) else {
            continue;
        };
        let mut at = start;
        while at < end {
            let len = usize::try_from(end - at)
                .unwrap_or(PIECE_LEN)
                .min(PIECE_LEN);
            let room = piece.get_mut(..len).unwrap_or_default();
            let read = memory
                .seek(SeekFrom::Start(at))
                .and_then(|_| memory.read(room));
            let Ok(read @ 1..) = read else {
                break;
            };
            let bytes = piece.get(..read).unwrap_or_default();
            if find_in(bytes, |bytes| look(line, bytes).then_some(())).is_some() {
                return Ok(true);
            }
            let is_last = at + read as u64 >= end;
            let step = if is_last {
                read
            } else {
                read.saturating_sub(OVERLAP_LEN).max(1)
            };
            at += step as u64;
        }
    }
    Ok(false)
}

/// Looks into what is not all zeros: most of a guest's memory was never used.
fn find_in<T>(bytes: &[u8], mut look: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
    static ZEROS: [u8; PAGE_LEN] = [0; PAGE_LEN];
    let mut used: Option<usize> = None;
    let mut at = 0;
    for page in bytes.chunks(PAGE_LEN) {
        let is_empty = ZEROS.get(..page.len()) == Some(page);
        if is_empty && let Some(start) = used.take() {
            // The empty page as well: what is searched for may end in it.
            let end = at + page.len();
            if let Some(found) = look(bytes.get(start..end).unwrap_or_default()) {
                return Some(found);
            }
        }
        if !is_empty && used.is_none() {
            used = Some(at);
        }
        at += page.len();
    }
    used.and_then(|start| look(bytes.get(start..).unwrap_or_default()))
}

/// The range of a line of proc(5)'s `maps`, if it can be read.
fn readable(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let is_device = line.ends_with("[vvar]") || line.ends_with("[vsyscall]");
    if !rest.starts_with('r') || is_device {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_holds_is_found() {
        let canary = Canary::new().unwrap();
        let own = std::process::id().cast_signed();
        assert!(find(&canary, own).unwrap().is_some());
    }

    #[test]
    fn what_is_between_empty_pages_is_found() {
        let canary = Canary::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for at in [0, 1, 4090, 4096, PIECE_LEN - 10, PIECE_LEN + 4090] {
            let mut bytes = vec![0; at];
            bytes.extend(canary.value().as_bytes());
            bytes.extend(vec![0; 10_000]);
            fs_err::write(&path, bytes).unwrap();
            assert_eq!(find_in_file(&canary, &path).unwrap(), Some("raw"), "{at}");
        }
        fs_err::write(&path, vec![0; 10_000]).unwrap();
        assert_eq!(find_in_file(&canary, &path).unwrap(), None);
    }

    #[test]
    fn only_readable_ranges_count() {
        for (line, expected) in [
            ("1000-2000 rw-p 0 0:0 0 [heap]", Some((0x1000, 0x2000))),
            ("1000-2000 ---p 0 0:0 0", None),
            ("1000-2000 r--p 0 0:0 0 [vvar]", None),
            ("", None),
        ] {
            assert_eq!(readable(line), expected, "{line}");
        }
    }
}
