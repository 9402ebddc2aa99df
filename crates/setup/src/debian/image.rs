//! From a root directory to a disk image, with the engine root's own tools.

use std::path::Path;

use tombolo_proc::Command;

use crate::{StepError, chroot::Chroot, ensure::IMAGE_NAME, publish::remove, recipe::IMAGE_MIB};

/// Where the tools see the directory that they work in.
const WORK: &str = "/tombolo/sandbox";
const RAW_NAME: &str = "image.raw";
const ROOT_NAME: &str = "root";

/// Turns `work/root` into `work/image.qcow2` and leaves nothing else there.
pub(super) fn make(
    engine_root: &Path,
    work: &Path,
    root: &Path,
    listen: &(dyn Fn(&str) + Sync),
) -> Result<(), StepError> {
    let raw = work.join(RAW_NAME);
    fs_err::File::create(&raw)?.set_len(IMAGE_MIB << 20)?;
    let (raw_inside, root_inside) = (format!("{WORK}/{RAW_NAME}"), format!("{WORK}/{ROOT_NAME}"));
    let image_inside = format!("{WORK}/{IMAGE_NAME}");
    let tool = |arguments: &[&str]| {
        let chroot = Chroot::new(engine_root).bind(work, WORK.trim_start_matches('/'));
        chroot.run(
            |_| Ok(()),
            |command: Command| command.args(arguments),
            listen,
        )
    };

    listen("writing the file system");
    // Tables are written out now, as holes, because a guest that finishes them
    // in the background would write into every sandbox's own layer. Root needs
    // no reserve on a disk that only one user fills, and a short journal keeps
    // what a sandbox writes again and again small.
    tool(&[
        "/usr/sbin/mke2fs",
        "-q",
        "-t",
        "ext4",
        "-d",
        &root_inside,
        "-E",
        "lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0",
        "-J",
        "size=32",
        "-L",
        "root",
        "-m",
        "0",
        &raw_inside,
    ])?;
    remove(root)?;
    tool(&["/usr/sbin/e2fsck", "-f", "-n", &raw_inside])?;

    listen("converting the image");
    tool(&[
        "/usr/bin/qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        &raw_inside,
        &image_inside,
    ])?;
    remove(&raw)?;
    tool(&[
        "/usr/bin/qemu-img",
        "check",
        "-q",
        "-f",
        "qcow2",
        &image_inside,
    ])?;
    Ok(())
}
