//! What the network of sandboxes needs of a machine: `nft`, packet rules that
//! redirect to a local socket, IPv6 in new namespaces, and taps. What can be
//! tried is tried, in a network namespace that ends with the trial.

use std::time::Duration;

use tombolo_proc::Command;

use super::{Requirement, package};
use crate::debian;

const TUN: &str = "/dev/net/tun";
/// Trials take milliseconds; what takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(10);
const NAMESPACE_MEND: &str = "start the container with --privileged, or with CAP_SYS_ADMIN and a seccomp profile that lets \
                              unshare through; on the machine itself, be root and raise \
                              /proc/sys/user/max_net_namespaces";
/// The kinds of rule that every sandbox's namespace has: at the ingress of an
/// interface, and redirection (TPROXY) for both families.
const RULES: &str = r#"
table netdev doctor {
    chain ingress {
        type filter hook ingress device "lo" priority -500; policy drop;
        ether type { ip, ip6 } accept
    }
}
table inet doctor {
    chain prerouting {
        type filter hook prerouting priority mangle; policy drop;
        meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:1 meta mark set 1 accept
        meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:1 meta mark set 1 accept
        reject with icmpx type port-unreachable
    }
}
"#;

pub(super) fn examine() -> [Requirement; 4] {
    [nft(), packet_rules(), ipv6(), tun()]
}

fn nft() -> Requirement {
    let found = debian::nft_path();
    package("nft", "Packet rules", found.as_deref(), "nftables")
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trial {
    Works,
    Fails(String),
    /// There is no namespace to try it in.
    NoNamespace(String),
    /// It could not be made, and why.
    NotMade(&'static str),
}

/// Runs a program in a network namespace of its own.
fn try_in_namespace(command: impl FnOnce(Command) -> Command) -> Trial {
    if !debian::is_root() {
        return Trial::NotMade("not tried, which takes root");
    }
    let inside = command(Command::new("unshare").args(["--net", "--"]));
    match inside.deadline(DEADLINE).output_blocking() {
        Ok(output) if output.status.success() => Trial::Works,
        Ok(output) => failed(&output.stderr_tail()),
        Err(error) => Trial::Fails(error.to_string()),
    }
}

/// What a trial that failed said of it.
fn failed(words: &str) -> Trial {
    let line = words.lines().find(|line| !line.trim().is_empty());
    let line = line.unwrap_or("it says nothing").trim();
    match line.strip_prefix("unshare: unshare failed: ") {
        Some(why) => Trial::NoNamespace(format!("a network namespace cannot be made: {why}")),
        None => Trial::Fails(line.to_owned()),
    }
}

/// A requirement that is known by a trial.
fn tried(
    id: &'static str,
    title: &'static str,
    trial: Trial,
    works: &str,
    mend: &str,
    make: &str,
) -> Requirement {
    match trial {
        Trial::Works => Requirement::ok(id, title, works),
        Trial::Fails(words) => Requirement::ok(id, title, words).or_missing(false, mend),
        Trial::NoNamespace(words) => {
            Requirement::ok(id, title, words).or_missing(false, NAMESPACE_MEND)
        }
        Trial::NotMade(why) => Requirement::ok(id, title, why).or_warning(false, make),
    }
}

fn packet_rules() -> Requirement {
    let trial = match debian::nft_path() {
        Some(nft) => try_in_namespace(|unshare| unshare.arg(&nft).args(["-f", "-"]).input(RULES)),
        None => Trial::NotMade("not tried, because nft is not installed"),
    };
    tried(
        "packet_rules",
        "Redirection of packets",
        trial,
        "a new namespace takes rules with TPROXY for IPv4 and IPv6",
        "modprobe -a nf_tables nft_tproxy nft_reject_inet; in a container on the machine that runs it. \
         Without these modules boot a distribution's kernel",
        "tombolo setup, then tombolo doctor, both as root",
    )
}

fn ipv6() -> Requirement {
    // What every sandbox's namespace is told first.
    let trial = try_in_namespace(|unshare| {
        let tell = "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
        unshare.args(["sh", "-c", tell])
    });
    tried(
        "ipv6",
        "IPv6 in new namespaces",
        trial,
        "works",
        "boot the kernel without ipv6.disable=1; in a container let /proc/sys/net be written to. The \
         machine itself needs no IPv6 connection",
        "run tombolo doctor as root",
    )
}

fn tun() -> Requirement {
    let opened = fs_err::OpenOptions::new().read(true).write(true).open(TUN);
    let detail = match &opened {
        Ok(_) => format!("{TUN} opens"),
        Err(error) => error.to_string(),
    };
    let mend = "modprobe tun; in a container pass the device on, such as by --device /dev/net/tun";
    Requirement::ok("tun", "Virtual network devices", detail).or_missing(opened.is_ok(), mend)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;

    #[test]
    fn a_trial_that_fails_is_missing_and_one_that_is_not_made_is_a_warning() {
        let cases = [
            (Trial::Works, State::Ok, "works", None),
            (
                Trial::Fails("no such file".to_owned()),
                State::Missing,
                "no such file",
                Some("mend"),
            ),
            (
                Trial::NotMade("not tried"),
                State::Warning,
                "not tried",
                Some("make"),
            ),
        ];
        for (trial, state, detail, mend) in cases {
            let requirement = tried("id", "Title", trial.clone(), "works", "mend", "make");
            assert_eq!(requirement.state, state, "{trial:?}");
            assert_eq!(requirement.detail, detail, "{trial:?}");
            assert_eq!(requirement.mend.as_deref(), mend, "{trial:?}");
        }
    }

    #[test]
    fn a_container_without_rights_is_told_what_it_lacks() {
        let trial = failed("\nunshare: unshare failed: Operation not permitted\n");
        let requirement = tried("id", "Title", trial, "works", "modprobe", "make");
        assert_eq!(requirement.state, State::Missing);
        let expected = "a network namespace cannot be made: Operation not permitted";
        assert_eq!(requirement.detail, expected);
        let mend = requirement.mend.unwrap();
        assert!(
            mend.contains("--privileged") && !mend.contains("modprobe"),
            "{mend}"
        );
        let other = failed("unshare: failed to execute nft: No such file or directory");
        assert!(matches!(other, Trial::Fails(_)), "{other:?}");
    }

    #[test]
    fn a_trial_is_made_where_it_harms_nothing() {
        if !debian::is_root() {
            let trial = try_in_namespace(|unshare| unshare.arg("true"));
            assert!(matches!(trial, Trial::NotMade(_)), "{trial:?}");
            return;
        }
        let load = |rules: &'static str| {
            let nft = debian::nft_path().expect("nft is installed where tests run");
            try_in_namespace(|unshare| unshare.arg(&nft).args(["-f", "-"]).input(rules))
        };
        assert_eq!(load(RULES), Trial::Works);
        let Trial::Fails(words) = load("table inet doctor { chain a { nonsense } }") else {
            panic!("nonsense was taken");
        };
        assert!(words.contains("syntax error"), "{words}");
        let tables = Command::new("nft")
            .args(["list", "tables"])
            .output_blocking();
        assert!(!tables.unwrap().stdout_text().contains("doctor"));
    }
}
