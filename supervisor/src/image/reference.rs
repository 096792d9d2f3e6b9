//! Names of images, read and completed as Docker does: `busybox` is `docker.io/library/busybox:latest`.
//!
//! Pure. The grammar is that of github.com/distribution/reference.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};

use crate::digest::Digest;

const DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library/";
const TAG: &str = "latest";
/// No repository is called so.
const DIGESTS: &str = "sha256";

/// A complete name: with domain, path, and a tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// A name that an image can be given. What names content by its digest names always the same, so it is nobody's to give; as with Docker.
    pub fn given(text: &str) -> Result<Self> {
        let name: Self = text.parse()?;
        ensure!(
            name.digest.is_none(),
            "'{text}' cannot be given as a name: its digest says what it names"
        );
        ensure!(
            name.repository() != DIGESTS,
            "'{text}' cannot be given as a name: what begins with '{DIGESTS}:' is a digest"
        );
        Ok(name)
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Without tag and digest, as short as Docker shows it, but where that would name another repository.
    pub fn repository(&self) -> String {
        let short = self.path.strip_prefix(OFFICIAL).unwrap_or(&self.path);
        let this = (self.domain.clone(), self.path.clone());
        let names_this = |name: &&str| split_domain(name) == this;
        match [short, &self.path].into_iter().find(names_this) {
            Some(name) => name.to_owned(),
            None => format!("{}/{}", self.domain, self.path),
        }
    }

    /// As Docker shows it: without what it would complete.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.repository())
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(format!("{}/{}", self.domain, self.path)))
    }
}

impl FromStr for Reference {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: &str| format!("invalid reference '{text}': {why}");
        ensure!(!text.is_empty(), invalid("it is empty"));
        ensure!(
            text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()),
            invalid("it looks like an id")
        );
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon before the last slash is that of a port.
        let start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[start..].find(':') {
            Some(colon) => (&rest[..start + colon], Some(&rest[start + colon + 1..])),
            None => (rest, None),
        };
        let (domain, path) = split_domain(name);
        ensure!(is_domain(&domain), invalid("its domain is malformed"));
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            bail!(invalid("the repository must be in lower case"));
        }
        ensure!(
            path.split('/').all(is_component),
            invalid("its path is malformed")
        );
        ensure!(
            domain.len() + 1 + path.len() <= 255,
            invalid("it is longer than 255 bytes")
        );
        ensure!(tag.is_none_or(is_tag), invalid("its tag is malformed"));
        let tag = tag.or(if digest.is_none() { Some(TAG) } else { None });
        Ok(Self {
            domain,
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// The first component is a domain if it could not be part of a path on Docker's own registry.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" {
        DOMAIN
    } else {
        domain
    };
    if domain == DOMAIN && !path.contains('/') {
        return (domain.to_owned(), format!("{OFFICIAL}{path}"));
    }
    (domain.to_owned(), path.to_owned())
}

/// Host name or address, and a port.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        // An IPv6 address.
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else {
                return false;
            };
            let address_byte = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
            if address.is_empty() || !address.bytes().all(address_byte) {
                return false;
            }
            (None, port)
        }
        None => match domain.find(':') {
            Some(colon) => (Some(&domain[..colon]), &domain[colon..]),
            None => (Some(domain), ""),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_port = |port: &str| {
        port.strip_prefix(':').is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    host.is_none_or(|host| host.split('.').all(is_label)) && (port.is_empty() || is_port(port))
}

/// Lower-case words, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(component: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(is_word) || !bytes.last().is_some_and(is_word) {
        return false;
    }
    let mut separators = bytes
        .split(is_word)
        .filter(|separator| !separator.is_empty());
    separators.all(|separator| {
        matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= 128
        && bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_completed_as_docker_does() {
        for (text, full, familiar) in [
            (
                "busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            ("a/b:1", "docker.io/a/b:1", "a/b:1"),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            (
                "host:5000/a/b:x.y-z",
                "host:5000/a/b:x.y-z",
                "host:5000/a/b:x.y-z",
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            (
                "quay.io/a__b/c--d",
                "quay.io/a__b/c--d:latest",
                "quay.io/a__b/c--d:latest",
            ),
            ("HOST/a", "HOST/a:latest", "HOST/a:latest"),
            (
                "library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            (
                "docker.io/a.b/c",
                "docker.io/a.b/c:latest",
                "docker.io/a.b/c:latest",
            ),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            for written in [full, familiar] {
                assert_eq!(written.parse::<Reference>().unwrap(), reference);
            }
        }
    }

    #[test]
    fn a_digest_takes_the_place_of_the_tag() {
        let digest = Digest::of(b"");
        let reference: Reference = format!("a@{digest}").parse().unwrap();
        assert_eq!((reference.tag(), reference.digest()), (None, Some(digest)));
        let both: Reference = format!("a:1@{digest}").parse().unwrap();
        assert_eq!((both.tag(), both.digest()), (Some("1"), Some(digest)));
    }

    #[test]
    fn a_name_that_looks_like_a_digest_is_given_to_nobody() {
        let digest = Digest::of(b"");
        for text in [
            &*digest.to_string(),
            "sha256",
            "sha256:1",
            "docker.io/sha256:1",
            "library/sha256",
            &format!("a@{digest}"),
            &format!("a:1@{digest}"),
        ] {
            assert!(text.parse::<Reference>().is_ok(), "{text}");
            assert!(Reference::given(text).is_err(), "{text}");
        }
        for text in ["a", "a/sha256:1", "host.x/sha256"] {
            assert_eq!(Reference::given(text).unwrap(), text.parse().unwrap());
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let id = "a".repeat(64);
        let long = format!("a/{}", "b".repeat(254));
        let tag = format!("a:{}", "b".repeat(129));
        for text in [
            "",
            ":",
            "a:",
            "/a",
            "a/",
            "a//b",
            "A/b/C",
            "aB",
            "../a",
            "a/../b",
            "a:b:c",
            "a:-b",
            "a___b",
            "a.-b",
            "-a",
            "a@",
            "a@sha256:0",
            " a",
            "a\n",
            "ho_st.x/a",
            "host:x/a",
            "[::1/a",
            "[]/a",
            "-host.x/a",
            &id,
            &long,
            &tag,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }
}
