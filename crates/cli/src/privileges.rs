//! Giving up what a process does not need. The public server calls this
//! before it opens the network, and cannot go back.

use nix::unistd::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::config::RunAs;

/// Why privileges could not be given up. Going on would be worse.
#[derive(Debug, thiserror::Error)]
#[error("cannot become the user {run_as}: {step} failed")]
pub(crate) struct DropError {
    run_as: RunAs,
    step: &'static str,
    #[source]
    source: std::io::Error,
}

/// What a process that gave up being root may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    /// Listen on ports below 1024, where the world expects HTTPS and SSH.
    LowPorts,
}

/// Becomes this user and this group for good: no supplementary groups, no
/// capabilities but what is kept, no way to gain any, and no core dumps for others to
/// read. Other threads of this process are not changed: there are none so early.
pub(crate) fn drop_to(run_as: RunAs, keep: Keep) -> Result<(), DropError> {
    let (uid, gid) = (Uid::from_raw(run_as.uid), Gid::from_raw(run_as.gid));
    if Uid::effective().is_root() {
        nix::unistd::setgroups(&[]).map_err(failed(run_as, "setgroups"))?;
        nix::unistd::setresgid(gid, gid, gid).map_err(failed(run_as, "setresgid"))?;
        let kept = match keep {
            Keep::Nothing => CapabilitySet::empty(),
            Keep::LowPorts => CapabilitySet::NET_BIND_SERVICE,
        };
        // Root without it, as in some containers, has the ports that it has.
        let ours = rustix::thread::capabilities(None).map_err(failed(run_as, "capget"))?;
        let kept = kept & ours.permitted;
        rustix::thread::set_keep_capabilities(!kept.is_empty())
            .map_err(failed(run_as, "keepcaps"))?;
        nix::unistd::setresuid(uid, uid, uid).map_err(failed(run_as, "setresuid"))?;
        limit_to(kept).map_err(failed(run_as, "capset"))?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(failed(run_as, "no_new_privs"))?;
    nix::sys::prctl::set_dumpable(false).map_err(failed(run_as, "dumpable"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    Ok(())
}

fn failed<E: Into<std::io::Error>>(run_as: RunAs, step: &'static str) -> impl Fn(E) -> DropError {
    move |source| DropError {
        run_as,
        step,
        source: source.into(),
    }
}

/// Has these capabilities and no others, and hands none on to other programs.
fn limit_to(kept: CapabilitySet) -> rustix::io::Result<()> {
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)
}

/// Whoever holds values of secrets keeps all of its memory out of the swap. Only root may
/// lock as much as it likes, so this comes before [`drop_to`].
pub(crate) fn raise_locked_memory_limit() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    let raised = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of locked memory stays as it is");
    }
}

/// Many sandboxes are many sockets: takes as many descriptors as the system
/// lets this process have.
pub(crate) fn raise_descriptor_limit() {
    let resource = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let raised = nix::sys::resource::getrlimit(resource)
        .and_then(|(_, hard)| nix::sys::resource::setrlimit(resource, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
