//! Loads the packet rules of a slot with `nft`, the language in which people
//! review such rules. It takes some milliseconds, which the pool hides.

use std::time::Duration;

use tombolo_proc::{Command, RunError};

use crate::address::{
    DNS_PORT, GATEWAY_IPV4, GATEWAY_IPV6, GATEWAY_MAC, GUEST_IPV4, GUEST_IPV6, GUEST_MAC,
    PROXY_MARK, PROXY_PORT, TAP_NAME,
};

const RULES: &str = include_str!("rules.nft");
const NFT: &str = "nft";
const DEADLINE: Duration = Duration::from_secs(10);

/// Loads them into the calling thread's namespace, where the tap must exist.
pub(crate) async fn load() -> Result<(), RunError> {
    let command = Command::new(NFT).args(["-f", "-"]).input(text());
    // The child is forked from this thread and so begins in its namespace.
    command.deadline(DEADLINE).run().await.map(drop)
}

fn text() -> String {
    let [.., high, low] = GATEWAY_IPV6.segments();
    let (upper, low_bytes) = (high & 0xff, low.to_be_bytes());
    let [third, fourth] = low_bytes;
    // RFC 4291 section 2.7.1 and RFC 2464 section 7.
    let solicited_ipv6 = format!("ff02::1:ff{upper:02x}:{low:x}");
    let solicited_mac = format!("33:33:ff:{upper:02x}:{third:02x}:{fourth:02x}");
    format!(
        "define tap = \"{TAP_NAME}\"\n\
         define guest_mac = {guest_mac}\n\
         define gateway_mac = {gateway_mac}\n\
         define guest_ipv4 = {GUEST_IPV4}\n\
         define gateway_ipv4 = {GATEWAY_IPV4}\n\
         define guest_ipv6 = {GUEST_IPV6}\n\
         define gateway_ipv6 = {GATEWAY_IPV6}\n\
         define solicited_ipv6 = {solicited_ipv6}\n\
         define solicited_mac = {solicited_mac}\n\
         define proxy_port = {PROXY_PORT}\n\
         define proxy_mark = {PROXY_MARK}\n\
         define dns_port = {DNS_PORT}\n\
         {RULES}",
        guest_mac = mac(GUEST_MAC),
        gateway_mac = mac(GATEWAY_MAC),
    )
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
