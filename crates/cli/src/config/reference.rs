//! The reference page of the configuration, made from the table of keys.

use std::fmt::Write as _;

use super::keys::{KEYS, OTHER_VARIABLES};

/// The page, as Markdown.
pub(crate) fn page() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         Made by `tombolo docs configuration`; do not edit.\n\n\
         A flag goes before an environment variable, that before the configuration file, that before\n\
         the default. The file is `config.toml` in the state directory, or the one named by `--config`\n\
         or `TOMBOLO_CONFIG`. It is TOML; a key that does not exist is an error.\n\n\
         ```toml\n\
         listen = \"127.0.0.1:8590\"\n\
         pool_size = 8\n\
         lifetime_max = \"2h\"\n\n\
         [egress]\n\
         private_networks = [\"10.1.0.0/16\"]\n\
         hosts = { \"api.example.com\" = \"127.0.0.1:8443\" }\n\
         ```\n\n\
         ## Keys\n",
    );
    for key in KEYS {
        let written = write!(
            page,
            "\n### `{}`\n\n{}\n\n\
             - takes {}\n\
             - default: {}\n\
             - flag of `tombolo up`: `{}`\n\
             - environment: `{}`\n",
            key.name,
            key.meaning,
            key.kind,
            key.default,
            key.flag(),
            key.variable
        );
        debug_assert!(written.is_ok(), "a String takes everything");
    }
    page.push_str("\n## Other environment variables\n\n| name | meaning |\n|---|---|\n");
    for (name, meaning) in OTHER_VARIABLES {
        let written = writeln!(page, "| `{name}` | {meaning} |");
        debug_assert!(written.is_ok(), "a String takes everything");
    }
    page
}
