//! JSON-RPC types.
