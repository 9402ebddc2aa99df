//! The sandbox's environment: what every process started later sees, unless it
//! is started with an environment of its own.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::fault::{CallError, Cause};
use crate::users::Account;

/// The kernel takes about two mebibytes of arguments and environment together.
const STORE_LEN_MAX: usize = 1024 * 1024;
const ENTRIES_MAX: usize = 8192;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The store. Starts with what a login would set.
#[derive(Debug)]
pub(crate) struct Environment {
    entries: Mutex<BTreeMap<String, String>>,
}

impl Environment {
    pub(crate) fn new(account: &Account, home: &str) -> Self {
        let entries = [
            ("HOME", home),
            ("USER", &account.name),
            ("LOGNAME", &account.name),
            ("SHELL", &account.shell),
            ("PATH", DEFAULT_PATH),
            ("LANG", "C.UTF-8"),
        ];
        let entries = entries.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            entries: Mutex::new(entries.into()),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        self.entries.lock().get(key).cloned()
    }

    pub(crate) fn all(&self) -> HashMap<String, String> {
        let entries = self.entries.lock();
        entries
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    pub(crate) fn set(&self, key: String, value: String) -> Result<(), CallError> {
        check_entry("setenv", &key, &value)?;
        let mut entries = self.entries.lock();
        let others = entries.iter().filter(|(other, _)| **other != key);
        let (count, len) = others.fold((0, 0), |(count, len), (key, value)| {
            (count + 1, len + key.len() + value.len())
        });
        if count >= ENTRIES_MAX || len + key.len() + value.len() > STORE_LEN_MAX {
            return Err(CallError::errno("setenv", &key, Errno::NOSPC));
        }
        entries.insert(key, value);
        Ok(())
    }

    pub(crate) fn remove(&self, key: &str) {
        self.entries.lock().remove(key);
    }

    /// What a process sees: the store, then `own` over it. Only `own` when it
    /// starts with a clear environment.
    pub(crate) fn for_process(
        &self,
        own: HashMap<String, String>,
        inherit: Inherit,
        terminal: bool,
    ) -> Result<ProcessEnvironment, CallError> {
        for (key, value) in &own {
            check_entry("spawn", key, value)?;
        }
        let mut entries = match inherit {
            Inherit::Store => self.entries.lock().clone(),
            Inherit::Nothing => BTreeMap::new(),
        };
        if terminal && inherit == Inherit::Store {
            let term = entries.entry("TERM".to_owned());
            term.or_insert_with(|| "xterm-256color".to_owned());
        }
        entries.extend(own);
        Ok(ProcessEnvironment { entries })
    }
}

/// What a new process has before its own entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inherit {
    Store,
    Nothing,
}

/// A checked environment: no entry holds a nul byte.
#[derive(Debug)]
pub(crate) struct ProcessEnvironment {
    entries: BTreeMap<String, String>,
}

impl ProcessEnvironment {
    pub(crate) fn path(&self) -> Option<&str> {
        self.entries.get("PATH").map(String::as_str)
    }

    pub(crate) fn to_strings(&self) -> Vec<CString> {
        let entries = self.entries.iter();
        entries
            .filter_map(|(key, value)| CString::new(format!("{key}={value}")).ok())
            .collect()
    }
}

fn check_entry(operation: &'static str, key: &str, value: &str) -> Result<(), CallError> {
    let invalid = |why| Err(CallError::new(operation, key, Cause::InvalidArgument(why)));
    if key.is_empty() {
        return invalid("a variable needs a name");
    }
    if key.contains(['=', '\0']) {
        return invalid("a variable's name holds '=' or a nul byte");
    }
    if value.contains('\0') {
        return invalid("a variable's value holds a nul byte");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Environment {
        let account = Account {
            name: "app".to_owned(),
            identity: tombolo_sys::guest::identity::Identity {
                uid: 1,
                gid: 1,
                groups: Vec::new(),
            },
            home: "/home/app".into(),
            shell: "/bin/bash".to_owned(),
        };
        Environment::new(&account, "/home/app")
    }

    #[test]
    fn refuses_what_a_process_cannot_have() {
        let store = store();
        let cases = [
            ("A", "1", true),
            ("A", "", true),
            ("", "1", false),
            ("A=B", "1", false),
            ("A\0", "1", false),
            ("A", "\0", false),
        ];
        for (key, value, accepted) in cases {
            let set = store.set(key.to_owned(), value.to_owned());
            assert_eq!(set.is_ok(), accepted, "{key:?}={value:?}");
        }
    }

    #[test]
    fn holds_as_much_as_its_limit() {
        let store = store();
        let used: usize = store.all().iter().map(|(k, v)| k.len() + v.len()).sum();
        let fits = "x".repeat(STORE_LEN_MAX - used - 1);
        store.set("A".to_owned(), fits.clone()).unwrap();
        store.set("A".to_owned(), fits.clone()).unwrap();
        assert!(store.set("A".to_owned(), fits + "x").is_err());
        assert!(store.set("B".to_owned(), String::new()).is_err());
    }

    #[test]
    fn merges_in_order() {
        let store = store();
        store.set("A".to_owned(), "store".to_owned()).unwrap();
        let own = || HashMap::from([("A".to_owned(), "own".to_owned())]);
        let merged = store.for_process(own(), Inherit::Store, true).unwrap();
        let merged = merged.to_strings();
        let has = |entry: &str| merged.iter().any(|have| have.to_str() == Ok(entry));
        assert!(has("A=own") && has("HOME=/home/app") && has("TERM=xterm-256color"));
        let clear = store.for_process(own(), Inherit::Nothing, true).unwrap();
        assert_eq!(clear.to_strings(), [c"A=own".to_owned()]);
    }
}
