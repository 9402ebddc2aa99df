//! Where a value comes from, and what is refused.

use super::*;

const MACHINE: Machine = Machine { memory_mib: 1000 };

fn resolve(
    flags: &[(&'static str, &str)],
    variables: &[(&str, &str)],
    file: &str,
) -> Result<Settings, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs_err::write(&path, file).unwrap();
    let flags = flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
    Settings::resolve(
        &flags,
        &Environment::of(variables),
        ConfigFile::Named(&path),
        MACHINE,
    )
    .map_err(|error| {
        let source = std::error::Error::source(&error)
            .map(|source| format!(": {}", source.to_string().lines().next().unwrap_or("")));
        let text = format!("{error}{} [{}]", source.unwrap_or_default(), error.hint());
        text.replace(&directory.path().display().to_string(), "DIR")
    })
}

#[test]
fn the_defaults_are_possible() {
    let settings = resolve(&[], &[], "").unwrap();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:8590");
    assert_eq!(settings.memory_limit_mib, 8000);
    assert_eq!(settings.disk_bytes, 10 << 30);
    assert_eq!(settings.run_as.to_string(), "60790:60790");
}

#[test]
fn nearer_places_win() {
    let file = "pool_size = 3";
    let variable = [("TOMBOLO_POOL_SIZE", "5")];
    for (flags, variables, file, expected) in [
        (&[][..], &[][..], "", 4),
        (&[], &[], file, 3),
        (&[], &variable, file, 5),
        (&[("pool_size", "7")], &variable, file, 7),
        (&[], &[("TOMBOLO_POOL_SIZE", "")], file, 3),
    ] {
        let settings = resolve(flags, variables, file).unwrap();
        assert_eq!(settings.pool_size, expected);
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_place_and_the_next_step() {
    for (flags, variables, file, expected) in [
        (
            &[("pool_size", "65")][..],
            &[][..],
            "",
            "pool_size = 65 (from the flag --pool-size) is not possible: it must be from 0 to 64 \
             [pool_size takes a whole number from 0 to 64]",
        ),
        (
            &[],
            &[("TOMBOLO_LISTEN", "here")],
            "",
            "listen = here (from the variable TOMBOLO_LISTEN) is not possible: it is not an \
             address and a port",
        ),
        (
            &[],
            &[],
            "lifetime_max = '3'",
            "lifetime_max = 3 (from DIR/config.toml) is not possible: ",
        ),
        (
            &[],
            &[],
            "run_as = '0:0'",
            "run_as = 0:0 (from DIR/config.toml) is not possible: the server must not run as root",
        ),
        (
            &[],
            &[],
            "isolation = 'none'",
            "isolation = none (from DIR/config.toml) is not possible: there is no such",
        ),
        (
            &[],
            &[],
            "pool_sizes = 1",
            "DIR/config.toml has the key \"pool_sizes\", which does not exist [did you mean \"pool_size\"?]",
        ),
        (
            &[],
            &[],
            "colour = 1",
            "DIR/config.toml has the key \"colour\", which does not exist [the keys are: listen",
        ),
        (&[], &[], "pool_size =", "DIR/config.toml is not valid TOML"),
        (
            &[],
            &[],
            "default_memory_mib = 700",
            "memory_mib_min = 768 is more than default_memory_mib = 700 [raise",
        ),
        (
            &[("memory_mib_max", "1024")],
            &[],
            "",
            "default_memory_mib = 1280 is more than memory_mib_max = 1024",
        ),
    ] {
        let error = resolve(flags, variables, file).unwrap_err();
        assert!(error.starts_with(expected), "{error}\n{expected}");
    }
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let missing = Path::new("/nonexistent/config.toml");
    let flags = Flags::new();
    let environment = Environment::default();
    let resolve = |file| Settings::resolve(&flags, &environment, file, MACHINE);
    assert!(resolve(ConfigFile::Usual(missing)).is_ok());
    let error = resolve(ConfigFile::Named(missing)).unwrap_err();
    assert!(matches!(error, ConfigError::Read(_)), "{error}");
}

#[test]
fn variables_that_mean_nothing_are_noticed() {
    let environment = Environment::of(&[
        ("TOMBOLO_POOLSIZE", "1"),
        ("TOMBOLO_POOL_SIZE", "1"),
        ("TOMBOLO_STATE_DIR", "/x"),
        ("TOMBOLO_TEST_BINARY", "/x"),
        ("PATH", "/x"),
    ]);
    assert_eq!(unknown_variables(&environment), ["TOMBOLO_POOLSIZE"]);
}

#[test]
fn every_key_has_names_that_agree() {
    for key in KEYS {
        assert_eq!(
            key.variable,
            format!("TOMBOLO_{}", key.name.to_uppercase()),
            "{}",
            key.name
        );
        key.kind.parse(&key.default.of(MACHINE)).unwrap();
    }
}
