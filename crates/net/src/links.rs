//! Interfaces, addresses, neighbours and routes of a slot, by netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::packet_route::rule::RuleAction;
use rtnetlink::{Error, Handle, LinkUnspec, RouteMessageBuilder};

use crate::address::{
    GATEWAY_IPV4, GATEWAY_IPV6, GATEWAY_MAC, GUEST_IPV4, GUEST_IPV6, GUEST_MAC, IPV4_PREFIX_LEN,
    IPV6_PREFIX_LEN, MTU, PROXY_MARK, PROXY_TABLE,
};

/// `lo` is the first interface of every namespace.
const LOOPBACK_INDEX: u32 = 1;
/// Packets for the guest that may wait until QEMU takes them; each may be a
/// segment of 64 KiB.
const QUEUE_PACKETS: u32 = 256;
/// Before the rules that look into the main table.
const RULE_PRIORITY: u32 = 100;

/// Makes everything else, with the tap still down, and brings it up last. The
/// packet rules must be in place before.
pub(crate) async fn configure(handle: &Handle, tap_index: u32) -> Result<(), Error> {
    let loopback = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
    handle.link().set(loopback).execute().await?;
    let tap = LinkUnspec::new_with_index(tap_index)
        .address(GATEWAY_MAC.to_vec())
        .mtu(MTU)
        .txqueuelen(QUEUE_PACKETS)
        .build();
    handle.link().set(tap).execute().await?;
    redirect(handle).await?;
    let addresses = [
        (IpAddr::V4(GATEWAY_IPV4), IPV4_PREFIX_LEN),
        (IpAddr::V6(GATEWAY_IPV6), IPV6_PREFIX_LEN),
    ];
    for (address, prefix_len) in addresses {
        let request = handle.address().add(tap_index, address, prefix_len);
        request.execute().await?;
    }
    let up = LinkUnspec::new_with_index(tap_index).up().build();
    handle.link().set(up).execute().await?;
    // Permanent, so that nothing the guest says changes where answers go.
    for address in [IpAddr::V4(GUEST_IPV4), IpAddr::V6(GUEST_IPV6)] {
        let request = handle.neighbours().add(tap_index, address);
        request.link_layer_address(&GUEST_MAC).execute().await?;
    }
    Ok(())
}

/// Every destination is local to packets that carry the mark.
async fn redirect(handle: &Handle) -> Result<(), Error> {
    let ipv4 = RouteMessageBuilder::<Ipv4Addr>::new()
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .table_id(PROXY_TABLE)
        .output_interface(LOOPBACK_INDEX)
        .build();
    handle.route().add(ipv4).execute().await?;
    let ipv6 = RouteMessageBuilder::<Ipv6Addr>::new()
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .table_id(PROXY_TABLE)
        .output_interface(LOOPBACK_INDEX)
        .build();
    handle.route().add(ipv6).execute().await?;
    let rule = || {
        let rule = handle.rule().add();
        rule.action(RuleAction::ToTable)
            .table_id(PROXY_TABLE)
            .fw_mark(PROXY_MARK)
            .priority(RULE_PRIORITY)
    };
    rule().v4().execute().await?;
    rule().v6().execute().await
}
