//! Feeding the kernel's random number generator.
//!
//! A restored VM has the random state of its template, and so has every other
//! VM restored from it. Bytes written to `/dev/urandom` are only mixed in at
//! the next scheduled reseed; the two requests here make them count at once.

#![expect(unsafe_code, reason = "ioctl requests without a safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The most bytes taken at once; more adds nothing to a 256-bit generator.
pub const ENTROPY_LEN_MAX: usize = 512;

const WORDS_MAX: usize = ENTROPY_LEN_MAX / size_of::<u32>();
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// `struct rand_pool_info` with room for the largest request.
#[repr(C)]
struct RandPoolInfo {
    entropy_bits: libc::c_int,
    len: libc::c_int,
    words: [u32; WORDS_MAX],
}

/// Credits `bytes` to the generator behind `device` (`/dev/urandom`) and makes
/// it reseed from them now. Bytes past [`ENTROPY_LEN_MAX`] are left out.
pub fn add_entropy(device: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let mut pool = RandPoolInfo {
        entropy_bits: 0,
        len: 0,
        words: [0; WORDS_MAX],
    };
    for (word, chunk) in pool.words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = chunk
            .iter()
            .fold(0, |word, byte| (word << 8) | u32::from(*byte));
        pool.len += 4;
        pool.entropy_bits += 32;
    }
    let device = device.as_fd().as_raw_fd();
    // SAFETY: `pool` is laid out as the kernel's `rand_pool_info` and says how
    // many of its words are valid; the kernel only reads it.
    let added = unsafe { libc::ioctl(device, RNDADDENTROPY, &raw const pool) };
    if added < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this request takes no argument.
    let reseeded = unsafe { libc::ioctl(device, RNDRESEEDCRNG) };
    if reseeded < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
