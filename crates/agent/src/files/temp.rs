//! Temporary files and directories, with names that nobody can guess.

use std::path::Path;

use rustix::fs::{Mode, OFlags, mkdir, open};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use tombolo_guest_proto::v1::MakeTempRequest;
use tonic::Status;

use super::Files;
use crate::fault::{CallError, Cause, at, blocking};

const DEFAULT_DIRECTORY: &str = "/tmp";
const ATTEMPTS_MAX: u32 = 16;
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

pub(crate) async fn make_temp(files: &Files, request: MakeTempRequest) -> Result<String, Status> {
    let operation = if request.directory {
        "makeTempDir"
    } else {
        "makeTempFile"
    };
    for part in [&request.prefix, &request.suffix] {
        if part.contains(['/', '\0']) {
            let cause = Cause::InvalidArgument("a temporary name holds '/' or a nul byte");
            return Err(CallError::new(operation, part, cause).into());
        }
    }
    let directory = match request.dir.as_str() {
        "" => DEFAULT_DIRECTORY,
        directory => directory,
    };
    let directory = directory.to_owned();
    let parent = files.resolve(operation, &directory)?;
    blocking(move || {
        for _ in 0..ATTEMPTS_MAX {
            let name = random_name().map_err(at(operation, &directory))?;
            let name = format!("{}{name}{}", request.prefix, request.suffix);
            match make(&parent.join(&name), request.directory) {
                Ok(()) => {
                    let path = Path::new(&directory).join(name);
                    return Ok(path.to_string_lossy().into_owned());
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(CallError::errno(operation, &directory, errno)),
            }
        }
        Err(CallError::errno(operation, &directory, Errno::EXIST))
    })
    .await
}

fn make(path: &Path, directory: bool) -> Result<(), Errno> {
    if directory {
        return mkdir(path, Mode::from(DIRECTORY_MODE));
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    open(path, flags, Mode::from(FILE_MODE)).map(drop)
}

fn random_name() -> Result<String, Errno> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
