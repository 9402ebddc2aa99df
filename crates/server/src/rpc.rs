//! The WebSocket JSON-RPC of one connection.
