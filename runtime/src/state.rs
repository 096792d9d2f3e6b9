//! The container's directory below `--root`.

use crate::report::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The version of the runtime specification that we implement.
pub const OCI_VERSION: &str = "1.3.0";

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
