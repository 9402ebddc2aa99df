//! Whole connections: a WebSocket client, [`super::serve`], and a guest agent
//! that does what each test says.

mod agent;
mod connections;
mod deno;
mod files;
mod harness;
mod large;
mod messages;
mod outputs;
mod restarts;
mod uploads;
mod vscode;
