//! The guest's network card: addresses, default routes, name servers. It is
//! set up once, before a template is saved, and restored with it; every guest
//! has the same addresses, since none can see another.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use futures_util::TryStreamExt;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tombolo_guest_proto::v1::ConfigureNetworkRequest;

use crate::fault::{CallError, Cause, at};

const OPERATION: &str = "configure_network";
const INTERFACES: &str = "/sys/class/net";
const LOOPBACK: &str = "lo";
const RESOLVER_FILE: &str = "/etc/resolv.conf";
const HARDWARE_ADDRESS_LEN: usize = 6;
const ENTRIES_MAX: usize = 8;
/// What the kernel would otherwise do by itself: listen to whoever claims to be
/// a router, choose addresses, and ask whether they are taken.
const IPV6_SETTINGS: [&str; 4] = [
    "accept_ra",
    "autoconf",
    "accept_dad",
    "router_solicitations",
];

/// Sets up the only network card. May be repeated.
pub(crate) async fn configure(request: ConfigureNetworkRequest) -> Result<(), CallError> {
    let wanted = Wanted::parse(&request)?;
    let name = card()?;
    for setting in IPV6_SETTINGS {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/{setting}");
        // A kernel without IPv6 has none of these.
        if Path::new(&path).exists() {
            fs_err::write(&path, "0").map_err(at(OPERATION, &path))?;
        }
    }
    let (connection, handle, _) = rtnetlink::new_connection().map_err(at(OPERATION, &name))?;
    let connection = tokio::spawn(connection);
    let configured = wanted.apply(&handle, &name).await;
    connection.abort();
    configured.map_err(|error| refused(&name, &error))?;
    let servers = wanted.name_servers.iter();
    let lines: Vec<String> = servers
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    let text = lines.concat();
    fs_err::write(RESOLVER_FILE, text).map_err(at(OPERATION, RESOLVER_FILE))
}

/// The kernel's refusal; its number if it gave one.
fn refused(name: &str, error: &rtnetlink::Error) -> CallError {
    let cause = match error {
        rtnetlink::Error::NetlinkError(message) => {
            Cause::Os(message.code.map_or(0, |code| -code.get()))
        }
        error => Cause::Unsuitable(std::io::Error::other(error.to_string())),
    };
    CallError::new(OPERATION, name, cause)
}

/// The one interface besides the loopback one.
fn card() -> Result<String, CallError> {
    let entries = fs_err::read_dir(INTERFACES).map_err(at(OPERATION, INTERFACES))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut names = names.filter_map(|name| name.into_string().ok());
    names
        .find(|name| name != LOOPBACK)
        .ok_or_else(|| CallError::errno(OPERATION, INTERFACES, rustix::io::Errno::NODEV))
}

/// The request, understood.
struct Wanted {
    addresses: Vec<(IpAddr, u8)>,
    gateways: Vec<IpAddr>,
    name_servers: Vec<IpAddr>,
    gateway_hardware_address: Option<[u8; HARDWARE_ADDRESS_LEN]>,
}

impl Wanted {
    fn parse(request: &ConfigureNetworkRequest) -> Result<Self, CallError> {
        let addresses = request.addresses.iter().map(|text| {
            let (address, prefix_len) = text
                .split_once('/')
                .ok_or_else(|| invalid("an address without a prefix length"))?;
            let address: IpAddr = parse(address)?;
            let prefix_len: u8 = parse(prefix_len)?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            if prefix_len > longest {
                return Err(invalid("a prefix that is too long"));
            }
            Ok((address, prefix_len))
        });
        let wanted = Self {
            addresses: addresses.collect::<Result<_, _>>()?,
            gateways: parse_all(&request.gateways)?,
            name_servers: parse_all(&request.name_servers)?,
            gateway_hardware_address: match request.gateway_hardware_address.as_str() {
                "" => None,
                text => Some(parse_hardware_address(text)?),
            },
        };
        let counts = [
            wanted.addresses.len(),
            wanted.gateways.len(),
            wanted.name_servers.len(),
        ];
        if counts.iter().any(|&count| count > ENTRIES_MAX) {
            return Err(invalid("too many addresses"));
        }
        Ok(wanted)
    }

    async fn apply(&self, handle: &Handle, name: &str) -> Result<(), rtnetlink::Error> {
        let mut found = handle.link().get().match_name(name.to_owned()).execute();
        let Some(link) = found.try_next().await? else {
            return Err(rtnetlink::Error::RequestFailed);
        };
        let index = link.header.index;
        for &(address, prefix_len) in &self.addresses {
            let add = handle.address().add(index, address, prefix_len);
            add.replace().execute().await?;
        }
        let up = LinkUnspec::new_with_index(index).up().build();
        handle.link().set(up).execute().await?;
        for gateway in &self.gateways {
            let route = match *gateway {
                IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new()
                    .output_interface(index)
                    .gateway(gateway)
                    .build(),
                IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
                    .output_interface(index)
                    .gateway(gateway)
                    .build(),
            };
            handle.route().add(route).replace().execute().await?;
            if let Some(address) = &self.gateway_hardware_address {
                let neighbour = handle.neighbours().add(index, *gateway);
                let neighbour = neighbour.link_layer_address(address);
                neighbour.replace().execute().await?;
            }
        }
        Ok(())
    }
}

fn parse_all(texts: &[String]) -> Result<Vec<IpAddr>, CallError> {
    texts.iter().map(|text| parse(text)).collect()
}

fn parse<T: std::str::FromStr<Err: Display>>(text: &str) -> Result<T, CallError> {
    text.parse()
        .map_err(|_unreadable| invalid("not an address"))
}

/// Six pairs of hexadecimal digits, with colons between them.
fn parse_hardware_address(text: &str) -> Result<[u8; HARDWARE_ADDRESS_LEN], CallError> {
    let bytes: Option<Vec<u8>> = text.split(':').map(hex_byte).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| invalid("not a hardware address"))
}

fn hex_byte(pair: &str) -> Option<u8> {
    let is_pair = pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_pair.then(|| u8::from_str_radix(pair, 16).ok())?
}

fn invalid(why: &'static str) -> CallError {
    CallError::new(OPERATION, "", Cause::InvalidArgument(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_strictly() {
        let request = |address: &str, gateway: &str| ConfigureNetworkRequest {
            addresses: vec![address.to_owned()],
            gateways: vec![gateway.to_owned()],
            ..ConfigureNetworkRequest::default()
        };
        for (address, gateway, good) in [
            ("100.64.0.2/30", "100.64.0.1", true),
            ("fd54::2/64", "fd54::1", true),
            ("100.64.0.2", "100.64.0.1", false),
            ("100.64.0.2/33", "100.64.0.1", false),
            ("fd54::2/129", "fd54::1", false),
            ("100.64.0.2/30", "gateway", false),
            ("/30", "100.64.0.1", false),
        ] {
            let wanted = Wanted::parse(&request(address, gateway));
            assert_eq!(wanted.is_ok(), good, "{address} {gateway}");
        }
        let many = ConfigureNetworkRequest {
            name_servers: vec!["::1".to_owned(); ENTRIES_MAX + 1],
            ..ConfigureNetworkRequest::default()
        };
        assert!(Wanted::parse(&many).is_err());
        for (text, good) in [
            ("", true),
            ("02:54:6f:6D:62:01", true),
            ("02:54:6f:6d:62", false),
            ("02:54:6f:6d:62:01:00", false),
            ("2:54:6f:6d:62:001", false),
            ("+2:54:6f:6d:62:01", false),
            ("02-54-6f-6d-62-01", false),
        ] {
            let request = ConfigureNetworkRequest {
                gateway_hardware_address: text.to_owned(),
                ..ConfigureNetworkRequest::default()
            };
            assert_eq!(Wanted::parse(&request).is_ok(), good, "{text}");
        }
    }
}
