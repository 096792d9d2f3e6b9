//! What is true of any name, of any document and of the images of any archive, for `fuzz`.

use std::fs;

use serde_json::{Map, json};

use super::documents::{
    Document, INDEX, LAYER, MANIFEST, Part, configuration, diff_ids, document, index, make_config,
    make_manifest, said, saved,
};
use super::import::{Found, images, name_of};
use super::source::{Contents, Holds, holds};
use super::{DOCUMENT_LIMIT, LAYER_LIMIT, Reference};
use crate::archive::properties::{linked, part, summed_up};
use crate::digest::Digest;
use crate::fuzz::{Scratch, Target};
use crate::store::{Operation, Store};

pub(crate) const REFERENCE: Target = Target::new("reference", names, reference);
pub(crate) const DOCUMENTS: Target = Target::new("documents", documents, any_document);
pub(crate) const ARCHIVE: Target = Target::new("archive", archives, archive);

fn names() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"");
    let names = [
        "busybox".to_owned(),
        "docker.io/library/a/b:1".to_owned(),
        "localhost/a.b/c".to_owned(),
        "host:5000/a/b__c:x.y-z".to_owned(),
        format!("[::1]:5000/a@{digest}"),
    ];
    names.map(String::into_bytes).to_vec()
}

fn reference(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Ok(reference) = text.parse::<Reference>() else {
        return false;
    };
    let again = |text: String| text.parse::<Reference>().expect("it was written");
    assert_eq!(again(reference.to_string()), reference);
    assert_eq!(again(reference.familiar()), reference);
    assert!(reference.tag().is_some() || reference.digest().is_some());
    let mut parts = reference.path().split('/');
    assert!(parts.all(|part| !matches!(part, "" | "." | "..")), "{text}");
    if let Ok(given) = Reference::given(&text) {
        is_given(&given);
    }
    true
}

/// What is shown of a name that an image has can be given as one, and is no digest.
fn is_given(name: &Reference) {
    for text in [name.to_string(), name.familiar()] {
        let again = Reference::given(&text).expect("it was given");
        assert_eq!(again, *name);
        assert!(text.parse::<Digest>().is_err(), "{text}");
    }
}

fn documents() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"layer");
    let part = |media_type: &str| Part {
        digest,
        size: 5,
        media_type: media_type.to_owned(),
    };
    let mut named = part(MANIFEST).json();
    named["annotations"] = json!({"org.opencontainers.image.ref.name": "a.b/c:1"});
    named["platform"] = json!({"os": "linux", "architecture": "arm64"});
    vec![
        make_manifest((digest, 5), &[part(LAYER), part(LAYER)]).expect("a manifest"),
        make_config(digest, "1970-01-01T00:00:00Z", &Map::new(), "").expect("a configuration"),
        json!({"schemaVersion": 2, "manifests": [named, part(INDEX).json()]})
            .to_string()
            .into_bytes(),
        json!([{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l/layer.tar"]}])
            .to_string()
            .into_bytes(),
    ]
}

fn any_document(bytes: &[u8]) -> bool {
    let known = [a_manifest, an_index, a_configuration, a_list];
    // Each of them, whatever the others say.
    known.into_iter().filter(|is| is(bytes)).count() > 0
}

fn a_manifest(bytes: &[u8]) -> bool {
    let Ok(Document::Manifest { config, layers }) = document(MANIFEST, bytes) else {
        return false;
    };
    assert!(layers.len() <= LAYER_LIMIT);
    let written = make_manifest((config.digest, config.size), &layers).expect("a manifest");
    let Ok(Document::Manifest {
        config: same,
        layers: again,
    }) = document(MANIFEST, &written)
    else {
        panic!("what was written is no manifest");
    };
    assert_eq!((same.digest, same.size), (config.digest, config.size));
    assert_eq!(again, layers);
    true
}

fn an_index(bytes: &[u8]) -> bool {
    let Ok(index) = index(bytes) else {
        return false;
    };
    for descriptor in index.manifests() {
        if let Ok(part) = Part::of(descriptor) {
            let again = part.digest.to_string().parse::<Digest>();
            assert_eq!(again.expect("it was written"), part.digest);
        }
        if let Some(name) = name_of(descriptor) {
            is_given(&name);
        }
    }
    true
}

fn a_configuration(bytes: &[u8]) -> bool {
    let Ok(said) = said(bytes) else {
        return false;
    };
    assert!(said["os"] != json!(null) && said["architecture"] != json!(null));
    let Ok(config) = configuration(&said) else {
        return false;
    };
    let again = self::said(said.to_string().as_bytes()).expect("it was written");
    assert_eq!(configuration(&again).expect("it was one"), config);
    let layers = config.rootfs().diff_ids().len();
    if let Ok(diff_ids) = diff_ids(bytes, layers) {
        assert_eq!(diff_ids.len(), layers);
    }
    assert!(diff_ids(bytes, layers + 1).is_err());
    true
}

fn a_list(bytes: &[u8]) -> bool {
    let Ok(images) = saved(bytes) else {
        return false;
    };
    assert!(images.iter().all(|image| image.layers.len() <= LAYER_LIMIT));
    let written = serde_json::to_vec(&images).expect("a list");
    let again = saved(&written).expect("it was written");
    assert_eq!(serde_json::to_vec(&again).expect("a list"), written);
    true
}

/// An OCI layout, what Docker saves, in both forms, and a root file system.
fn archives() -> Vec<Vec<u8>> {
    let layer = part(b'0', "bin/sh", b"text");
    let layer_part = Part {
        digest: Digest::of(&layer),
        size: layer.len() as u64,
        media_type: LAYER.to_owned(),
    };
    let created = "1970-01-01T00:00:00Z";
    let config = make_config(layer_part.digest, created, &Map::new(), "").expect("a configuration");
    let sum = (Digest::of(&config), config.len() as u64);
    let manifest = make_manifest(sum, &[layer_part]).expect("a manifest");
    let (digest, size) = (Digest::of(&manifest), manifest.len());
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": MANIFEST, "digest": digest, "size": size,
        "annotations": {"io.containerd.image.name": "docker.io/library/a:1"},
    }]});
    let blob = |bytes: &[u8]| {
        let name = format!("blobs/sha256/{}", Digest::of(bytes).hex());
        part(b'0', &name, bytes)
    };
    let document =
        |name: &str, value: &serde_json::Value| part(b'0', name, value.to_string().as_bytes());
    let list = |config: &str, layer: &str| json!([{"Config": config, "RepoTags": ["b:1"], "Layers": [layer, layer]}]);
    let two = json!({"architecture": "amd64", "os": "linux", "rootfs":
        {"type": "layers", "diff_ids": [Digest::of(&layer), Digest::of(&layer)]}});
    let layout = [
        part(b'0', "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        document("index.json", &index),
        blob(&layer),
        blob(&config),
        blob(&manifest),
    ]
    .concat();
    let saved = [
        document("c.json", &two),
        part(b'0', "l/layer.tar", &layer),
        part(b'0', "l/VERSION", b"1.0"),
        linked(b'2', "k/layer.tar", "../l/layer.tar", b""),
        document("manifest.json", &list("c.json", "k/layer.tar")),
    ]
    .concat();
    let config_path = format!("blobs/sha256/{}", Digest::of(&config).hex());
    let both = [
        layout.clone(),
        document("manifest.json", &list(&config_path, "l")),
    ]
    .concat();
    let compressed = zstd::encode_all(&*saved, 3).expect("it can be compressed");
    vec![layout, saved, both, compressed, layer]
}

thread_local! {
    static STORE: (Store, Scratch) = {
        let scratch = Scratch::new("archive");
        let store = Store::open(scratch.path()).expect("a new store");
        (store, scratch)
    };
}

fn archive(input: &[u8]) -> bool {
    let bytes = summed_up(input);
    let whole = holds(&bytes[..], true);
    let early = holds(&bytes[..bytes.len() / 2], false);
    assert!(early == Holds::Unknown || early == whole);
    STORE.with(|(store, _)| {
        let taken = imported(store, &bytes);
        for directory in ["blobs/sha256", "ingests"] {
            let mut left = fs::read_dir(store.root().join(directory)).expect("the store's");
            assert!(left.next().is_none(), "an import has left something");
        }
        taken || whole == Holds::Files
    })
}

/// All but the unpacking, and the last transaction.
fn imported(store: &Store, bytes: &[u8]) -> bool {
    let operation = Operation::begin(store, "check").expect("an operation");
    let found = Contents::of_archive(&operation, bytes, &mut |_| {})
        .and_then(|contents| images(&operation, &contents, &mut |_| {}));
    let Ok(found) = found else {
        return false;
    };
    assert!(!found.is_empty());
    for image in &found {
        is_whole(&operation, image);
    }
    true
}

/// All of its content is in the store, and says the same of the image.
fn is_whole(operation: &Operation<'_>, image: &Found) {
    image.names.iter().for_each(is_given);
    let read = |digest| operation.store().read_blob(digest, DOCUMENT_LIMIT);
    let manifest = read(&image.manifest).expect("the manifest");
    let Ok(Document::Manifest { config, layers }) = document(MANIFEST, &manifest) else {
        panic!("an image without a manifest");
    };
    assert_eq!(config.digest, image.config);
    let config = read(&image.config).expect("the configuration");
    let diff_ids = diff_ids(&config, layers.len()).expect("as many layers as it says");
    assert_eq!(image.layers.len(), layers.len());
    assert_eq!(image.sizes.len(), layers.len());
    for (index, link) in image.layers.iter().enumerate() {
        assert_eq!(
            (link.blob, link.diff_id),
            (layers[index].digest, diff_ids[index])
        );
        let blob = operation.store().open_blob(&link.blob).expect("a layer");
        let size = blob.metadata().expect("a file").len();
        assert_eq!((size, size), (layers[index].size, image.sizes[index]));
    }
}
