//! Guest side: what PID 1 of a sandbox needs of Linux.
