//! Kernel modules: found by name, decompressed, and put in loading order by
//! what each says it depends on.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use crate::StepError;

const COMPRESSED: &str = ".ko.xz";
const PLAIN: &str = ".ko";
/// How a module states its dependencies, between NUL bytes in its ELF section
/// `.modinfo`.
const DEPENDS: &[u8] = b"\0depends=";
/// A module deeper than this below its tree, or a chain of dependencies longer
/// than this, does not exist in any kernel.
const DEPTH_LIMIT: usize = 16;

/// One module, ready to be loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) file_name: String,
    pub(super) bytes: Vec<u8>,
}

/// Loads modules and all they depend on, each after its dependencies.
pub(super) fn load(tree: &Path, names: &[&str]) -> Result<Vec<Module>, StepError> {
    let mut loader = Loader {
        tree,
        paths: HashMap::new(),
        loaded: Vec::new(),
    };
    loader.index(tree, 0)?;
    for name in names {
        loader.load(name, 0)?;
    }
    Ok(loader.loaded)
}

#[derive(Debug)]
struct Loader<'a> {
    tree: &'a Path,
    paths: HashMap<String, PathBuf>,
    loaded: Vec<Module>,
}

impl Loader<'_> {
    fn index(&mut self, directory: &Path, depth: usize) -> io::Result<()> {
        for entry in fs_err::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(module) = module_name(&name) {
                self.paths.insert(module, path);
            } else if depth < DEPTH_LIMIT && path.is_dir() && !path.is_symlink() {
                self.index(&path, depth + 1)?;
            }
        }
        Ok(())
    }

    fn load(&mut self, name: &str, depth: usize) -> Result<(), StepError> {
        let file_name = format!("{name}{PLAIN}");
        if self
            .loaded
            .iter()
            .any(|module| module.file_name == file_name)
        {
            return Ok(());
        }
        let path = self.paths.get(name).cloned();
        let Some(path) = path.filter(|_| depth < DEPTH_LIMIT) else {
            return Err(StepError::Absent {
                what: format!("the kernel module {name}"),
                path: self.tree.to_owned(),
            });
        };
        let bytes = read(&path)?;
        for dependency in dependencies(&bytes) {
            self.load(&dependency, depth + 1)?;
        }
        self.loaded.push(Module { file_name, bytes });
        Ok(())
    }
}

/// The kernel's own name of a module, which has no dashes, from its file name.
fn module_name(file_name: &str) -> Option<String> {
    let stem = file_name
        .strip_suffix(COMPRESSED)
        .or_else(|| file_name.strip_suffix(PLAIN))?;
    Some(stem.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>, StepError> {
    let stored = fs_err::read(path)?;
    if !path.to_string_lossy().ends_with(COMPRESSED) {
        return Ok(stored);
    }
    let mut bytes = Vec::new();
    lzma_rs::xz_decompress(&mut stored.as_slice(), &mut bytes).map_err(|source| {
        StepError::Module {
            path: path.to_owned(),
            source,
        }
    })?;
    Ok(bytes)
}

fn dependencies(module: &[u8]) -> Vec<String> {
    let Some(at) = module.windows(DEPENDS.len()).position(|w| w == DEPENDS) else {
        return Vec::new();
    };
    let value = &module[at + DEPENDS.len()..];
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes modules as `(path, depends)` and returns the loading order.
    fn check(modules: &[(&str, &str)], wanted: &[&str], order: Option<&[&str]>) {
        let tree = tempfile::tempdir().unwrap();
        for (path, depends) in modules {
            let path = tree.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            let content = format!("ELF\0license=GPL\0depends={depends}\0name=x\0");
            if path.to_string_lossy().ends_with(COMPRESSED) {
                let mut packed = Vec::new();
                lzma_rs::xz_compress(&mut content.as_bytes(), &mut packed).unwrap();
                fs_err::write(path, packed).unwrap();
            } else {
                fs_err::write(path, content).unwrap();
            }
        }
        let loaded = load(tree.path(), wanted).ok();
        let names = loaded.map(|modules| {
            let names = modules.into_iter().map(|module| module.file_name);
            names.collect::<Vec<String>>()
        });
        let order = order.map(|names| names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(names, order);
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let tree = [
            ("kernel/net/virtio_net.ko.xz", "net_failover,virtio-ring"),
            ("kernel/net/net_failover.ko.xz", "failover"),
            ("kernel/net/failover.ko", ""),
            ("kernel/virtio-ring.ko.xz", ""),
            ("kernel/unrelated.ko", ""),
        ];
        let order = [
            "failover.ko",
            "net_failover.ko",
            "virtio_ring.ko",
            "virtio_net.ko",
        ];
        check(&tree, &["virtio_net", "failover"], Some(&order));
        check(&tree, &["virtio_ring"], Some(&["virtio_ring.ko"]));
        check(&tree, &[], Some(&[]));
    }

    #[test]
    fn what_is_missing_or_circular_is_an_error() {
        check(&[("a.ko", "b")], &["a"], None);
        check(&[("a.ko", "b"), ("b.ko", "a")], &["a"], None);
        check(&[], &["a"], None);
    }
}
