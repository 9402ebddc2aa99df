-- Organisations, their tokens, sandboxes and what they used.
-- Moments are milliseconds since the Unix epoch. The SQL is kept to what
-- SQLite and PostgreSQL both understand.

CREATE TABLE organisations (
    id TEXT PRIMARY KEY NOT NULL,
    slug TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

-- `hash` is the SHA-256 of the token in hexadecimal; the token is kept nowhere.
CREATE TABLE tokens (
    id TEXT PRIMARY KEY NOT NULL,
    organisation_id TEXT NOT NULL REFERENCES organisations (id),
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY NOT NULL,
    organisation_id TEXT NOT NULL REFERENCES organisations (id),
    region TEXT NOT NULL,
    labels TEXT NOT NULL,
    lifetime TEXT NOT NULL,
    memory_mib BIGINT NOT NULL,
    disk_bytes BIGINT NOT NULL,
    isolation TEXT,
    state TEXT NOT NULL,
    stop_reason TEXT,
    created_at BIGINT NOT NULL,
    deadline BIGINT NOT NULL,
    latest BIGINT NOT NULL,
    stopped_at BIGINT
);

CREATE INDEX sandboxes_by_organisation ON sandboxes (organisation_id, created_at, id);
CREATE INDEX sandboxes_by_state ON sandboxes (state);

CREATE TABLE sandbox_labels (
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id),
    label_key TEXT NOT NULL,
    label_value TEXT NOT NULL,
    PRIMARY KEY (sandbox_id, label_key)
);

-- Append-only. `cpu_nanos` counts from the sandbox's creation;
-- `memory_mib_millis` is what the row adds: memory granted times the time since
-- the row before. So a sum never counts anything twice, whenever a process dies.
CREATE TABLE usage_samples (
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id),
    sequence BIGINT NOT NULL,
    organisation_id TEXT NOT NULL REFERENCES organisations (id),
    taken_at BIGINT NOT NULL,
    cpu_nanos BIGINT NOT NULL,
    memory_mib_millis BIGINT NOT NULL,
    memory_private_bytes BIGINT NOT NULL,
    disk_allocated_bytes BIGINT NOT NULL,
    PRIMARY KEY (sandbox_id, sequence)
);
