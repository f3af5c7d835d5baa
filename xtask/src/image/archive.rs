//! An image as one file that `docker load` and `ctr images import` read: layers, a configuration that names them by
//! digest, and a manifest. The same content gives the same bytes: order, owners and times are fixed.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};
use tar::{Builder, EntryType, Header};

/// What is at one path of a layer. Everything belongs to root.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Folder { mode: u32 },
    File { mode: u32, content: Vec<u8> },
}

/// A layer: paths without a leading slash, and what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layer {
    entries: BTreeMap<String, Entry>,
}

impl Layer {
    /// Adds a file at the absolute `path`, and the folders that lead to it.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) -> Result<()> {
        let path = self.lead_to(path)?;
        self.entries.insert(path, Entry::File { mode, content });
        Ok(())
    }

    pub(crate) fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        let path = self.lead_to(path)?;
        self.entries.insert(path, Entry::Folder { mode });
        Ok(())
    }

    fn lead_to(&mut self, path: &str) -> Result<String> {
        let inside = path.strip_prefix('/').with_context(|| format!("{path} is not absolute"))?;
        let is_plain = |name: &str| !name.is_empty() && name != "." && name != "..";
        ensure!(inside.split('/').all(is_plain), "{path} is not a plain path");
        for (end, _) in inside.match_indices('/') {
            self.entries.entry(inside[..end].to_owned()).or_insert(Entry::Folder { mode: 0o755 });
        }
        Ok(inside.to_owned())
    }

    fn to_tar(&self) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            // A folder sorts before what is in it, because its name is shorter.
            match entry {
                Entry::Folder { mode } => {
                    append(&mut archive, &format!("{path}/"), EntryType::Directory, *mode, &[])?;
                }
                Entry::File { mode, content } => append(&mut archive, path, EntryType::Regular, *mode, content)?,
            }
        }
        Ok(archive.into_inner()?)
    }
}

fn append(archive: &mut Builder<impl Write>, path: &str, kind: EntryType, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_path(path).with_context(|| format!("{path} is too long for an archive"))?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(u64::try_from(content.len())?);
    header.set_cksum();
    archive.append(&header, content).with_context(|| format!("cannot archive {path}"))
}

/// An image, whole.
pub(crate) struct Image {
    /// `name:tag`.
    pub(crate) reference: String,
    pub(crate) layers: Vec<Layer>,
    /// `uid:gid`.
    pub(crate) user: &'static str,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
    /// Annotations of the Open Container Initiative, without `org.opencontainers.image.`.
    pub(crate) labels: Vec<(&'static str, String)>,
}

/// An image's archive, and the digest by which container runtimes know the image.
pub(crate) struct Archive {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: String,
}

impl Image {
    pub(crate) fn archive(&self) -> Result<Archive> {
        let layers = self.layers.iter().map(Layer::to_tar).collect::<Result<Vec<_>>>()?;
        let digests: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
        let config = self.config(&digests).to_string();
        let digest = sha256(config.as_bytes());
        let config_file = format!("{digest}.json");
        let layer_files: Vec<String> = digests.iter().map(|digest| format!("{digest}.tar")).collect();
        let manifest =
            json!([{ "Config": config_file, "RepoTags": [self.reference], "Layers": layer_files }]).to_string();
        let mut archive = Builder::new(Vec::new());
        for (file, layer) in layer_files.iter().zip(&layers) {
            append(&mut archive, file, EntryType::Regular, 0o644, layer)?;
        }
        append(&mut archive, &config_file, EntryType::Regular, 0o644, config.as_bytes())?;
        append(&mut archive, "manifest.json", EntryType::Regular, 0o644, manifest.as_bytes())?;
        Ok(Archive { bytes: archive.into_inner()?, digest: format!("sha256:{digest}") })
    }

    fn config(&self, digests: &[String]) -> Value {
        let label = |(name, value): &(&str, String)| (format!("org.opencontainers.image.{name}"), json!(value));
        let digests: Vec<String> = digests.iter().map(|digest| format!("sha256:{digest}")).collect();
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "User": self.user,
                "Env": ["PATH=/usr/bin"],
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "WorkingDir": "/",
                "Labels": self.labels.iter().map(label).collect::<Map<_, _>>(),
            },
            "rootfs": { "type": "layers", "diff_ids": digests },
        })
    }
}

/// This machine's processor, in Go's words, which are those of images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn image() -> Image {
        let mut layer = Layer::default();
        layer.file("/usr/bin/program", 0o755, b"program".to_vec()).expect("a plain path");
        layer.folder("/tmp", 0o1777).expect("a plain path");
        Image {
            reference: "program:dev".to_owned(),
            layers: vec![layer],
            user: "65532:65532",
            entrypoint: vec!["/usr/bin/program".to_owned()],
            command: Vec::new(),
            labels: vec![("title", "program".to_owned())],
        }
    }

    fn read(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let entry = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.expect("an entry");
            let header = entry.header();
            assert_eq!((header.mtime().ok(), header.uid().ok(), header.gid().ok()), (Some(0), Some(0), Some(0)));
            let (path, mode) = (entry.path().expect("a path").display().to_string(), header.mode().expect("a mode"));
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            (path, mode, content)
        };
        archive.entries().expect("an archive").map(entry).collect()
    }

    #[test]
    fn a_layer_has_its_folders_first_and_root_as_owner() {
        let layer = image().layers[0].to_tar().expect("it can be archived");
        let found: Vec<_> = read(&layer).into_iter().map(|(path, mode, _)| (path, mode)).collect();
        let expected = [("tmp/", 0o1777), ("usr/", 0o755), ("usr/bin/", 0o755), ("usr/bin/program", 0o755)];
        assert_eq!(found, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }

    #[test]
    fn the_manifest_names_what_is_there_by_its_digest() {
        let archive = image().archive().expect("it can be archived");
        let files: BTreeMap<String, Vec<u8>> =
            read(&archive.bytes).into_iter().map(|(path, _, content)| (path, content)).collect();
        let parse = |content: &[u8]| serde_json::from_slice::<Value>(content).expect("it is JSON");
        let manifest = parse(&files["manifest.json"]);
        assert_eq!(manifest[0]["RepoTags"], json!(["program:dev"]));
        let config_file = manifest[0]["Config"].as_str().expect("a name");
        assert_eq!(format!("sha256:{}", config_file.trim_end_matches(".json")), archive.digest);
        assert_eq!(format!("{}.json", sha256(&files[config_file])), config_file);
        let config = parse(&files[config_file]);
        let layer = &files[manifest[0]["Layers"][0].as_str().expect("a name")];
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", sha256(layer))]));
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["Labels"], json!({ "org.opencontainers.image.title": "program" }));
        assert!(config.get("created").is_none(), "a date would make every build another image");
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let archive = || image().archive().expect("it can be archived").bytes;
        assert!(archive() == archive());
        let mut other = image();
        other.layers[0].file("/usr/bin/program", 0o755, b"another".to_vec()).expect("a plain path");
        assert!(archive() != other.archive().expect("it can be archived").bytes);
    }

    #[test]
    fn a_path_cannot_leave_the_layer() {
        for path in ["relative", "/a/../b", "/a//b", "/"] {
            Layer::default().file(path, 0o644, Vec::new()).expect_err(path);
        }
    }
}
