//! Interfaces, addresses, neighbours and routes of a slot, by netlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteScope, RouteType};
use rtnetlink::packet_route::rule::RuleAction;
use rtnetlink::{Error, Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use tokio::time::timeout;

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
/// The kernel has no duplicates to look for and so takes no time to speak of.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a slot's interfaces are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureLinksError {
    /// No conversation with the kernel.
    #[error("cannot talk to the kernel about interfaces")]
    Connect(#[source] io::Error),
    /// The kernel refused one of the steps.
    #[error("the kernel refused an interface, address, neighbour or route")]
    Refused(#[from] Error),
    /// The gateway's IPv6 address did not become usable.
    #[error("the gateway's address was not ready in time")]
    NotReady,
}

/// Makes everything but the tap itself, in the calling thread's namespace, and
/// brings the tap up. The packet rules must be in place before.
pub(crate) async fn configure(tap_index: u32) -> Result<(), ConfigureLinksError> {
    let (connection, handle, told) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Ipv6Route])
            .map_err(ConfigureLinksError::Connect)?;
    // The socket stays in this namespace whichever thread reads it.
    let connection = tokio::spawn(connection);
    let configured = async {
        loopback(&handle).await?;
        tap(&handle, tap_index).await?;
        timeout(READY_TIMEOUT, gateway_is_ready(told))
            .await
            .unwrap_or(Err(ConfigureLinksError::NotReady))
    };
    let configured = configured.await;
    connection.abort();
    configured
}

/// Every destination is local to packets that carry the mark.
async fn loopback(handle: &Handle) -> Result<(), Error> {
    let up = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
    handle.link().set(up).execute().await?;
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
        let rule = handle.rule().add().action(RuleAction::ToTable);
        rule.table_id(PROXY_TABLE)
            .fw_mark(PROXY_MARK)
            .priority(RULE_PRIORITY)
    };
    rule().v4().execute().await?;
    rule().v6().execute().await
}

async fn tap(handle: &Handle, index: u32) -> Result<(), Error> {
    let properties = LinkUnspec::new_with_index(index)
        .address(GATEWAY_MAC.to_vec())
        .mtu(MTU)
        .txqueuelen(QUEUE_PACKETS)
        .build();
    handle.link().set(properties).execute().await?;
    let addresses = [
        (IpAddr::V4(GATEWAY_IPV4), IPV4_PREFIX_LEN),
        (IpAddr::V6(GATEWAY_IPV6), IPV6_PREFIX_LEN),
    ];
    for (address, prefix_len) in addresses {
        let request = handle.address().add(index, address, prefix_len);
        request.execute().await?;
    }
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await?;
    // Permanent, so that nothing the guest says changes where answers go.
    for address in [IpAddr::V4(GUEST_IPV4), IpAddr::V6(GUEST_IPV6)] {
        let request = handle.neighbours().add(index, address);
        request.link_layer_address(&GUEST_MAC).execute().await?;
    }
    Ok(())
}

/// Waits for the kernel's last step, which it takes in its own time: a route to
/// the gateway's own IPv6 address. Before it, neighbour solicitations are not
/// answered.
async fn gateway_is_ready<A>(
    mut told: impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, A)> + Unpin,
) -> Result<(), ConfigureLinksError> {
    while let Some((message, _)) = told.next().await {
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = message.payload
        {
            let to_gateway = RouteAttribute::Destination(RouteAddress::Inet6(GATEWAY_IPV6));
            if route.header.kind == RouteType::Local && route.attributes.contains(&to_gateway) {
                return Ok(());
            }
        }
    }
    Err(ConfigureLinksError::NotReady)
}
