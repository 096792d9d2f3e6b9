//! Whether the store still has what came in: blobs by their digests, layers by unpacking them once more and comparing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use anyhow::{Context, Result};
use redb::Durability;

use super::operation::{NewLayer, Operation};
use super::rows::{self, Graph, LAYERS, LayerRow, Tables as _};
use super::{Damage, Store, Verdict};
use crate::digest::{Digest, Hashing};
use crate::layer::compare;
use crate::layer::workers::{self, Job};
use crate::wanted::{Wanted, WhileWanted};

/// What is looked at.
struct Chosen {
    graph: Graph,
    blobs: BTreeSet<Digest>,
    /// With the blobs that they are unpacked of.
    layers: BTreeMap<Digest, BTreeSet<Digest>>,
}

impl Chosen {
    /// Of the images named, or of all.
    fn of(graph: Graph, names: &[String]) -> Result<Self> {
        let manifests = match names {
            [] => graph
                .images
                .keys()
                .map(|key| key.parse())
                .collect::<Result<Vec<_>>>()?,
            names => names
                .iter()
                .map(|name| graph.find(name).map(|(manifest, _)| manifest))
                .collect::<Result<_>>()?,
        };
        let (mut blobs, mut layers) = (BTreeSet::new(), BTreeMap::new());
        for manifest in manifests {
            let row = graph.row(&manifest)?;
            blobs.extend([manifest, row.config]);
            for link in &row.layers {
                blobs.insert(link.blob);
                let of: &mut BTreeSet<_> = layers.entry(link.diff_id).or_default();
                of.insert(link.blob);
            }
        }
        Ok(Self {
            graph,
            blobs,
            layers,
        })
    }
}

impl Store {
    /// Compares what is stored with its digests: of the images named, or all. `repair` unpacks damaged layers again.
    pub(crate) fn verify(
        &self,
        names: &[String],
        repair: bool,
        wanted: &Wanted,
    ) -> Result<Verdict> {
        // What is looked at stays until then, whoever removes its image meanwhile: what is missing is missing.
        let (operation, chosen) = Operation::begin_with(self, "verify", |transaction, lease| {
            let chosen = Chosen::of(transaction.graph()?, names)?;
            lease.blobs.extend(&chosen.blobs);
            lease.layers.extend(chosen.layers.keys());
            Ok(chosen)
        })?;
        let mut verdict = Verdict::default();
        for blob in &chosen.blobs {
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
        for (diff_id, mut blobs) in chosen.layers {
            verdict.checked += 1;
            blobs.retain(|blob| !told.contains(blob));
            let found = self.verify_layer(&chosen.graph, &diff_id, &blobs, repair, wanted);
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
        let (directory, found) = self.compare(graph.layer(diff_id)?, diff_id, &fresh, wanted)?;
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
            // Otherwise somebody else has repaired it.
            if row.directory == directory {
                let directory = fresh.number;
                rows::put(transaction, LAYERS, &key, &LayerRow { directory, ..row })?;
            }
            Ok(())
        })?;
        Ok(damage)
    }

    /// What is wrong with a layer's files, and in which directory. Whoever repairs it meanwhile puts others in its place, which are looked at then.
    fn compare(
        &self,
        row: &LayerRow,
        diff_id: &Digest,
        fresh: &NewLayer<'_>,
        wanted: &Wanted,
    ) -> Result<(u64, Option<String>)> {
        let mut row = row.clone();
        loop {
            let there = self.layer_path(row.directory);
            let found = compare::difference(&there, &fresh.path, &row.implied, wanted);
            wanted.check()?;
            let found = found.unwrap_or_else(|error| Some(format!("{error:#}")));
            if found.is_none() {
                return Ok((row.directory, found));
            }
            let now = self.read()?.layer(diff_id)?.clone();
            if now.directory == row.directory {
                return Ok((row.directory, found));
            }
            row = now;
        }
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
