//! The keys that prove that a node belongs to this gateway: read from a file, and read again when the file changes.
//!
//! Each line of the file is a key. The first one is used for calls, every one is accepted from others: to change keys
//! without a stop, put the new one before the old one everywhere, then take the old one away.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::peer::noise;

/// Shorter texts can be guessed; `openssl rand -base64 32` makes 44 characters.
const CHARACTERS_MIN: usize = 32;

/// The present key and those before it. Each is tried in turn when a stranger knocks.
const KEYS_MAX: usize = 4;

/// More than [`KEYS_MAX`] long lines; a larger file is not a key file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Kubernetes itself takes a minute or so to bring a changed Secret into a pod.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// One key; never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The keys of one reading of the file; none while there is no such file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key file {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the key file {} is larger than 64 KiB; check that it is the right file", .0.display())]
    TooLarge(PathBuf),
    #[error("there is no key in it; put one into a line of its own (`openssl rand -base64 32` makes one)")]
    None,
    #[error("its key number {0} is shorter than 32 characters; `openssl rand -base64 32` makes one")]
    TooShort(usize),
    #[error("it has more than 4 keys; leave the present one and the one before")]
    TooMany,
}

impl KeyError {
    fn is_absence(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Keys {
    /// One key a line, the present one first; blank lines and those that begin with `#` do not count.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut keys = Vec::new();
        for (index, line) in lines.enumerate() {
            if index == KEYS_MAX {
                return Err(KeyError::TooMany);
            }
            if line.chars().count() < CHARACTERS_MIN {
                return Err(KeyError::TooShort(index + 1));
            }
            keys.push(Key(noise::digest(&[b"slimfaas peer key\n", line.as_bytes()])));
        }
        if keys.is_empty() { Err(KeyError::None) } else { Ok(Self(keys)) }
    }

    /// A key that nobody else has.
    pub fn random() -> Self {
        Self(vec![Key(noise::secret())])
    }

    /// For calls.
    pub(super) fn present(&self) -> Option<&Key> {
        self.0.first()
    }

    /// The present one first.
    pub(super) fn all(&self) -> &[Key] {
        &self.0
    }

    pub(super) fn accepts(&self, key: &Key) -> bool {
        self.0.contains(key)
    }
}

/// Where keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// Read now, and again every [`LOOK_EVERY`].
    File(PathBuf),
    /// Read now, and again after each such time.
    FileEvery(PathBuf, Duration),
    Fixed(Keys),
}

impl KeySource {
    /// A file that does not exist is no error: a gateway that is alone needs no key, and one that gets company can be
    /// given it without a restart.
    pub(super) fn read(&self) -> Result<Keys, KeyError> {
        match self {
            Self::Fixed(keys) => Ok(keys.clone()),
            Self::File(path) | Self::FileEvery(path, _) => read(path).or_else(|error| match error.is_absence() {
                true => Ok(Keys::default()),
                false => Err(error),
            }),
        }
    }

    /// Follows the source for ever. A file that has become bad or is gone changes nothing: the keys before it go on.
    pub(super) async fn follow(self, keys: watch::Sender<Arc<Keys>>) {
        let (path, look_every) = match self {
            Self::File(path) => (path, LOOK_EVERY),
            Self::FileEvery(path, look_every) => (path, look_every),
            Self::Fixed(_) => return std::future::pending().await,
        };
        let mut known_problem = String::new();
        loop {
            tokio::time::sleep(look_every).await;
            // A few hundred bytes, from memory most of the time: not worth a thread.
            match read(&path) {
                Ok(read) => {
                    known_problem.clear();
                    let changed = |known: &mut Arc<Keys>| {
                        let changed = **known != read;
                        if changed {
                            *known = Arc::new(read);
                        }
                        changed
                    };
                    if keys.send_if_modified(changed) {
                        tracing::info!("the keys of the peer port have changed");
                    }
                }
                Err(absence) if absence.is_absence() && keys.borrow().all().is_empty() => {}
                Err(problem) => {
                    let problem = problem.to_string();
                    if problem != known_problem {
                        tracing::warn!(%problem, file = %path.display(), "the keys of the peer port stay as they are");
                        known_problem = problem;
                    }
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<Keys, KeyError> {
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(KeyError::TooLarge(path.to_owned()));
    }
    Keys::parse(&std::fs::read_to_string(path).map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_a_line_and_the_first_is_present() {
        let check = |text: &str, expected: Result<usize, &str>| {
            let found = Keys::parse(text).map(|keys| keys.0.len()).map_err(|error| error.to_string());
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text:?}"),
                (Err(found), Err(expected)) => assert!(found.starts_with(expected), "{text:?}: {found}"),
                (found, expected) => panic!("{text:?}: {found:?} instead of {expected:?}"),
            }
        };
        let (one, short) = ("k".repeat(32), "k".repeat(31));
        check(&one, Ok(1));
        check(&format!("# from the Secret\n\n  {one}\r\n{one}2\n"), Ok(2));
        check(&"é".repeat(32), Ok(1));
        check(&short, Err("its key number 1 is shorter"));
        check(&format!("{one}\n{short}"), Err("its key number 2 is shorter"));
        check("\n# nothing\n", Err("there is no key"));
        check(&format!("{one}\n").repeat(4), Ok(4));
        check(&format!("{one}\n").repeat(5), Err("it has more than 4 keys"));
    }

    #[test]
    fn blanks_around_a_key_do_not_count_and_all_else_does() {
        let keys = |text: &str| Keys::parse(text).unwrap();
        let one = "k".repeat(32);
        assert_eq!(keys(&one), keys(&format!(" {one}\n")));
        assert_ne!(keys(&one), keys(&one.to_uppercase()));
        assert!(keys(&format!("{one}1\n{one}")).accepts(keys(&one).present().unwrap()));
        assert!(!keys(&format!("{one}1")).accepts(keys(&one).present().unwrap()));
    }

    #[test]
    fn a_file_may_be_absent_and_may_not_be_bad() {
        let folder = std::env::temp_dir().join(format!("slimfaas-key-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("key");
        let source = KeySource::File(file.clone());
        assert_eq!(source.read().unwrap(), Keys::default());
        std::fs::write(&file, "short").unwrap();
        assert!(matches!(source.read(), Err(KeyError::TooShort(1))));
        std::fs::write(&file, "k".repeat(65 << 10)).unwrap();
        assert!(matches!(source.read(), Err(KeyError::TooLarge(_))));
        std::fs::write(&file, "k".repeat(32)).unwrap();
        assert_eq!(source.read().unwrap(), Keys::parse(&"k".repeat(32)).unwrap());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_key_is_never_shown() {
        let keys = Keys::parse(&"secret-".repeat(8)).unwrap();
        assert_eq!(format!("{keys:?} {:?}", KeySource::Fixed(keys.clone())), "Keys([Key(…)]) Fixed(Keys([Key(…)]))");
    }
}
