//! Checks what a client asks of a new sandbox against what this server allows.

use std::collections::BTreeMap;

use tombolo_ids::{DiskBytes, LabelError, Labels, MemoryMib, Region, UnixMillis};

use crate::lifetime::{Lifetime, LifetimeLimits, LifetimeRequest, LifetimeRequestError};

/// The most environment variables of a new sandbox.
pub const ENV_ENTRIES_MAX: usize = 1024;
/// Their names and values together, in bytes.
pub const ENV_BYTES_MAX: usize = 64 * 1024;

/// What a client asks for, not checked yet.
#[derive(Clone, Debug, Default)]
pub struct SandboxRequest {
    pub memory_mib: Option<i64>,
    pub timeout: Option<String>,
    pub stop_at: Option<UnixMillis>,
    pub labels: BTreeMap<String, String>,
    pub env: BTreeMap<String, String>,
    pub region: Option<String>,
}

/// What the operator allows.
#[derive(Clone, Debug)]
pub struct SandboxBounds {
    pub memory_min: MemoryMib,
    pub memory_max: MemoryMib,
    pub memory_default: MemoryMib,
    pub disk: DiskBytes,
    pub lifetime: LifetimeLimits,
    pub region: Region,
}

/// What will be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxPlan {
    pub memory: MemoryMib,
    pub disk: DiskBytes,
    pub lifetime: Lifetime,
    pub labels: Labels,
    pub env: BTreeMap<String, String>,
    pub region: Region,
}

/// A request that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("memory_mb must be between {} and {}, {asked} was asked for", .min.0, .max.0)]
    Memory {
        asked: i64,
        min: MemoryMib,
        max: MemoryMib,
    },
    #[error(transparent)]
    Lifetime(#[from] LifetimeRequestError),
    #[error(transparent)]
    Labels(#[from] LabelError),
    #[error("the environment has {count} variables, at most {ENV_ENTRIES_MAX} are allowed")]
    EnvTooMany { count: usize },
    #[error("the environment has {len} bytes, at most {ENV_BYTES_MAX} are allowed")]
    EnvTooLong { len: usize },
    #[error("{name:?} cannot be the name of an environment variable")]
    EnvName { name: String },
    #[error("the environment variable {name:?} holds a null character")]
    EnvValue { name: String },
    #[error("this server's region is {served}; ask for that or for none")]
    Region { served: Region },
}

impl SandboxPlan {
    pub fn new(
        request: SandboxRequest,
        bounds: &SandboxBounds,
        now: UnixMillis,
    ) -> Result<Self, PlanError> {
        let asked = LifetimeRequest::new(request.timeout.as_deref(), request.stop_at)?;
        check_env(&request.env)?;
        let served = bounds.region;
        if request
            .region
            .is_some_and(|region| region != served.as_str())
        {
            return Err(PlanError::Region { served });
        }
        Ok(Self {
            memory: memory(request.memory_mib, bounds)?,
            disk: bounds.disk,
            lifetime: Lifetime::grant(asked, &bounds.lifetime, now)?,
            labels: Labels::try_from(request.labels)?,
            env: request.env,
            region: served,
        })
    }
}

fn memory(asked: Option<i64>, bounds: &SandboxBounds) -> Result<MemoryMib, PlanError> {
    let Some(asked) = asked else {
        return Ok(bounds.memory_default);
    };
    u32::try_from(asked)
        .ok()
        .map(MemoryMib)
        .filter(|memory| (bounds.memory_min..=bounds.memory_max).contains(memory))
        .ok_or(PlanError::Memory {
            asked,
            min: bounds.memory_min,
            max: bounds.memory_max,
        })
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), PlanError> {
    if env.len() > ENV_ENTRIES_MAX {
        return Err(PlanError::EnvTooMany { count: env.len() });
    }
    let len = env
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if len > ENV_BYTES_MAX {
        return Err(PlanError::EnvTooLong { len });
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(PlanError::EnvName { name: name.clone() });
        }
        if value.contains('\0') {
            return Err(PlanError::EnvValue { name: name.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn bounds() -> SandboxBounds {
        SandboxBounds {
            memory_min: MemoryMib(768),
            memory_max: MemoryMib(4096),
            memory_default: MemoryMib(1280),
            disk: DiskBytes(10),
            lifetime: LifetimeLimits {
                lifetime_max: Duration::from_hours(1),
                extension_max: Duration::from_mins(30),
                grace: Duration::from_secs(30),
            },
            region: Region::DEFAULT,
        }
    }

    fn check(request: SandboxRequest, expected: Result<u32, &str>) {
        let shown = format!("{request:?}").chars().take(200).collect::<String>();
        let planned = SandboxPlan::new(request, &bounds(), NOW);
        match (planned, expected) {
            (Ok(plan), Ok(memory)) => assert_eq!(plan.memory, MemoryMib(memory), "{shown}"),
            (Err(error), Err(text)) => {
                assert!(error.to_string().contains(text), "{shown}: {error}");
            }
            (planned, expected) => panic!("{shown}: {planned:?} instead of {expected:?}"),
        }
    }

    fn env(pairs: &[(&str, &str)]) -> SandboxRequest {
        SandboxRequest {
            env: pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..SandboxRequest::default()
        }
    }

    #[test]
    fn memory_is_bounded_and_has_a_default() {
        let ask = |memory| SandboxRequest {
            memory_mib: memory,
            ..SandboxRequest::default()
        };
        check(ask(None), Ok(1280));
        check(ask(Some(768)), Ok(768));
        check(ask(Some(4096)), Ok(4096));
        for wrong in [767, 4097, 0, -1, i64::MAX, i64::from(u32::MAX) + 1281] {
            check(ask(Some(wrong)), Err("between 768 and 4096"));
        }
    }

    #[test]
    fn only_the_region_served_can_be_asked_for() {
        let ask = |region: &str| SandboxRequest {
            region: Some(region.to_owned()),
            ..SandboxRequest::default()
        };
        check(ask("ord"), Ok(1280));
        check(ask("ams"), Err("this server's region is ord"));
        check(ask(""), Err("region"));
    }

    #[test]
    fn environments_are_checked() {
        check(env(&[("A", "b"), ("lower_case", "")]), Ok(1280));
        check(env(&[("", "b")]), Err("name of an environment variable"));
        check(env(&[("A=B", "c")]), Err("name of an environment variable"));
        check(env(&[("A\0", "c")]), Err("name of an environment variable"));
        check(env(&[("A", "b\0")]), Err("null character"));
        let longest = "v".repeat(ENV_BYTES_MAX - 1);
        check(env(&[("A", &longest)]), Ok(1280));
        check(env(&[("AA", &longest)]), Err("bytes, at most"));
        let names: Vec<String> = (0..=ENV_ENTRIES_MAX).map(|n| format!("V{n}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "")).collect();
        check(env(&many), Err("1025 variables"));
        check(env(many.split_last().unwrap().1), Ok(1280));
    }

    #[test]
    fn lifetimes_and_labels_are_checked_too() {
        let timeout = |text: &str| SandboxRequest {
            timeout: Some(text.to_owned()),
            ..SandboxRequest::default()
        };
        check(timeout("5m"), Ok(1280));
        check(timeout("2h"), Err("longest life of a sandbox is 3600 s"));
        let labels = SandboxRequest {
            labels: BTreeMap::from([(String::new(), String::new())]),
            ..SandboxRequest::default()
        };
        check(labels, Err("empty key"));
    }
}
