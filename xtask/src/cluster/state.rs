//! Where a cluster keeps its files: `<target>/cluster` for everything that belongs to it, and one small record in
//! `/run` for what the machine must remember even when that folder is gone.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::plan::{NAME, Node};

/// The folder of one cluster's files.
#[derive(Clone, Debug)]
pub(crate) struct State {
    folder: PathBuf,
}

impl State {
    pub(crate) fn at(target: &Path) -> Result<Self> {
        let folder = target.join("cluster");
        // A node has a /run and a /var/log of its own (`node::ANCHOR`), which would hide the folder from it.
        let hidden = ["/run", "/var/run", "/var/log", "/var/lib/cni"].iter().find(|hidden| folder.starts_with(hidden));
        ensure!(hidden.is_none(), "the target folder is below {}: set CARGO_TARGET_DIR", hidden.unwrap_or(&""));
        Ok(Self { folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    pub(crate) fn processes(&self) -> PathBuf {
        self.folder.join("processes")
    }

    /// Certificates, keys, tokens, and the files with which components reach the API server.
    pub(crate) fn access(&self) -> PathBuf {
        self.folder.join("access")
    }

    pub(crate) fn etcd(&self) -> PathBuf {
        self.folder.join("etcd")
    }

    /// Everything of one node; the node itself sees it as [`super::node::FOLDER`].
    pub(crate) fn node(&self, node: Node) -> PathBuf {
        self.folder.join(node.name())
    }

    /// Empties the folder and makes those below it.
    pub(crate) fn create(&self, nodes: impl Iterator<Item = Node>) -> Result<()> {
        remove_folder(&self.folder)?;
        let own = [self.logs(), self.processes(), self.access(), self.etcd()];
        for folder in own.into_iter().chain(nodes.map(|node| self.node(node))) {
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        // Keys and tokens of the cluster's administrator are in there.
        private(&self.folder)
    }

    /// Removes everything but the logs, which tell why a cluster failed.
    pub(crate) fn remove_all_but_logs(&self) -> Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot list {}", self.folder.display())),
        };
        for entry in entries {
            let path = entry?.path();
            if path == self.logs() {
                continue;
            }
            if path.is_dir() {
                remove_folder(&path)?;
            } else {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

fn private(folder: &Path) -> Result<()> {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(folder, permissions).with_context(|| format!("cannot close {}", folder.display()))
}

/// Removes a folder with all below it; that there is none is as good.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// What the machine remembers of its cluster, in `/run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The cluster's folder.
    pub(crate) owner: PathBuf,
    /// Kernel settings that the cluster changes, with the values that they had before.
    pub(crate) settings: BTreeMap<String, String>,
    /// Folders outside of ours that the cluster needed and that did not exist.
    pub(crate) folders: Vec<PathBuf>,
}

impl Record {
    fn file() -> PathBuf {
        Path::new("/run").join(NAME).join("record.json")
    }

    /// The record of the cluster that is, or was until its process was killed.
    pub(crate) fn read() -> Result<Option<Self>> {
        match fs::read_to_string(Self::file()) {
            Ok(text) => Self::parse(&text).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", Self::file().display())),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("the machine's record of its cluster is no JSON")?;
        let settings = value["settings"].as_object().into_iter().flatten();
        let folders = value["folders"].as_array().into_iter().flatten();
        Ok(Self {
            owner: value["owner"].as_str().context("the machine's record of its cluster names no owner")?.into(),
            settings: settings.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect(),
            folders: folders.filter_map(|folder| folder.as_str().map(PathBuf::from)).collect(),
        })
    }

    fn render(&self) -> Value {
        json!({ "owner": self.owner, "settings": self.settings, "folders": self.folders })
    }

    /// Written before anything that it speaks of is done, and renamed into place, so that it is never half of one.
    pub(crate) fn write(&self) -> Result<()> {
        let file = Self::file();
        let partial = file.with_extension("partial");
        let folder = file.parent().expect("the record is in a folder");
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(&partial, self.render().to_string())?;
        fs::rename(&partial, &file).with_context(|| format!("cannot write {}", file.display()))
    }

    pub(crate) fn forget() -> Result<()> {
        remove_folder(Self::file().parent().expect("the record is in a folder"))
    }

    pub(crate) fn is_left() -> bool {
        Self::file().parent().is_some_and(Path::is_dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back() {
        let record = Record {
            owner: "/a/cluster".into(),
            settings: [("net.ipv4.ip_forward".to_owned(), "0".to_owned())].into(),
            folders: vec!["/var/lib/cni".into()],
        };
        assert_eq!(Record::parse(&record.render().to_string()).expect("what was written can be read"), record);
        Record::parse("{}").expect_err("a record names its owner");
    }

    #[test]
    fn a_node_can_see_its_folder() {
        State::at(Path::new("/a/target")).expect("an ordinary folder");
        State::at(Path::new("/run/target")).expect_err("a node has a /run of its own");
        State::at(Path::new("/runner/target")).expect("another folder than /run");
    }
}
