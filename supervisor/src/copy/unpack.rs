//! A tar archive → files in a directory.
//!
//! Runs in the confined process, and in the client. What an entry says is resolved below the directory's descriptor and cannot lead out
//! (`layer::tree`); only names and owners are decided here.

use std::io::Read;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};

use crate::archive::{Entry, Kind, Reader};
use crate::layer::tree::Tree;

/// What becomes of the first part of all paths in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// They are as they are.
    Kept,
    /// This takes its place.
    Named(Vec<u8>),
    /// What is below it goes into the directory.
    Contents,
}

/// Who owns what comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// As the archive says.
    Kept,
    /// These ids, whatever it says.
    Fixed(u32, u32),
}

pub(crate) struct Unpacking {
    pub(crate) naming: Naming,
    pub(crate) owner: Owner,
    /// How many there are for owners, if not all of them.
    pub(crate) ids: Option<u32>,
    /// Attributes that only root may set are left out.
    pub(crate) unprivileged: bool,
}

impl Unpacking {
    /// Reads to the archive's end. `descriptors` is as for [`crate::whole::Whole`].
    pub(crate) fn run<R: Read>(
        &self,
        archive: R,
        directory: OwnedFd,
        descriptors: Option<OwnedFd>,
    ) -> Result<()> {
        let mut reader = Reader::new(archive);
        let mut tree = Tree::of_copies(directory, descriptors);
        while let Some(mut entry) = reader.next()? {
            let name = String::from_utf8_lossy(&entry.path).into_owned();
            self.edit(&mut entry);
            // The host's root has a number in the mount's map, too.
            if let Some(ids) = self.ids {
                ensure!(
                    entry.uid.max(entry.gid) < ids,
                    "copy '{name}': its owner {}:{} is none in the container, whose user namespace has {ids} ids",
                    entry.uid,
                    entry.gid
                );
            }
            tree.add(&entry, &mut reader)
                .with_context(|| format!("copy '{name}'"))?;
        }
        tree.finish_copies()?;
        reader.finish().map(drop)
    }

    fn edit(&self, entry: &mut Entry) {
        entry.path = self.rename(&entry.path);
        if entry.kind == Kind::HardLink {
            entry.link = self.rename(&entry.link);
        }
        if let Owner::Fixed(uid, gid) = self.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        if self.unprivileged {
            entry.xattrs.retain(|(name, _)| name.starts_with(b"user."));
        }
    }

    fn rename(&self, path: &[u8]) -> Vec<u8> {
        let below = || {
            let cut = path.iter().position(|byte| *byte == b'/');
            cut.map_or(&b""[..], |cut| &path[cut..])
        };
        match &self.naming {
            Naming::Kept => path.to_vec(),
            Naming::Named(name) => [name, below()].concat(),
            Naming::Contents => below().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_of_a_path_is_exchanged() {
        let renamed = |naming: &Naming, path: &str| {
            let unpacking = Unpacking {
                naming: naming.clone(),
                owner: Owner::Kept,
                ids: None,
                unprivileged: false,
            };
            String::from_utf8(unpacking.rename(path.as_bytes())).unwrap()
        };
        let named = Naming::Named(b"new".to_vec());
        for (path, expected, contents) in [
            ("old", "new", ""),
            ("old/", "new/", "/"),
            ("old/a/old", "new/a/old", "/a/old"),
        ] {
            assert_eq!(renamed(&Naming::Kept, path), path);
            assert_eq!(renamed(&named, path), expected);
            assert_eq!(renamed(&Naming::Contents, path), contents);
        }
    }
}
