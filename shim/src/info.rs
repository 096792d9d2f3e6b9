//! `-info`: what the shim and its runtime can do. containerd takes standard output as a message.

use std::io::{self, Read, Write};

use anyhow::{Context, Result};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};

use crate::options::Options;
use crate::protos::types::{RuntimeInfo, RuntimeVersion};
use crate::reaper::Reaper;
use crate::runtime::Runtime;

/// The name by which containerd knows what `features` prints.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

pub(crate) fn run() -> Result<()> {
    let mut bytes = Vec::new();
    io::stdin()
        .read_to_end(&mut bytes)
        .context("read standard input")?;
    let any = (!bytes.is_empty())
        .then(|| Any::parse_from_bytes(&bytes))
        .transpose()
        .context("decode standard input")?;
    let options = Options::from_any(any.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let features = runtime.block_on(async {
        let runtime = Runtime::new(options, "", Reaper::new()?);
        // Old runtimes do not know the command; containerd takes an answer without features then.
        anyhow::Ok(runtime.features().await.ok())
    })?;
    let info = RuntimeInfo {
        name: "io.containerd.caisson.v2".into(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        }),
        options: MessageField::from(any),
        features: MessageField::from(features.map(|features| Any {
            type_url: FEATURES.into(),
            value: features.into_bytes(),
            ..Default::default()
        })),
        ..Default::default()
    };
    io::stdout()
        .write_all(&info.write_to_bytes()?)
        .context("write the answer")
}
