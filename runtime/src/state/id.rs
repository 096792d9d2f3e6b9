//! The name of a container.

use crate::report::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A container's name: validated, so that it is one component of a path and nothing special in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// Takes letters, digits, `_`, `+`, `-` and `.`, but neither `.` nor `..`.
    pub fn new(id: &str) -> Result<ContainerId> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
        if id.is_empty() {
            return Err(Error::invalid("invalid container ID format: empty"));
        }
        if id == "." || id == ".." || !id.bytes().all(plain) {
            return Err(Error::invalid(format!(
                "invalid container ID format: {id:?}"
            )));
        }
        Ok(ContainerId(id.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ContainerId {
    type Error = Error;

    fn try_from(id: String) -> Result<ContainerId> {
        ContainerId::new(&id)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> String {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_components_of_a_path() {
        for id in ["a", "web-1", "A.b_c+d", "...", "-x", "0123456789abcdef"] {
            assert_eq!(ContainerId::new(id).unwrap().as_str(), id);
        }
        for id in [
            "", ".", "..", "a/b", "/", "a b", "ä", "a\n", "a\0", "a:b", "~",
        ] {
            let error = ContainerId::new(id).unwrap_err().to_string();
            assert!(
                error.starts_with("invalid container ID format"),
                "{id:?}: {error}"
            );
        }
    }

    #[test]
    fn names_in_files_are_checked_too() {
        assert!(serde_json::from_str::<ContainerId>("\"web\"").is_ok());
        assert!(serde_json::from_str::<ContainerId>("\"../web\"").is_err());
    }
}
