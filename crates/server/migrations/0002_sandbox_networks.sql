-- What sandboxes may reach. `policy` is the document that the egress process
-- has; `secrets` is a list of names, placeholders and moments. Values of
-- secrets are kept nowhere, sealed or not. A row ends with its sandbox.

CREATE TABLE sandbox_networks (
    sandbox_id TEXT PRIMARY KEY NOT NULL REFERENCES sandboxes (id),
    policy TEXT NOT NULL,
    secrets TEXT NOT NULL
);
