-- Names under which ports of sandboxes are reached over HTTP. A row outlives its
-- sandbox, so that whoever asks for the name is told that it has ended.
-- `access_hash` is the SHA-256 of a private exposure's token in hexadecimal; the
-- token is kept nowhere.

CREATE TABLE exposures (
    name TEXT PRIMARY KEY NOT NULL,
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id),
    port BIGINT,
    pid BIGINT,
    access_hash TEXT,
    created_at BIGINT NOT NULL
);

CREATE INDEX exposures_by_sandbox ON exposures (sandbox_id);

-- What came in that way, since the sandbox's creation.
ALTER TABLE usage_samples ADD COLUMN ingress_requests BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_samples ADD COLUMN ingress_request_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_samples ADD COLUMN ingress_response_bytes BIGINT NOT NULL DEFAULT 0;
