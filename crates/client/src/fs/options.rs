//! How files are opened, written, made and found. What is not set has the
//! default that is told.

use tombolo_api::rpc;
pub use tombolo_api::rpc::Pattern;

/// Setters of optional fields of the wire's options.
macro_rules! options {
    ($(#[doc = $about:literal])+ $name:ident {
        $($(#[doc = $doc:literal])+ $setter:ident: $type:ty => $field:ident,)+
    }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Default)]
        #[must_use]
        pub struct $name(pub(crate) rpc::$name);

        impl $name {
            /// All defaults.
            pub fn new() -> Self {
                Self::default()
            }

            $($(#[doc = $doc])+
            pub fn $setter(mut self, $setter: $type) -> Self {
                self.0.$field = Some($setter.into());
                self
            })+
        }
    };
}

options! {
    /// How a file is opened.
    OpenOptions {
        /// For reading; so by default.
        read: bool => read,
        /// For writing.
        write: bool => write,
        /// For writing, each time at the end.
        append: bool => append,
        /// Empties it first.
        truncate: bool => truncate,
        /// Makes it when it is missing.
        create: bool => create,
        /// Makes it, and fails when it exists.
        create_new: bool => create_new,
        /// Permission bits of a new file.
        mode: u32 => mode,
    }
}

options! {
    /// How a file is written whole.
    WriteOptions {
        /// Adds to its end instead of replacing it.
        append: bool => append,
        /// Makes it when it is missing; so by default.
        create: bool => create,
        /// Makes it, and fails when it exists.
        create_new: bool => create_new,
        /// Permission bits, of a file that exists too.
        mode: u32 => mode,
    }
}

options! {
    /// How a directory is made.
    MkdirOptions {
        /// With all that is missing above it; then one that exists is no
        /// error.
        recursive: bool => recursive,
        /// Permission bits.
        mode: u32 => mode,
    }
}

options! {
    /// Where a temporary name is made up, and how it looks.
    MakeTempOptions {
        /// The directory; `/tmp` by default.
        dir: &str => dir,
        /// What it begins with.
        prefix: &str => prefix,
        /// What it ends with.
        suffix: &str => suffix,
    }
}

options! {
    /// What a walk shows.
    WalkOptions {
        /// How far below the root; without end by default.
        max_depth: u32 => max_depth,
        /// Whether it shows files; so by default.
        include_files: bool => include_files,
        /// Whether it shows directories; so by default.
        include_dirs: bool => include_dirs,
        /// Whether it shows symbolic links; so by default.
        include_symlinks: bool => include_symlinks,
        /// Whether it follows symbolic links.
        follow_symlinks: bool => follow_symlinks,
        /// Whether it shows links that it follows by where they lead; so by
        /// default.
        canonicalize: bool => canonicalize,
        /// Only files with one of these endings.
        exts: Vec<String> => exts,
        /// Only paths that match one of these.
        matching: Vec<Pattern> => matching,
        /// No paths that match one of these.
        skip: Vec<Pattern> => skip,
    }
}

options! {
    /// What a glob is compared with.
    ExpandGlobOptions {
        /// Where a relative one starts; `/home/app` by default.
        root: &str => root,
        /// Globs of what is left out.
        exclude: Vec<String> => exclude,
        /// Whether it shows directories; so by default.
        include_dirs: bool => include_dirs,
        /// Whether it follows symbolic links.
        follow_symlinks: bool => follow_symlinks,
        /// Whether it shows links that it follows by where they lead; so by
        /// default.
        canonicalize: bool => canonicalize,
        /// Whether the extended syntax is understood; so by default.
        extended: bool => extended,
        /// Whether `**` spans directories; so by default.
        globstar: bool => globstar,
        /// Whether case makes no difference.
        case_insensitive: bool => case_insensitive,
    }
}
