//! A store of images in a scratch directory, used through `caissond store`; and archives to put into it, byte by byte.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::place::{self, Scratch};
use crate::runtime::{self, Finished};

/// Of this machine, as images name it.
pub const ARCHITECTURE: &str = match cfg!(target_arch = "x86_64") {
    true => "amd64",
    false => "arm64",
};

/// A store of its own.
#[derive(Debug, Default)]
pub struct Store {
    pub scratch: Scratch,
}

impl Store {
    pub fn new() -> Store {
        Store::default()
    }

    /// Its directory.
    pub fn root(&self) -> PathBuf {
        self.scratch.path().join("store")
    }

    /// The command line with these arguments.
    pub fn command(&self, args: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(place::daemon());
        command
            .args(["store", "--root"])
            .arg(self.root())
            .args(args);
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn call(&self, args: &[impl AsRef<OsStr>]) -> Finished {
        runtime::finish(self.command(args))
    }

    /// What a command that must succeed prints, a value for each line.
    #[track_caller]
    pub fn values(&self, args: &[impl AsRef<OsStr>]) -> Vec<Value> {
        let lines = self.call(args).success().stdout;
        let value =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        lines.lines().map(value).collect()
    }

    /// Imports a root file system of these entries.
    #[track_caller]
    pub fn import(&self, name: &str, archive: &Tar) -> Finished {
        let file = self.scratch.file(&format!("{name}.tar"), archive.bytes());
        self.call(&[
            OsStr::new("import"),
            "--name".as_ref(),
            name.as_ref(),
            "--rootfs".as_ref(),
            file.as_os_str(),
        ])
    }

    /// The directory of the only layer, or of the newest.
    #[track_caller]
    pub fn layer(&self) -> PathBuf {
        let newest = self.layers().into_iter().max();
        let number = newest.unwrap_or_else(|| panic!("there is no layer"));
        self.root().join("layers").join(number.to_string())
    }

    /// The numbers of all layers.
    pub fn layers(&self) -> Vec<u64> {
        numbers(&self.root().join("layers"))
    }

    /// Names of blobs.
    pub fn blobs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root().join("blobs/sha256"))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

fn numbers(directory: &Path) -> Vec<u64> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// A tar archive, in which anything may be said.
#[derive(Clone, Debug, Default)]
pub struct Tar(Vec<u8>);

/// What a header says; the rest is root's and of the year 2001.
#[derive(Clone, Debug)]
pub struct Header<'a> {
    pub kind: u8,
    pub path: &'a str,
    pub link: &'a str,
    pub mode: u32,
    /// And its group.
    pub uid: u32,
    pub size: u64,
    pub device: (u32, u32),
}

impl<'a> Header<'a> {
    pub fn new(kind: u8, path: &'a str) -> Header<'a> {
        Header {
            kind,
            path,
            link: "",
            mode: 0o644,
            uid: 0,
            size: 0,
            device: (0, 0),
        }
    }
}

/// The time of all entries.
pub const TIME: i64 = 1_000_000_000;

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    /// A header and nothing else.
    #[must_use]
    pub fn header(mut self, header: &Header<'_>) -> Tar {
        let mut block = [0_u8; 512];
        let mut put =
            |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, header.path);
        put(100, &format!("{:07o}", header.mode));
        put(108, &format!("{:07o}", header.uid));
        put(116, &format!("{:07o}", header.uid));
        put(124, &format!("{:011o}", header.size));
        put(136, &format!("{TIME:011o}"));
        put(148, "        ");
        put(157, header.link);
        put(257, "ustar\x0000");
        put(329, &format!("{:07o}", header.device.0));
        put(337, &format!("{:07o}", header.device.1));
        block[156] = header.kind;
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    /// Bytes, padded to a block.
    #[must_use]
    pub fn data(mut self, bytes: &[u8]) -> Tar {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    #[must_use]
    pub fn entry(self, header: &Header<'_>, bytes: &[u8]) -> Tar {
        let size = bytes.len() as u64;
        self.header(&Header {
            size,
            ..header.clone()
        })
        .data(bytes)
    }

    #[must_use]
    pub fn file(self, path: &str, bytes: &[u8]) -> Tar {
        self.entry(&Header::new(b'0', path), bytes)
    }

    #[must_use]
    pub fn directory(self, path: &str) -> Tar {
        self.header(&Header {
            mode: 0o755,
            ..Header::new(b'5', path)
        })
    }

    #[must_use]
    pub fn symlink(self, path: &str, link: &str) -> Tar {
        self.header(&Header {
            link,
            mode: 0o777,
            ..Header::new(b'2', path)
        })
    }

    #[must_use]
    pub fn hard_link(self, path: &str, link: &str) -> Tar {
        self.header(&Header {
            link,
            ..Header::new(b'1', path)
        })
    }

    /// PAX records for the next entry.
    #[must_use]
    pub fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            data.write_all(format!("{length} {key}=").as_bytes()).ok(); // To memory.
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(&Header::new(b'x', "pax"), &data)
    }

    /// With its end.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

/// An archive as `docker save` wrote them for long: these layers, bottom first.
pub fn saved(name: &str, layers: &[Tar]) -> Vec<u8> {
    saved_with(name, layers, &serde_json::json!({}))
}

/// The same with this in the image's `config`.
pub fn saved_with(name: &str, layers: &[Tar], config: &Value) -> Vec<u8> {
    saved_as(&serde_json::json!({ "config": config }), name, layers)
}

/// The same with this at the top of what describes the image.
pub fn saved_as(document: &Value, name: &str, layers: &[Tar]) -> Vec<u8> {
    archive(document, name, layers, |layer| layer)
}

/// The same with layers that are compressed, by the machine's gzip.
pub fn saved_packed(name: &str, layers: &[Tar]) -> Vec<u8> {
    archive(&Value::Null, name, layers, |layer| {
        let scratch = Scratch::new();
        let mut command = Command::new("gzip");
        command.arg(scratch.file("layer", layer));
        runtime::finish(command).success();
        let packed = scratch.path().join("layer.gz");
        fs::read(&packed).unwrap_or_else(|error| panic!("read {}: {error}", packed.display()))
    })
}

fn archive(
    document: &Value,
    name: &str,
    layers: &[Tar],
    pack: impl Fn(Vec<u8>) -> Vec<u8>,
) -> Vec<u8> {
    let mut archive = Tar::new();
    let mut diff_ids = Vec::new();
    let mut paths = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let bytes = layer.bytes();
        diff_ids.push(format!("sha256:{}", sha256(&bytes)));
        let id = format!("{index:064x}");
        paths.push(format!("{id}/layer.tar"));
        archive = archive
            .directory(&format!("{id}/"))
            .file(&format!("{id}/VERSION"), b"1.0")
            .file(&format!("{id}/layer.tar"), &pack(bytes));
    }
    let mut config = serde_json::json!({
        "architecture": ARCHITECTURE, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    for (key, value) in document.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let config = config.to_string();
    let path = format!("{}.json", sha256(config.as_bytes()));
    let manifest = serde_json::json!([{"Config": path, "RepoTags": [name], "Layers": paths}]);
    archive
        .file(&path, config.as_bytes())
        .file("manifest.json", manifest.to_string().as_bytes())
        .bytes()
}

/// By the machine's own program, so that it is not ours that says what is right.
pub fn sha256(bytes: &[u8]) -> String {
    let scratch = Scratch::new();
    let file = scratch.file("bytes", bytes);
    let mut command = Command::new("sha256sum");
    command.arg(file);
    let said = runtime::finish(command).success().stdout;
    said.split(' ').next().unwrap_or_default().to_owned()
}
