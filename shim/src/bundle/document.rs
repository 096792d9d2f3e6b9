//! A config.json that is changed: what is not touched stays as it was written.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Error, Result};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::{Namespace, write};

type Object = BTreeMap<String, Box<RawValue>>;

#[derive(Debug)]
pub(crate) struct Document(Object);

/// What of a mount decides whether it stays.
#[derive(Debug, Deserialize)]
pub(crate) struct Mount {
    pub(crate) destination: String,
    #[serde(default)]
    pub(crate) r#type: String,
}

#[derive(Deserialize)]
struct Root {
    #[serde(default)]
    readonly: bool,
}

impl Document {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Self::parse(&fs::read(path)?)
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        Ok(Self(serde_json::from_slice(text)?))
    }

    pub(crate) fn text(&self) -> Result<String> {
        serde_json::to_string(&self.0).map_err(Error::from)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        write(path, self.text()?.as_bytes())
    }

    pub(crate) fn has_readonly_root(&self) -> Result<bool> {
        let root: Option<Root> = field(&self.0, "root")?;
        Ok(root.is_some_and(|root| root.readonly))
    }

    pub(crate) fn namespaces(&self) -> Result<Vec<Namespace>> {
        let linux: Object = field(&self.0, "linux")?.unwrap_or_default();
        Ok(field(&linux, "namespaces")?.unwrap_or_default())
    }

    pub(crate) fn set_namespaces(&mut self, namespaces: &[Namespace]) -> Result<()> {
        let mut linux: Object = field(&self.0, "linux")?.unwrap_or_default();
        linux.insert("namespaces".into(), to_raw_value(namespaces)?);
        self.0.insert("linux".into(), to_raw_value(&linux)?);
        Ok(())
    }

    pub(crate) fn has_mount(&self, destination: &str) -> Result<bool> {
        let mounts: Vec<Mount> = field(&self.0, "mounts")?.unwrap_or_default();
        Ok(mounts.iter().any(|mount| mount.destination == destination))
    }

    /// Those that this is true of.
    pub(crate) fn remove_mounts(&mut self, is_to_go: impl Fn(&Mount) -> bool) -> Result<()> {
        let mut mounts = self.mounts()?;
        let mut seen = field::<Vec<Mount>>(&self.0, "mounts")?
            .unwrap_or_default()
            .into_iter();
        mounts.retain(|_| !seen.next().is_some_and(|mount| is_to_go(&mount)));
        self.set_mounts(&mounts)
    }

    /// Behind the others.
    pub(crate) fn add_mount(&mut self, mount: &Value) -> Result<()> {
        let mut mounts = self.mounts()?;
        mounts.push(to_raw_value(mount)?);
        self.set_mounts(&mounts)
    }

    fn mounts(&self) -> Result<Vec<Box<RawValue>>> {
        Ok(field(&self.0, "mounts")?.unwrap_or_default())
    }

    fn set_mounts(&mut self, mounts: &[Box<RawValue>]) -> Result<()> {
        self.0.insert("mounts".into(), to_raw_value(mounts)?);
        Ok(())
    }
}

fn field<T: DeserializeOwned>(object: &Object, name: &str) -> Result<Option<T>> {
    let value = object.get(name);
    let value = value.map(|value| serde_json::from_str::<Option<T>>(value.get()));
    Ok(value.transpose()?.flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_changed_differs() {
        let text = r#"{"hooks":{"a": [1.50]},"mounts":[{"destination":"/proc","x":1e3},{"destination":"/dev/shm","type":"tmpfs"}]}"#;
        let mut config = Document::parse(text.as_bytes()).unwrap();
        config
            .remove_mounts(|mount| mount.destination == "/dev/shm")
            .unwrap();
        assert!(!config.has_mount("/dev/shm").unwrap());
        config.add_mount(&json!({ "destination": "/new" })).unwrap();
        assert_eq!(
            config.text().unwrap(),
            r#"{"hooks":{"a": [1.50]},"mounts":[{"destination":"/proc","x":1e3},{"destination":"/new"}]}"#
        );
        assert!(!config.has_readonly_root().unwrap());
    }
}
