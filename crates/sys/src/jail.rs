//! Host side: the jail one VM runs in.
