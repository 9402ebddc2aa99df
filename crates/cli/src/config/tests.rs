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
    assert_eq!(settings.disk_gib, 10);
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
            "run_as = 0:0 (from DIR/config.toml) is not possible: it must not run as root",
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
fn lists_are_written_as_the_place_allows() {
    let hosts = [
        ("api.example.com:443", "127.0.0.1:8443"),
        ("b.example", "::1"),
    ];
    let hosts = hosts.map(|(name, to)| (name.to_owned(), to.to_owned()));
    let text = "api.example.com:443=127.0.0.1:8443, b.example=::1";
    let file = "[egress.hosts]\n'api.example.com:443' = '127.0.0.1:8443'\n'b.example' = '::1'";
    let inline = "egress.hosts = { 'api.example.com:443' = '127.0.0.1:8443', 'b.example' = '::1' }";
    let array = "[egress]\nhosts = ['api.example.com:443=127.0.0.1:8443', 'b.example=::1']";
    for (flags, variables, file) in [
        (&[("egress.hosts", text)][..], &[][..], ""),
        (&[], &[("TOMBOLO_EGRESS_HOSTS", text)], ""),
        (&[], &[], file),
        (&[], &[], inline),
        (&[], &[], array),
    ] {
        let settings = resolve(flags, variables, file).unwrap();
        assert_eq!(settings.egress.hosts, hosts.clone().into(), "{file}");
    }
    let file = "[egress]\nroot_files = ['/a,b', '/c']\nprivate_networks = ['10.1.0.0/16']\n\
                audit_file_mib = 1\naudit_files = 2";
    let egress = resolve(&[], &[], file).unwrap().egress;
    assert_eq!(egress.root_files, [Path::new("/a,b"), Path::new("/c")]);
    assert_eq!(egress.private_networks, ["10.1.0.0/16"]);
    assert_eq!(egress.audit_file_bytes_max.get(), 1 << 20);
    assert_eq!(egress.audit_files_kept.get(), 2);
    let file =
        "[egress]\nclient_certificates = { 'a.example:8443' = '/a.pem', 'b.example' = '/b.pem' }";
    let flags = (
        "egress.client_certificates",
        "a.example:8443=/a.pem,b.example=/b.pem",
    );
    let expected = [("a.example:8443", "/a.pem"), ("b.example", "/b.pem")];
    let expected = expected.map(|(name, path)| (name.to_owned(), path.into()));
    for (flags, file) in [(&[][..], file), (&[flags], "")] {
        let egress = resolve(flags, &[], file).unwrap().egress;
        assert_eq!(egress.client_certificates, expected.clone().into());
    }
    let egress = resolve(&[], &[("TOMBOLO_EGRESS_ROOT_FILES", "/a,/b")], "")
        .unwrap()
        .egress;
    assert_eq!(egress.root_files, [Path::new("/a"), Path::new("/b")]);
}

#[test]
fn what_the_egress_proxy_could_not_use_is_refused() {
    for (flags, expected) in [
        (
            &[("egress.hosts", "api.example.com")][..],
            "egress.hosts = api.example.com (from the flag --egress-host) is not possible: \
             \"api.example.com\" is not a name and an address",
        ),
        (
            &[("egress.hosts", "a.example=1.2.3.4,a.example=1.2.3.5")],
            "egress.hosts = a.example=1.2.3.4,a.example=1.2.3.5 (from the flag --egress-host) is \
             not possible: \"a.example\" is there twice",
        ),
        (
            &[("egress.hosts", "a.example=b.example")],
            "egress.hosts = a.example=b.example (from the flag --egress-host) is not possible: \
             `b.example` is not an address",
        ),
        (
            &[("egress.hosts", "a.example=169.254.169.254")],
            "egress.hosts = a.example=169.254.169.254 (from the flag --egress-host) is not \
             possible: `a.example` leads to a cloud's metadata service",
        ),
        (
            &[("egress.private_networks", "8.0.0.0/8")],
            "egress.private_networks = 8.0.0.0/8 (from the flag --egress-private-network) is not \
             possible: `8.0.0.0/8` is not a private range",
        ),
        (
            &[("egress.root_files", "roots.pem")],
            "egress.root_files = roots.pem (from the flag --egress-root-file) is not possible: \
             \"roots.pem\" is not an absolute path",
        ),
        (
            &[("egress.client_certificates", "a.example=client.pem")],
            "egress.client_certificates = a.example=client.pem (from the flag \
             --egress-client-certificate) is not possible: \"client.pem\" is not an absolute path",
        ),
        (
            &[("egress.client_certificates", "*.example=/client.pem")],
            "egress.client_certificates = *.example=/client.pem (from the flag \
             --egress-client-certificate) is not possible: `*.example` is not a host name",
        ),
        (
            &[("egress.run_as", "60790:60791")],
            "run_as and egress.run_as are both the user 60790 [choose two users",
        ),
    ] {
        let error = resolve(flags, &[], "").unwrap_err();
        assert!(error.starts_with(expected), "{error}\n{expected}");
    }
}

#[test]
fn a_file_that_cannot_be_understood_is_refused() {
    for (file, expected) in [
        (
            "[egress.hosts]\napi.example.com = '127.0.0.1'",
            "egress.hosts = api={ example = { com = \"127.0.0.1\" } } (from DIR/config.toml) is \
             not possible: ",
        ),
        (
            "[egress]\nhost = {}",
            "DIR/config.toml has the key \"egress.host\", which does not exist [did you mean \
             \"egress.hosts\"?]",
        ),
        (
            "[egres]\nhosts = {}",
            "DIR/config.toml has the key \"egres\", which does not exist",
        ),
        (
            "egress = 1",
            "DIR/config.toml has the key \"egress\", which does not exist",
        ),
        (
            "pool_size = [1]",
            "pool_size = 1 (from DIR/config.toml) is not possible: it takes one value",
        ),
    ] {
        let error = resolve(&[], &[], file).unwrap_err();
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

/// Flags by key.
type Typed<'a> = &'a [(&'static str, &'a str)];

#[test]
fn only_what_the_file_says_is_compared_with_a_server_that_runs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let file = ConfigFile::Named(&path);
    let given =
        "pool_size = 2\nlifetime_max = \"2h\"\n[egress]\naudit_files = 3\naudit_file_mib = 5\n";
    fs_err::write(&path, given).unwrap();
    let resolve = |flags: &[(&'static str, &str)]| {
        let flags = flags.iter().map(|(key, value)| (*key, (*value).to_owned()));
        Settings::resolve(&flags.collect(), &Environment::default(), file, MACHINE).unwrap()
    };
    let ours = resolve(&[]);
    let cases: [(Typed<'_>, &[&str]); 5] = [
        (&[], &[]),
        (&[("listen", "127.0.0.1:9"), ("vcpu_count", "1")], &[]),
        (&[("pool_size", "3")], &["pool_size"]),
        (
            &[("egress.audit_files", "4"), ("lifetime_max", "3h")],
            &["egress.audit_files", "lifetime_max"],
        ),
        (
            &[("egress.audit_file_mib", "6")],
            &["egress.audit_file_mib"],
        ),
    ];
    for (running, expected) in cases {
        let found = ours.not_followed(&resolve(running), &path).unwrap();
        assert_eq!(found, expected, "{running:?}");
    }
    // Every key has a field.
    let fields = flat(serde_json::to_value(&ours).unwrap());
    for key in KEYS {
        assert!(fields.contains_key(field_of(key.name)), "{}", key.name);
    }
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
            format!("TOMBOLO_{}", key.name.to_uppercase().replace('.', "_")),
            "{}",
            key.name
        );
        let default = Given::Text(key.default.of(MACHINE));
        key.kind.parse(&default).unwrap();
    }
}
