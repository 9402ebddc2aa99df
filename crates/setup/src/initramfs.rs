//! The first file system of the guest: the agent as `/init`, the console it
//! complains to, and the kernel modules it loads, in their order.

mod cpio;
mod modules;

use std::path::Path;

use crate::{StepError, agent, publish::publish, recipe};
use cpio::Archive;

/// Makes the initramfs for the kernel in an engine root.
pub(crate) fn make(
    engine_root: &Path,
    kernel_release: &str,
    target: &Path,
) -> Result<(), StepError> {
    let tree = engine_root.join("usr/lib/modules").join(kernel_release);
    let modules = modules::load(&tree, &recipe::MODULES)?;
    let mut archive = Archive::default();
    archive.directory("dev");
    archive.character_device("dev/console", 0o600, (5, 1));
    archive.directory("modules");
    let names: Vec<&str> = modules.iter().map(|m| m.file_name.as_str()).collect();
    let order = names.join(
        "
",
    ) + "
";
    archive.file("modules/order", 0o644, order.as_bytes());
    for module in &modules {
        let path = format!("modules/{}", module.file_name);
        archive.file(&path, 0o644, &module.bytes);
    }
    archive.file("init", 0o755, agent::BYTES);
    let bytes = archive.finish();
    publish(target, |path| Ok(fs_err::write(path, bytes)?))
}
