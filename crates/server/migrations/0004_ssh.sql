-- Ways in by SSH. A user name that is a credential is kept as its SHA-256 in
-- hexadecimal; it is gone with its sandbox.

CREATE TABLE ssh_logins (
    name_hash TEXT PRIMARY KEY NOT NULL,
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id),
    created_at BIGINT NOT NULL
);

CREATE INDEX ssh_logins_by_sandbox ON ssh_logins (sandbox_id);

-- Public keys that open every sandbox of an organisation by its id. `line` is the
-- type and the key, as `authorized_keys` has them.
CREATE TABLE ssh_keys (
    organisation_id TEXT NOT NULL REFERENCES organisations (id),
    fingerprint TEXT NOT NULL,
    line TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (organisation_id, fingerprint)
);
