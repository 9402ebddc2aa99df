//! What tests get from the registries of other languages, kept between runs
//! below `target`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tombolo_proc::Command;

/// From a registry, perhaps through a slow mirror.
const INSTALL_MAX: Duration = Duration::from_mins(3);

/// The project's own directory.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A directory that has what the list of packages in `pins` names. `steps` put
/// it there, unless an earlier run did.
///
/// # Errors
/// Of the steps, and of the files.
pub async fn installed(
    name: &str,
    pins: &Path,
    steps: impl FnOnce(&Path) -> Vec<Command>,
) -> anyhow::Result<PathBuf> {
    let directory = workspace().join("target/sdk").join(name);
    fs_err::create_dir_all(&directory)?;
    // Two tests may want the same at once. The lock ends with the file.
    let lock = fs_err::File::create(directory.join("lock"))?.into_file();
    lock.lock()?;
    let mark = directory.join("installed");
    let wanted = fs_err::read_to_string(pins)?;
    if fs_err::read_to_string(&mark).is_ok_and(|done| done == wanted) {
        return Ok(directory);
    }
    for step in steps(&directory) {
        step.inherit_env().deadline(INSTALL_MAX).run().await?;
    }
    fs_err::write(mark, wanted)?;
    Ok(directory)
}
