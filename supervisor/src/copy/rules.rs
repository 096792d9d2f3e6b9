//! Where what is copied goes to: the rules of `docker cp`. Pure.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// What is copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// The last part of its path; empty for the root.
    pub(crate) name: Vec<u8>,
    pub(crate) directory: bool,
    /// Not the directory, but what is in it.
    pub(crate) contents: bool,
}

/// What there is at the place that was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Nothing,
    Directory,
    Other,
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Into the directory, under this name; without one, what is in it goes there.
    Inside(Option<Vec<u8>>),
    /// It becomes what was named.
    Itself,
}

/// A path, and what the end of it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    pub(crate) path: &'a [u8],
    /// It ends in `/` or `/.`, so it must be a directory.
    pub(crate) directory: bool,
    /// It ends in `/.`, or is `.`.
    pub(crate) contents: bool,
}

impl<'a> Named<'a> {
    pub(crate) fn new(path: &'a [u8]) -> Self {
        let contents = path == b"." || path.ends_with(b"/.");
        Self {
            path,
            directory: contents || path.ends_with(b"/"),
            contents,
        }
    }

    /// The last part of it; none of the root's, and of what leads up.
    pub(crate) fn name(&self) -> Vec<u8> {
        let parts = self.path.split(|byte| *byte == b'/');
        let mut parts = parts.filter(|part| !part.is_empty() && *part != b".");
        let last = parts.next_back().filter(|part| *part != b"..");
        last.unwrap_or_default().to_vec()
    }
}

pub(crate) fn place(source: &Source, target: Target, named: &Named<'_>) -> Result<Place> {
    let whole = source.contents || source.name.is_empty();
    match target {
        Target::Directory if source.directory && whole => Ok(Place::Inside(None)),
        Target::Directory => Ok(Place::Inside(Some(source.name.clone()))),
        Target::Other if source.directory => bail!("a directory cannot be copied over a file"),
        Target::Other if named.directory => bail!("it is no directory"),
        Target::Nothing if named.directory && !source.directory => {
            bail!("there is no such directory")
        }
        Target::Other | Target::Nothing => Ok(Place::Itself),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(source: &str, directory: bool, target: Target, path: &str) -> Result<Place> {
        let named = Named::new(source.as_bytes());
        let source = Source {
            name: named.name(),
            directory,
            contents: named.contents,
        };
        place(&source, target, &Named::new(path.as_bytes()))
    }

    fn inside(name: &str) -> Place {
        Place::Inside((!name.is_empty()).then(|| name.as_bytes().to_vec()))
    }

    #[test]
    fn a_file_goes_where_docker_has_it() {
        let file = |target, path| at("/a/file", false, target, path);
        assert_eq!(file(Target::Nothing, "/b").unwrap(), Place::Itself);
        assert!(file(Target::Nothing, "/b/").is_err());
        assert_eq!(file(Target::Other, "/b").unwrap(), Place::Itself);
        assert!(file(Target::Other, "/b/").is_err());
        assert_eq!(file(Target::Directory, "/b").unwrap(), inside("file"));
    }

    #[test]
    fn a_directory_goes_where_docker_has_it() {
        let directory = |source, target, path| at(source, true, target, path);
        for source in ["/a/dir", "/a/dir/", "/a/dir/."] {
            assert_eq!(
                directory(source, Target::Nothing, "/b").unwrap(),
                Place::Itself
            );
            assert_eq!(
                directory(source, Target::Nothing, "/b/").unwrap(),
                Place::Itself
            );
            assert!(directory(source, Target::Other, "/b").is_err());
        }
        let into = |source| directory(source, Target::Directory, "/b").unwrap();
        assert_eq!(into("/a/dir"), inside("dir"));
        assert_eq!(into("/a/dir/"), inside("dir"));
        assert_eq!(into("/a/dir/."), inside(""));
        assert_eq!(into("/"), inside(""));
        assert_eq!(into("."), inside(""));
        assert_eq!(into("a/.."), inside(""));
    }
}
