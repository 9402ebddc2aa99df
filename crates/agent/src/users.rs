//! Users and groups, read from their files: a static program cannot use the
//! name service, and a guest has no other source.

use std::path::{Path, PathBuf};

use tombolo_sys::guest::identity::Identity;

const GROUPS_MAX: usize = 256;

/// An account that processes run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) identity: Identity,
    pub(crate) home: PathBuf,
    pub(crate) shell: String,
}

/// Why there is no such account.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindAccountError {
    #[error("cannot read the user database")]
    Read(#[source] std::io::Error),
    #[error("no user {name:?} in /etc/passwd")]
    Unknown { name: String },
}

/// Finds the account `name` in `/etc/passwd` and `/etc/group`.
pub(crate) fn find(name: &str) -> Result<Account, FindAccountError> {
    let passwd = fs_err::read_to_string(Path::new("/etc/passwd"));
    let passwd = passwd.map_err(FindAccountError::Read)?;
    let group = fs_err::read_to_string(Path::new("/etc/group"));
    let group = group.map_err(FindAccountError::Read)?;
    parse(name, &passwd, &group).ok_or_else(|| FindAccountError::Unknown {
        name: name.to_owned(),
    })
}

fn parse(name: &str, passwd: &str, group: &str) -> Option<Account> {
    let fields = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.first() == Some(&name)).then_some(fields)
    })?;
    let gid = fields.get(3)?.parse().ok()?;
    let shell = fields.get(6).filter(|shell| !shell.is_empty());
    Some(Account {
        name: name.to_owned(),
        identity: Identity {
            uid: fields.get(2)?.parse().ok()?,
            gid,
            groups: groups_of(name, gid, group),
        },
        home: PathBuf::from(fields.get(5)?),
        shell: shell.map_or_else(|| "/bin/sh".to_owned(), ToString::to_string),
    })
}

/// The primary group first, as `initgroups` has it.
fn groups_of(name: &str, primary: u32, group: &str) -> Vec<u32> {
    let mut groups = vec![primary];
    for line in group.lines() {
        let mut fields = line.split(':').skip(2);
        let (Some(gid), Some(members)) = (fields.next(), fields.next()) else {
            continue;
        };
        let Ok(gid) = gid.parse() else { continue };
        let is_member = members.split(',').any(|member| member == name);
        if is_member && !groups.contains(&gid) && groups.len() < GROUPS_MAX {
            groups.push(gid);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        broken:x\n\
        app:x:1000:1001:,,,:/home/app:/bin/bash\n\
        bare:x:7:7::/:\n";
    const GROUP: &str = "sudo:x:27:app\nadm:x:4:root,app\nbad:x:y:app\n\
        app:x:1001:\nshort:x\nnot:x:5:apple\n";

    #[test]
    fn reads_an_account() {
        let cases = [
            ("app", Some((1000, 1001, vec![1001, 27, 4], "/bin/bash"))),
            ("bare", Some((7, 7, vec![7], "/bin/sh"))),
            ("broken", None),
            ("nobody", None),
            ("", None),
        ];
        for (name, expected) in cases {
            let account = parse(name, PASSWD, GROUP);
            let account = account.as_ref().map(|account| {
                let Identity { uid, gid, groups } = account.identity.clone();
                (uid, gid, groups, account.shell.as_str())
            });
            assert_eq!(account, expected, "{name}");
        }
    }
}
