//! Which processor this host has: device state saved on one kind is restored
//! only onto the same.

/// Its model and features, as text that is equal where they are.
pub(crate) fn model() -> String {
    let text = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let wanted = ["model name", "model\t", "stepping", "flags"];
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
        .collect();
    lines.sort_unstable();
    lines.dedup();
    lines.join("\n")
}
