//! The names of methods and notifications.

/// Client and server: a stream begins.
pub const STREAM_START: &str = "$sandbox.stream.start";
/// Client and server: bytes of a stream.
pub const STREAM_ENQUEUE: &str = "$sandbox.stream.enqueue";
/// Client and server: a stream is complete.
pub const STREAM_END: &str = "$sandbox.stream.end";
/// Client and server: a stream failed.
pub const STREAM_ERROR: &str = "$sandbox.stream.error";
/// The reader of a stream wants no more of it.
pub const STREAM_CANCEL: &str = "$sandbox.stream.cancel";

/// Cancels a call that was given an `abortId`.
pub const ABORT: &str = "abort";

/// Starts a process.
pub const SPAWN: &str = "spawn";
/// Waits for a process to end.
pub const PROCESS_WAIT: &str = "processWait";
/// Sends a signal to a process.
pub const PROCESS_KILL: &str = "processKill";
/// Takes a terminal over.
pub const PROCESS_ATTACH: &str = "processAttach";
/// Lists processes.
pub const PROCESS_LIST: &str = "processList";
/// Changes the size of a process's terminal.
pub const PROCESS_RESIZE: &str = "processResize";

/// A whole file as base64.
pub const READ_FILE: &str = "readFile";
/// A whole file as text.
pub const READ_TEXT_FILE: &str = "readTextFile";
/// Writes bytes to a file.
pub const WRITE_FILE: &str = "writeFile";
/// Writes text to a file.
pub const WRITE_TEXT_FILE: &str = "writeTextFile";
/// The entries of a directory.
pub const READ_DIR: &str = "readDir";
/// Removes a file or directory.
pub const REMOVE: &str = "remove";
/// Makes a directory.
pub const MKDIR: &str = "mkdir";
/// Moves a file or directory.
pub const RENAME: &str = "rename";
/// What a path leads to, links followed.
pub const STAT: &str = "stat";
/// What is at a path, links not followed.
pub const LSTAT: &str = "lstat";
/// Changes permission bits.
pub const CHMOD: &str = "chmod";
/// Changes the owner.
pub const CHOWN: &str = "chown";
/// Copies a file.
pub const COPY_FILE: &str = "copyFile";
/// Makes a hard link.
pub const LINK: &str = "link";
/// Makes a symbolic link.
pub const SYMLINK: &str = "symlink";
/// The text of a symbolic link.
pub const READ_LINK: &str = "readLink";
/// A path without links, `.` and `..`.
pub const REAL_PATH: &str = "realPath";
/// Cuts or extends a file.
pub const TRUNCATE: &str = "truncate";
/// Reads or changes the mask of new files' permission bits.
pub const UMASK: &str = "umask";
/// Changes a file's times.
pub const UTIME: &str = "utime";
/// Makes a directory of a new name.
pub const MAKE_TEMP_DIR: &str = "makeTempDir";
/// Makes a file of a new name.
pub const MAKE_TEMP_FILE: &str = "makeTempFile";
/// Walks a directory tree.
pub const WALK: &str = "walk";
/// Finds the files a glob matches.
pub const EXPAND_GLOB: &str = "expandGlob";

/// Opens a file.
pub const OPEN: &str = "open";
/// Opens a file for reading and writing, emptied or new.
pub const CREATE: &str = "create";
/// Reads from an open file.
pub const FILE_READ: &str = "fileRead";
/// Writes to an open file.
pub const FILE_WRITE: &str = "fileWrite";
/// Moves an open file's position.
pub const FILE_SEEK: &str = "fileSeek";
/// Cuts or extends an open file.
pub const FILE_TRUNCATE: &str = "fileTruncate";
/// What an open file is.
pub const FILE_STAT: &str = "fileStat";
/// Flushes an open file's data and metadata to disk.
pub const FILE_SYNC: &str = "fileSync";
/// Flushes an open file's data to disk.
pub const FILE_SYNC_DATA: &str = "fileSyncData";
/// Changes an open file's times.
pub const FILE_UTIME: &str = "fileUtime";
/// Takes an advisory lock on an open file.
pub const FILE_LOCK: &str = "fileLock";
/// Gives an advisory lock back.
pub const FILE_UNLOCK: &str = "fileUnlock";
/// Closes an open file.
pub const FILE_CLOSE: &str = "fileClose";

/// Lets a domain lead to a port of the sandbox.
pub const EXPOSE_HTTP: &str = "exposeHttp";
/// Starts VS Code for browsers.
pub const VSCODE: &str = "vscode";

/// One variable of the sandbox's environment.
pub const ENV_GET: &str = "envGet";
/// Sets a variable for processes started later.
pub const ENV_SET: &str = "envSet";
/// The sandbox's whole environment.
pub const ENV_TO_OBJECT: &str = "envToObject";
/// Removes a variable.
pub const ENV_DELETE: &str = "envDelete";

/// Starts Deno on a program.
pub const SPAWN_DENO: &str = "spawnDeno";
/// Starts a Deno process that evaluates what it is sent.
pub const SPAWN_DENO_REPL: &str = "spawnDenoRepl";
/// Waits for a process to listen on a port.
pub const DENO_HTTP_WAIT: &str = "denoHttpWait";
/// Evaluates code in a REPL.
pub const DENO_REPL_EVAL: &str = "denoReplEval";
/// Calls a function in a REPL.
pub const DENO_REPL_CALL: &str = "denoReplCall";
/// Ends a REPL.
pub const DENO_REPL_CLOSE: &str = "denoReplClose";
/// Server: a program that watches its files starts anew.
pub const DENO_WATCHER_RESTART: &str = "$sandbox.deno.watcher.restart";
/// Fetches from within the sandbox.
pub const FETCH: &str = "fetch";
