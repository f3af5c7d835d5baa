//! The salt and the keys of tags, as a mounted Secret has them: a file each, of 32 hexadecimal digits.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use slimfaas_ebpf::contract::{Key, TagKeys};

use crate::identity::keys::{self, KeyFormError};

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read {path}: {source} (check the volume of the Secret)")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Form { path: PathBuf, source: KeyFormError },
}

/// `salt`; it never changes while an agent runs.
pub(super) fn read_salt(folder: &Path) -> Result<Key, SecretError> {
    let path = folder.join("salt");
    read(&path)?.ok_or_else(|| SecretError::Read { path, source: io::ErrorKind::NotFound.into() })
}

/// `current`, and `next` and `previous` where a rotation is under way.
pub(super) fn read_keys(folder: &Path) -> Result<TagKeys, SecretError> {
    let [current, next, previous] = ["current", "next", "previous"].map(|name| read(&folder.join(name)));
    Ok(keys::tag_keys(current?, next?, previous?))
}

fn read(path: &Path) -> Result<Option<Key>, SecretError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SecretError::Read { path: path.to_owned(), source }),
    };
    let key = keys::parse(&text).map_err(|source| SecretError::Form { path: path.to_owned(), source })?;
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use slimfaas_ebpf::contract::KeySlot;

    use super::*;

    #[test]
    fn keys_are_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("it can be written");
        assert!(matches!(read_salt(folder.path()), Err(SecretError::Read { .. })));
        assert_eq!(read_keys(folder.path()).expect("no keys"), TagKeys::default());
        write("salt", "00000000000000000000000000000001\n");
        write("current", "02000000000000000000000000000000");
        write("previous", "03000000000000000000000000000000");
        assert_eq!(read_salt(folder.path()).expect("a salt"), Key { k0: 0, k1: 1 << 56 });
        let keys = read_keys(folder.path()).expect("keys");
        assert_eq!(keys.key(KeySlot::Current), Some(Key { k0: 2, k1: 0 }));
        assert_eq!(keys.key(KeySlot::Next), None);
        assert_eq!(keys.key(KeySlot::Previous), Some(Key { k0: 3, k1: 0 }));
        write("next", "x");
        assert!(matches!(read_keys(folder.path()), Err(SecretError::Form { .. })));
    }
}
