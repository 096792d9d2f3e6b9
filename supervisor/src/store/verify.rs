//! Whether the store still has what came in: blobs by their digests, layers by unpacking them once more and comparing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use anyhow::{Context, Result};
use redb::Durability;

use super::operation::{NewLayer, Operation};
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
        // Layer → blobs.
        let mut layers: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let mut verdict = Verdict::default();
        let mut blobs = BTreeSet::new();
        for manifest in manifests {
            let row = graph.row(&manifest)?;
            blobs.insert(manifest);
            blobs.insert(row.config);
            for link in &row.layers {
                blobs.insert(link.blob);
                layers.entry(link.diff_id).or_default().insert(link.blob);
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
        let told: BTreeSet<_> = verdict.damage.iter().map(|damage| damage.object).collect();
        for (diff_id, mut blobs) in layers {
            verdict.checked += 1;
            blobs.retain(|blob| !told.contains(blob));
            let found = self.verify_layer(&graph, &diff_id, &blobs, repair, wanted);
            wanted.check()?;
            let found = found.unwrap_or_else(|error| {
                vec![Damage {
                    object: diff_id,
                    what: format!("{error:#}"),
                    repaired: false,
                }]
            });
            verdict.damage.extend(found);
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

    /// What is wrong with a layer's files, and whether it was put right; and which of these blobs are not the layer. Any blob that is will do,
    /// those of images that were not asked for, too.
    fn verify_layer(
        &self,
        graph: &Graph,
        diff_id: &Digest,
        blobs: &BTreeSet<Digest>,
        repair: bool,
        wanted: &Wanted,
    ) -> Result<Vec<Damage>> {
        let row = graph.layer(diff_id)?;
        let (mut right, mut wrong) = (None, Vec::new());
        let others = graph.images.values().flat_map(|image| &image.layers);
        let others = others.filter(|link| link.diff_id == *diff_id && !blobs.contains(&link.blob));
        for blob in blobs.iter().chain(others.map(|link| &link.blob)) {
            if right.is_some() && !blobs.contains(blob) {
                break;
            }
            match self.unpack_again(blob, diff_id, wanted) {
                Ok(fresh) => right = right.or(Some(fresh)),
                Err(error) => wrong.push((*blob, error)),
            }
            wanted.check()?;
        }
        let Some(fresh) = right else {
            let error = wrong.into_iter().next().map(|(_, error)| error);
            return Err(error.context("no image has a blob of it")?);
        };
        wrong.retain(|(blob, _)| blobs.contains(blob));
        let of_blob = |(object, error)| Damage {
            object,
            what: format!("{error:#}"),
            repaired: false,
        };
        let mut damage: Vec<_> = wrong.into_iter().map(of_blob).collect();
        let there = self.layer_path(row.directory);
        let found = compare::difference(&there, &fresh.path, &row.implied, wanted);
        wanted.check()?;
        let found = found.unwrap_or_else(|error| Some(format!("{error:#}")));
        let Some(what) = found else {
            return Ok(damage);
        };
        damage.push(Damage {
            object: *diff_id,
            what,
            repaired: repair,
        });
        if !repair {
            return Ok(damage);
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
        Ok(damage)
    }

    fn unpack_again(
        &self,
        blob: &Digest,
        diff_id: &Digest,
        wanted: &Wanted,
    ) -> Result<NewLayer<'_>> {
        let fresh = self.new_layer()?;
        let job = Job {
            blob: self.open_blob(blob)?,
            diff_id: Some(*diff_id),
            directory: fresh.path.clone(),
        };
        workers::unpack(vec![job], &mut |_, _| Ok(wanted.check()?)).context("unpack it again")?;
        Ok(fresh)
    }
}
