//! Whether the store still has what came in: blobs by their digests, layers by unpacking them once more and comparing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use anyhow::{Context, Result};
use redb::Durability;

use super::operation::Operation;
use super::rows::{self, Graph, LAYERS, LayerRow};
use super::{Damage, Store, Verdict};
use crate::digest::{Digest, Hashing};
use crate::layer::compare;
use crate::layer::workers::{self, Job};
use crate::wanted::{Wanted, WhileWanted};

impl Store {
    /// Compares what is stored with its digests: of the images named, or all. `repair` unpacks damaged layers again.
    pub(crate) fn verify(
        &self,
        names: &[String],
        repair: bool,
        wanted: &Wanted,
    ) -> Result<Verdict> {
        let graph = self.read()?;
        let manifests = match names {
            [] => graph
                .images
                .keys()
                .map(|key| key.parse())
                .collect::<Result<_>>()?,
            names => names
                .iter()
                .map(|name| graph.find(name).map(|(manifest, _)| manifest))
                .collect::<Result<Vec<_>>>()?,
        };
        let operation = Operation::begin(self, "verify")?;
        // Layer → blob.
        let mut layers = BTreeMap::new();
        let mut verdict = Verdict::default();
        let mut blobs = BTreeSet::new();
        for manifest in manifests {
            let row = graph.row(&manifest)?;
            blobs.insert(manifest);
            blobs.insert(row.config);
            for link in &row.layers {
                blobs.insert(link.blob);
                layers.insert(link.diff_id, link.blob);
            }
        }
        for blob in &blobs {
            operation.hold_existing(blob)?;
            verdict.checked += 1;
            let damage = self.blob_damage(blob, wanted);
            // Then it was not looked at to its end.
            wanted.check()?;
            if let Some(what) = damage {
                verdict.damage.push(Damage {
                    object: *blob,
                    what,
                    repaired: false,
                });
            }
        }
        for (diff_id, blob) in layers {
            verdict.checked += 1;
            let found = self.verify_layer(&graph, &diff_id, &blob, repair, wanted);
            wanted.check()?;
            let found = found.unwrap_or_else(|error| Some((format!("{error:#}"), false)));
            if let Some((what, repaired)) = found {
                verdict.damage.push(Damage {
                    object: diff_id,
                    what,
                    repaired,
                });
            }
        }
        operation.finish(|_| Ok(()))?;
        // What was removed meanwhile, and its row first, is not missing.
        let still = self.read()?;
        verdict.damage.retain(|damage| {
            let key = damage.object.to_string();
            still.blobs.contains_key(&key) || still.layers.contains_key(&key)
        });
        Ok(verdict)
    }

    fn blob_damage(&self, digest: &Digest, wanted: &Wanted) -> Option<String> {
        let mut hashing = match self.open_blob(digest) {
            Ok(file) => Hashing::new(WhileWanted(file, wanted.clone())),
            Err(error) => return Some(format!("{error:#}")),
        };
        match io::copy(&mut hashing, &mut io::sink()) {
            Err(error) => Some(format!("read it: {error}")),
            Ok(_) => {
                let (_, found, _) = hashing.finish();
                (found != *digest).then(|| format!("its bytes are those of {found}"))
            }
        }
    }

    /// What is wrong with a layer's files, and whether it was put right.
    fn verify_layer(
        &self,
        graph: &Graph,
        diff_id: &Digest,
        blob: &Digest,
        repair: bool,
        wanted: &Wanted,
    ) -> Result<Option<(String, bool)>> {
        let row = graph.layer(diff_id)?;
        let fresh = self.new_layer()?;
        let job = Job {
            blob: self.open_blob(blob)?,
            diff_id: Some(*diff_id),
            directory: fresh.path.clone(),
        };
        workers::unpack(vec![job], &mut |_, _| Ok(wanted.check()?)).context("unpack it again")?;
        let there = self.layer_path(row.directory);
        let found = compare::difference(&there, &fresh.path, &row.implied, wanted);
        wanted.check()?;
        let found = found.unwrap_or_else(|error| Some(format!("{error:#}")));
        let Some(what) = found else {
            return Ok(None);
        };
        if !repair {
            return Ok(Some((what, false)));
        }
        self.sync()?;
        // Containers that run have the old directory mounted: it stays until none has it.
        self.write(Durability::Immediate, |transaction| {
            let key = diff_id.to_string();
            let row: LayerRow =
                rows::get(transaction, LAYERS, &key)?.context("the layer is gone")?;
            let directory = fresh.number;
            rows::put(transaction, LAYERS, &key, &LayerRow { directory, ..row })
        })?;
        Ok(Some((what, true)))
    }
}
