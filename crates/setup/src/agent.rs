//! The guest agent, which is part of this program.

/// The agent's executable: static, the guest's `/init`.
pub(crate) const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tombolo-agent"));

/// SHA-256 of [`BYTES`], computed once at build time.
pub(crate) const SHA256: &str = env!("TOMBOLO_AGENT_SHA256");

/// The agent's version as people read it: release and content.
pub(crate) fn version() -> String {
    let short = SHA256.get(..12).unwrap_or(SHA256);
    format!("{}+{short}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_a_static_executable() {
        assert_eq!(&BYTES[..4], b"\x7fELF");
        let interpreter = b"/lib64/ld-linux";
        let dynamic = BYTES.windows(interpreter.len()).any(|w| w == interpreter);
        assert!(!dynamic, "the agent asks for a dynamic loader");
        assert_eq!(SHA256.len(), 64);
        assert_eq!(SHA256, crate::recipe::hex_digest(BYTES));
    }
}
