//! The documents of an image, read and checked, or made for images that come without them.
//!
//! Pure. What is written is the same for the same image, byte by byte.

use anyhow::{Context, Result, ensure};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use ::shim::timestamp::date_and_time;

use super::LAYER_LIMIT;
use crate::digest::Digest;
use crate::store::Refusal;

pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const INDEX_OF_DOCKER: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const MANIFEST_OF_DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The name of an image in an index: the whole one, of containerd and Docker, or that of the specification, often a tag only.
pub(super) const FULL_NAME: &str = "io.containerd.image.name";
pub(super) const NAME: &str = "org.opencontainers.image.ref.name";

/// A content's digest, its size and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) media_type: String,
}

impl Part {
    pub(super) fn of(descriptor: &Descriptor) -> Result<Self> {
        Ok(Self {
            digest: descriptor.digest().to_string().parse()?,
            size: descriptor.size(),
            media_type: descriptor.media_type().to_string(),
        })
    }

    pub(super) fn json(&self) -> serde_json::Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.size})
    }
}

/// What an index or a manifest turns out to be.
#[derive(Debug)]
pub(super) enum Document {
    Index(Box<ImageIndex>),
    Manifest { config: Part, layers: Vec<Part> },
}

pub(super) fn is_index(media_type: &str) -> bool {
    matches!(media_type, INDEX | INDEX_OF_DOCKER)
}

pub(super) fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, MANIFEST | MANIFEST_OF_DOCKER)
}

pub(super) fn index(bytes: &[u8]) -> Result<ImageIndex> {
    ImageIndex::from_reader(bytes).context("read an image index")
}

/// By what its descriptor calls it.
pub(super) fn document(media_type: &str, bytes: &[u8]) -> Result<Document> {
    if is_index(media_type) {
        return Ok(Document::Index(Box::new(index(bytes)?)));
    }
    if !is_manifest(media_type) {
        return Err(Refusal::invalid(format!("'{media_type}' is no image")).into());
    }
    let manifest = ImageManifest::from_reader(bytes).context("read an image manifest")?;
    let layers: Vec<_> = manifest
        .layers()
        .iter()
        .map(Part::of)
        .collect::<Result<_>>()?;
    check_count(layers.len())?;
    Ok(Document::Manifest {
        config: Part::of(manifest.config())?,
        layers,
    })
}

pub(super) fn check_count(layers: usize) -> Result<()> {
    if layers > LAYER_LIMIT {
        let text =
            format!("an image of {layers} layers; more than {LAYER_LIMIT} cannot be mounted");
        return Err(Refusal::invalid(text).into());
    }
    Ok(())
}

/// All that an image says of itself. One that does not say for which machines it is, is for this one, as with Docker.
pub(crate) fn said(bytes: &[u8]) -> Result<Value> {
    let mut said: Map<String, Value> = serde_json::from_slice(bytes)?;
    as_go_reads(&mut said);
    for (key, value) in [("os", "linux"), ("architecture", architecture())] {
        if said.get(key).is_none_or(Value::is_null) {
            said.insert(key.into(), json!(value));
        }
    }
    Ok(said.into())
}

/// What Docker reads without a word and the specification does not have: null for what is not said, also in a list, and a command line that is
/// one text.
fn as_go_reads(said: &mut Map<String, Value>) {
    if let Some(Value::Object(config)) = said.get_mut("config") {
        for (name, nothing) in [
            ("Labels", json!("")),
            ("ExposedPorts", json!({})),
            ("Volumes", json!({})),
        ] {
            let values = config.get_mut(name).and_then(Value::as_object_mut);
            let values = values.into_iter().flat_map(Map::values_mut);
            for value in values.filter(|value| value.is_null()) {
                *value = nothing.clone();
            }
        }
        for name in ["Cmd", "Entrypoint", "OnBuild", "Shell"] {
            if let Some(text @ Value::String(_)) = config.get_mut(name) {
                *text = json!([text.take()]);
            }
        }
        for name in ["Env", "Cmd", "Entrypoint", "OnBuild", "Shell"] {
            no_null_in(config.get_mut(name), &json!(""));
        }
        let health = config.get_mut("Healthcheck");
        no_null_in(health.and_then(|it| it.get_mut("Test")), &json!(""));
    }
    no_null_in(said.get_mut("history"), &json!({}));
    without_null(said);
    // As Docker writes it if there are none.
    if let Some(Value::Object(rootfs)) = said.get_mut("rootfs") {
        rootfs.entry("diff_ids").or_insert(json!([]));
    }
}

fn no_null_in(list: Option<&mut Value>, nothing: &Value) {
    let list = list.and_then(Value::as_array_mut);
    for value in list.into_iter().flatten().filter(|value| value.is_null()) {
        *value = nothing.clone();
    }
}

fn without_null(object: &mut Map<String, Value>) {
    object.retain(|_, value| !value.is_null());
    for value in object.values_mut() {
        match value {
            Value::Object(inner) => without_null(inner),
            Value::Array(list) => list
                .iter_mut()
                .filter_map(Value::as_object_mut)
                .for_each(without_null),
            _ => {}
        }
    }
}

/// Of this what the specification knows.
pub(crate) fn configuration(said: &Value) -> Result<ImageConfiguration> {
    Ok(ImageConfiguration::deserialize(said)?)
}

/// The digests of the uncompressed layers, of which there must be so many.
pub(super) fn diff_ids(config: &[u8], layers: usize) -> Result<Vec<Digest>> {
    let config = configuration(&said(config)?)?;
    let diff_ids: Vec<_> = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|digest| digest.to_string().parse())
        .collect::<Result<_>>()?;
    ensure!(
        diff_ids.len() == layers,
        "the configuration has {} layers, and the manifest {layers}",
        diff_ids.len()
    );
    Ok(diff_ids)
}

/// Whether an image of an index is for machines like this one.
pub(super) fn is_for_us(descriptor: &Descriptor) -> bool {
    let Some(platform) = descriptor.platform() else {
        return true;
    };
    platform.os().to_string() == "linux" && platform.architecture().to_string() == architecture()
}

/// What one should know who runs an image that is for other machines than this one.
pub(crate) fn warning(config: &ImageConfiguration) -> Option<String> {
    let (image, host) = (
        format!("{}/{}", config.os(), config.architecture()),
        format!("linux/{}", architecture()),
    );
    (image != host).then(|| {
        format!(
            "the requested image's platform ({image}) does not match the detected host platform ({host}) and no specific platform was requested"
        )
    })
}

/// As Go calls it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// One element of `manifest.json`, which `docker save` writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub(super) config: String,
    #[serde(default, deserialize_with = "nothing_is_empty")]
    pub(super) repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "nothing_is_empty")]
    pub(super) layers: Vec<String>,
}

/// Go writes null for a list that was never made.
fn nothing_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

/// Whether it is one, whatever it says.
pub(super) fn is_saved(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Vec<Saved>>(bytes).is_ok()
}

pub(super) fn saved(bytes: &[u8]) -> Result<Vec<Saved>> {
    let saved: Vec<Saved> = serde_json::from_slice(bytes).context("read manifest.json")?;
    for image in &saved {
        check_count(image.layers.len())?;
    }
    Ok(saved)
}

/// A manifest for an image that came without one.
pub(super) fn make_manifest(config: (Digest, u64), layers: &[Part]) -> Result<Vec<u8>> {
    let config = Part {
        digest: config.0,
        size: config.1,
        media_type: CONFIG.to_owned(),
    };
    let layers: Vec<_> = layers.iter().map(Part::json).collect();
    Ok(serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.json(),
        "layers": layers,
    }))?)
}

/// The configuration of a root file system that came without anything but what is said of it.
pub(super) fn make_config(
    diff_id: Digest,
    created: &str,
    config: &Map<String, Value>,
    comment: &str,
) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&json!({
        "created": created,
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "comment": comment}],
    }))?)
}

/// Nanoseconds since the epoch in RFC 3339: images of one second have an order, too.
pub(super) fn time(nanoseconds: i64) -> String {
    let (seconds, rest) = (
        nanoseconds.div_euclid(1_000_000_000),
        nanoseconds.rem_euclid(1_000_000_000),
    );
    format!("{}.{rest:09}Z", date_and_time(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000007Z"),
            (951_782_399, "2000-02-28T23:59:59.000000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000000007Z"),
            (1_709_251_200, "2024-03-01T00:00:00.000000007Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000000007Z"),
        ] {
            assert_eq!(time(seconds * 1_000_000_000 + 7), text);
        }
    }

    #[test]
    fn a_manifest_that_was_made_can_be_read() {
        let digest = Digest::of(b"layer");
        let layer = Part {
            digest,
            size: 5,
            media_type: LAYER.to_owned(),
        };
        let bytes =
            make_manifest((Digest::of(b"config"), 6), std::slice::from_ref(&layer)).unwrap();
        let Document::Manifest { config, layers } = document(MANIFEST, &bytes).unwrap() else {
            panic!("not a manifest");
        };
        assert_eq!((config.digest, config.size), (Digest::of(b"config"), 6));
        assert_eq!(layers, [layer]);
        let config = make_config(digest, &time(0), &Map::new(), "").unwrap();
        assert_eq!(diff_ids(&config, 1).unwrap(), [digest]);
        assert!(diff_ids(&config, 2).is_err());
    }

    #[test]
    fn a_configuration_may_be_as_go_reads_it() {
        let bytes = json!({
            "created": null,
            "author": null,
            "config": {
                "Labels": {"a": null, "b": "c"},
                "Cmd": "one two",
                "Entrypoint": null,
                "Env": null,
                "OnBuild": [null],
                "Shell": ["sh", null],
                "ExposedPorts": {"80/tcp": null},
                "Volumes": null,
                "User": null,
                "StopSignal": null,
                "Healthcheck": {"Test": ["CMD", null], "Interval": null},
            },
            "rootfs": {"type": "layers", "diff_ids": null},
            "history": [{"created": null, "created_by": "x", "empty_layer": null}, null],
        });
        let said = said(bytes.to_string().as_bytes()).unwrap();
        let read = configuration(&said).unwrap();
        let config = read.config().as_ref().unwrap();
        assert_eq!(config.cmd().as_deref().unwrap(), ["one two"]);
        assert_eq!(*config.entrypoint(), None);
        assert_eq!(config.exposed_ports().as_deref().unwrap(), ["80/tcp"]);
        assert_eq!(said["config"]["Labels"], json!({"a": "", "b": "c"}));
        assert_eq!(said["config"]["Healthcheck"], json!({"Test": ["CMD", ""]}));
        assert_eq!(said["config"]["OnBuild"], json!([""]));
        assert_eq!(said["config"]["Shell"], json!(["sh", ""]));
        assert_eq!(read.history().as_ref().unwrap().len(), 2);
        assert!(
            diff_ids(bytes.to_string().as_bytes(), 0)
                .unwrap()
                .is_empty()
        );
        for config in [
            json!(null),
            json!({"Entrypoint": "a", "Labels": null}),
            json!({"Entrypoint": [null], "Cmd": ["a", null], "Env": [null, "A=b"]}),
        ] {
            let bytes = json!({"config": config, "history": null, "rootfs": {"type": "layers"}});
            assert!(diff_ids(bytes.to_string().as_bytes(), 0).is_ok(), "{bytes}");
        }
    }

    #[test]
    fn a_list_in_manifest_json_may_be_null() {
        let saved =
            saved(br#"[{"Config":"a.json","RepoTags":null,"Layers":["b/layer.tar"]}]"#).unwrap();
        assert!(saved[0].repo_tags.is_empty());
        assert!(super::saved(b"{}").is_err());
    }

    #[test]
    fn more_layers_than_can_be_mounted_are_refused() {
        let layer = Part {
            digest: Digest::of(b""),
            size: 0,
            media_type: LAYER.to_owned(),
        };
        let bytes = make_manifest((Digest::of(b""), 0), &vec![layer; LAYER_LIMIT + 1]).unwrap();
        assert!(
            document(MANIFEST, &bytes)
                .unwrap_err()
                .to_string()
                .contains("500 layers")
        );
    }
}
