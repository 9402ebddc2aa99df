//! What a process has in its memory, as root can read it.

use std::io::{Read as _, Seek as _, SeekFrom};

use crate::canary::Canary;

/// Read at once; pieces overlap by what the longest form of a value takes.
const PIECE_LEN: usize = 4 << 20;
const OVERLAP_LEN: usize = 512;

/// Whether a canary is in what a process may read of its own memory, and in
/// which form. What vanishes meanwhile is not there.
pub fn find(canary: &Canary, pid: i32) -> anyhow::Result<Option<String>> {
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
            let Some(room) = piece.get_mut(..len) else {
                break;
            };
            let read = memory
                .seek(SeekFrom::Start(at))
                .and_then(|_| memory.read(room));
            let Ok(read @ 1..) = read else {
                break;
            };
            if let Some(form) = canary.find(piece.get(..read).unwrap_or_default()) {
                return Ok(Some(format!("{form} in {line}")));
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
    Ok(None)
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
