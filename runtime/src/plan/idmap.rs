//! Id-mapped mounts: option words and mapping fields of a mount into the maps that its file system is seen through.
//!
//! Pure. The user namespaces that carry the maps are made by `crate::spawn`; see mount_setattr(2), MOUNT_ATTR_IDMAP.

use super::Slot;
use super::namespaces::{IdMap, IdMaps, check_ranges, id_maps};
use crate::report::{Error, Kind, Result};

/// How an id-mapped mount maps ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountIdMap {
    /// The mounts below it, too.
    pub(crate) recursive: bool,
    pub(crate) through: UserNamespace,
}

/// The user namespace whose maps a mount gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UserNamespace {
    /// One that is made for that.
    Maps(IdMaps),
    /// The one that the container joins.
    Joined(Slot),
}

/// The option word that asks for an id-mapped mount.
#[derive(Debug, Default)]
pub(super) struct Word {
    recursive: bool,
    /// What follows `idmap=`, in crun's form: `uids=C-H-S#C-H-S;gids=C-H-S`.
    text: Option<String>,
}

/// What a container means for the id-mapped mounts in it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Container<'a> {
    /// The maps of its new user namespace.
    pub(crate) maps: Option<&'a IdMaps>,
    /// The user namespace that it joins.
    pub(crate) joined: Option<Slot>,
    /// Whether the caller may map ids of mounts at all.
    pub(crate) privileged: bool,
}

impl Word {
    /// Reads an option word; None if it is another one.
    pub(super) fn parse(word: &str) -> Option<Word> {
        let (name, text) = match word.split_once('=') {
            Some((name, text)) => (name, Some(text.to_owned())),
            None => (word, None),
        };
        let recursive = match name {
            "idmap" => false,
            "ridmap" => true,
            _ => return None,
        };
        Some(Word { recursive, text })
    }
}

/// The id map of one entry of `mounts`. Mappings without the option imply `idmap`; the option without mappings means the container's own.
pub(super) fn plan(
    word: Option<Word>,
    entry: &oci_spec::runtime::Mount,
    is_bind: bool,
    container: &Container<'_>,
) -> Result<Option<MountIdMap>> {
    let fields = IdMaps {
        uids: id_maps(entry.uid_mappings().as_ref()),
        gids: id_maps(entry.gid_mappings().as_ref()),
    };
    let has_fields = !fields.uids.is_empty() || !fields.gids.is_empty();
    if word.is_none() && !has_fields {
        return Ok(None);
    }
    let word = word.unwrap_or_default();
    if !is_bind {
        return Err(Error::invalid(
            "id-mapped mounts are only supported for bind-mounts",
        ));
    }
    if !container.privileged {
        // The kernel asks for CAP_SYS_ADMIN in the user namespace that the file system was mounted in.
        return Err(Error::new(
            Kind::Unsupported,
            "id-mapped mounts are not supported for rootless containers",
        ));
    }
    let through = match (&word.text, has_fields) {
        (Some(_), true) => {
            return Err(Error::invalid(
                "id-mapped mounts take their mappings from the option or from uidMappings and gidMappings, not from both",
            ));
        }
        (Some(text), false) => UserNamespace::Maps(option_maps(text, container)?),
        (None, true) => UserNamespace::Maps(fields),
        (None, false) => match (container.maps, container.joined) {
            (None, Some(slot)) => UserNamespace::Joined(slot),
            (maps, _) => UserNamespace::Maps(maps.cloned().unwrap_or_default()),
        },
    };
    if let UserNamespace::Maps(maps) = &through {
        if maps.uids.is_empty() || maps.gids.is_empty() {
            return Err(Error::invalid(
                "id-mapped mounts must have both uid and gid mappings specified",
            ));
        }
        check_ranges(maps)?;
    }
    Ok(Some(MountIdMap {
        recursive: word.recursive,
        through,
    }))
}

/// crun's form: `uids=` and `gids=`, each a list of triplets separated by `#`.
fn option_maps(text: &str, container: &Container<'_>) -> Result<IdMaps> {
    let mut maps = IdMaps::default();
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let own = |side: fn(&IdMaps) -> &Vec<IdMap>| container.maps.map(side);
        let (list, triplets, own) = match part.split_once('=') {
            Some(("uids", triplets)) => (&mut maps.uids, triplets, own(|maps| &maps.uids)),
            Some(("gids", triplets)) => (&mut maps.gids, triplets, own(|maps| &maps.gids)),
            _ => {
                return Err(Error::invalid(format!(
                    "idmap={text}: only uids= and gids= may follow, not {part:?}"
                )));
            }
        };
        for triplet in triplets.split('#') {
            match triplet.strip_prefix('@') {
                None => list.push(parse_triplet(triplet)?),
                Some(relative) => list.extend(absolute(parse_triplet(relative)?, own)?),
            }
        }
    }
    Ok(maps)
}

fn parse_triplet(text: &str) -> Result<IdMap> {
    let numbers: Vec<u32> = text.split('-').filter_map(|n| n.parse().ok()).collect();
    match (numbers.as_slice(), text.split('-').count()) {
        (&[container, host, size], 3) => Ok(IdMap {
            container,
            host,
            size,
        }),
        _ => Err(Error::invalid(format!(
            "invalid idmap {text:?}: not of the form ID-ID-LENGTH"
        ))),
    }
}

/// A triplet whose second number is an id of the container (`@`), as ids of the host. It may span several ranges of the container's map.
fn absolute(mut rest: IdMap, own: Option<&Vec<IdMap>>) -> Result<Vec<IdMap>> {
    let mut maps = Vec::new();
    while rest.size > 0 {
        let within =
            |map: &&IdMap| rest.host >= map.container && rest.host - map.container < map.size;
        let Some(range) = own.into_iter().flatten().find(within) else {
            return Err(Error::invalid(format!(
                "idmap: id {} is not mapped in the container's user namespace",
                rest.host
            )));
        };
        let offset = rest.host - range.container;
        let size = rest.size.min(range.size - offset);
        maps.push(IdMap {
            container: rest.container,
            host: range.host.saturating_add(offset),
            size,
        });
        rest = IdMap {
            container: rest.container.saturating_add(size),
            host: rest.host.saturating_add(size),
            size: rest.size - size,
        };
    }
    Ok(maps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> IdMaps {
        IdMaps {
            uids: vec![IdMap::of(0, 0, 1), IdMap::of(1, 2, 1000)],
            gids: vec![IdMap::of(0, 100_000, 10)],
        }
    }

    fn planned(json: &str, container: Container<'_>) -> Result<Option<MountIdMap>> {
        let entry: oci_spec::runtime::Mount = serde_json::from_str(json).unwrap();
        let options = entry.options().as_deref().unwrap_or_default();
        let word = options.iter().find_map(|word| Word::parse(word));
        let bind = options.iter().any(|word| word == "bind");
        plan(word, &entry, bind, &container)
    }

    fn privileged(maps: Option<&IdMaps>) -> Container<'_> {
        Container {
            maps,
            joined: None,
            privileged: true,
        }
    }

    #[test]
    fn mappings_imply_the_option_and_the_option_implies_the_containers_mappings() {
        let own = own();
        let given = planned(
            r#"{"destination":"/x","options":["bind"],"uidMappings":[{"containerID":0,"hostID":5,"size":1}],
                "gidMappings":[{"containerID":0,"hostID":6,"size":1}]}"#,
            privileged(Some(&own)),
        );
        let maps = IdMaps {
            uids: vec![IdMap::of(0, 5, 1)],
            gids: vec![IdMap::of(0, 6, 1)],
        };
        let expected = |recursive, maps| {
            Some(MountIdMap {
                recursive,
                through: UserNamespace::Maps(maps),
            })
        };
        assert_eq!(given.unwrap(), expected(false, maps));
        let implied = planned(
            r#"{"destination":"/x","options":["bind","ridmap"]}"#,
            privileged(Some(&own)),
        );
        assert_eq!(implied.unwrap(), expected(true, own));
        let joined = Container {
            joined: Some(Slot(3)),
            ..privileged(None)
        };
        let joined = planned(r#"{"destination":"/x","options":["bind","idmap"]}"#, joined);
        assert_eq!(
            joined.unwrap().unwrap().through,
            UserNamespace::Joined(Slot(3))
        );
    }

    #[test]
    fn crun_writes_mappings_into_the_option() {
        let own = own();
        let read = |text| option_maps(text, &privileged(Some(&own)));
        let maps = read("uids=0-1-10#10-11-10;gids=0-100-10").unwrap();
        assert_eq!(maps.uids, [IdMap::of(0, 1, 10), IdMap::of(10, 11, 10)]);
        assert_eq!(maps.gids, [IdMap::of(0, 100, 10)]);
        assert_eq!(read("uids=@1-3-10").unwrap().uids, [IdMap::of(1, 4, 10)]);
        assert_eq!(
            read("uids=@5-0-3").unwrap().uids,
            [IdMap::of(5, 0, 1), IdMap::of(6, 2, 2)]
        );
        for wrong in [
            "uids=1-2",
            "uids=a-b-c",
            "uids=1-2-3-4",
            "pids=1-2-3",
            "gids=@0-8-3",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let own = own();
        for (json, container) in [
            (
                r#"{"destination":"/x","type":"tmpfs","options":["idmap"]}"#,
                privileged(Some(&own)),
            ),
            (
                r#"{"destination":"/x","options":["bind","idmap"]}"#,
                privileged(None),
            ),
            (
                r#"{"destination":"/x","options":["bind"],"uidMappings":[{"containerID":0,"hostID":5,"size":1}]}"#,
                privileged(Some(&own)),
            ),
            (
                r#"{"destination":"/x","options":["bind","idmap=uids=0-0-1;gids=0-0-1"],"uidMappings":[{"containerID":0,"hostID":5,"size":1}]}"#,
                privileged(Some(&own)),
            ),
            (
                r#"{"destination":"/x","options":["bind","idmap"]}"#,
                Container {
                    privileged: false,
                    ..privileged(Some(&own))
                },
            ),
        ] {
            assert!(planned(json, container).is_err(), "{json}");
        }
        assert_eq!(
            planned(
                r#"{"destination":"/x","options":["bind"]}"#,
                privileged(None)
            )
            .unwrap(),
            None
        );
    }
}
