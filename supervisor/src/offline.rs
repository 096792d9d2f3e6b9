//! `caissond store [--root DIR] COMMAND`: the store by itself, while no daemon has it open.
//!
//! For repairs, for machines without a daemon, and for tests. What it prints is one JSON value a line.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::image::{Image, Reference};
use crate::store::{ImportOptions, ROOT, Removed, Source, Store};
use crate::wanted::Wish;

const USAGE: &str = "usage: caissond store [--root DIR] COMMAND

  import [--name NAME] [--rootfs] PATH     PATH is a directory or an archive; - is standard input
  export FILE NAME...                      FILE - is standard output
  images | inspect NAME | history NAME
  tag NAME NEW-NAME | remove [--force] NAME | prune [--all]
  verify [--repair] [NAME]...
  snapshot CONTAINER NAME | remove-snapshot CONTAINER
  usage";

pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    let mut words = Vec::new();
    for argument in arguments {
        words.push(argument.to_str().context("an argument is not UTF-8")?);
    }
    let mut words = Words(words);
    let root = words
        .value("--root")
        .map_or_else(|| PathBuf::from(ROOT), PathBuf::from);
    let Some(command) = words.next() else {
        bail!("{USAGE}");
    };
    let store = Store::open(&root)?;
    match command {
        "import" => import(&store, &mut words),
        "export" => {
            let file = words.required()?;
            let names: Vec<_> = words.rest();
            match file {
                "-" => store.export(&names, &mut io::stdout().lock()),
                path => {
                    let file = File::create_new(path).with_context(|| format!("create {path}"))?;
                    store.export(&names, &mut io::BufWriter::new(file))
                }
            }
        }
        "images" => store.images()?.iter().try_for_each(|image| print(&describe(image))),
        "inspect" => print(&describe(&store.image(words.required()?)?)),
        "history" => store.history(words.required()?)?.iter().try_for_each(|step| {
            print(&json!({
                "created": step.created, "created_by": step.created_by, "comment": step.comment,
                "layer": step.layer, "size": step.size,
            }))
        }),
        "tag" => {
            let image = words.required()?;
            store.tag(image, &Reference::given(words.required()?)?)
        }
        "remove" => {
            let force = words.flag("--force");
            print(&removed(&store.remove(words.required()?, force, |_| false)?))
        }
        "prune" => print(&removed(&store.prune(words.flag("--all"), &[])?)),
        "verify" => verify(&store, &mut words),
        "snapshot" => {
            let container = words.required()?;
            let snapshot = store.snapshot(container, &store.image(words.required()?)?)?;
            print(&json!({"lower": snapshot.lower, "upper": snapshot.upper, "work": snapshot.work}))
        }
        "remove-snapshot" => store.remove_snapshot(words.required()?),
        "usage" => store.usage()?.objects.iter().try_for_each(|object| {
            print(&json!({
                "kind": format!("{:?}", object.kind).to_lowercase(), "name": object.name, "size": object.size,
                "reclaimable": object.reclaimable, "reasons": object.reasons,
            }))
        }),
        other => bail!("unknown command '{other}'\n{USAGE}"),
    }
}

fn import(store: &Store, words: &mut Words<'_>) -> Result<()> {
    let options = ImportOptions {
        name: words.value("--name").map(Reference::given).transpose()?,
        root_filesystem: words.flag("--rootfs"),
        ..ImportOptions::default()
    };
    let path = PathBuf::from(words.required()?);
    let mut archive: Box<dyn io::Read>;
    let source = if path.is_dir() {
        Source::Directory(&path)
    } else if path.as_os_str() == "-" {
        archive = Box::new(io::stdin().lock());
        Source::Archive(&mut *archive)
    } else {
        archive = Box::new(File::open(&path).with_context(|| format!("open {}", path.display()))?);
        Source::Archive(&mut *archive)
    };
    let images = store.import(source, &options, &mut |_| {})?;
    images.iter().try_for_each(|image| print(&describe(image)))
}

fn verify(store: &Store, words: &mut Words<'_>) -> Result<()> {
    let repair = words.flag("--repair");
    let wish = Wish::default();
    let verdict = store.verify(&words.rest(), repair, &wish.wanted())?;
    for damage in &verdict.damage {
        print(&json!({"object": damage.object, "what": damage.what, "repaired": damage.repaired}))?;
    }
    let left = verdict
        .damage
        .iter()
        .filter(|damage| !damage.repaired)
        .count();
    if left > 0 {
        bail!("{left} of {} are damaged", verdict.checked);
    }
    print(&json!({"checked": verdict.checked}))
}

fn describe(image: &Image) -> Value {
    let names: Vec<_> = image.names.iter().map(Reference::to_string).collect();
    json!({
        "id": image.id, "names": names, "manifest": image.manifest, "layers": image.layers, "size": image.size,
        "created": image.created,
    })
}

fn removed(removed: &Removed) -> Value {
    let names: Vec<_> = removed.untagged.iter().map(Reference::to_string).collect();
    json!({"untagged": names, "deleted": removed.deleted, "reclaimed": removed.reclaimed})
}

fn print(value: &Value) -> Result<()> {
    writeln!(io::stdout(), "{value}").context("write to standard output")
}

/// What is left of the command line.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    fn required(&mut self) -> Result<&'a str> {
        self.next().context(USAGE)
    }

    fn flag(&mut self, name: &str) -> bool {
        let place = self.0.iter().position(|word| *word == name);
        place.map(|place| self.0.remove(place)).is_some()
    }

    fn value(&mut self, name: &str) -> Option<&'a str> {
        let place = self.0.iter().position(|word| *word == name)?;
        self.0.remove(place);
        (place < self.0.len()).then(|| self.0.remove(place))
    }

    fn rest(&mut self) -> Vec<String> {
        self.0.drain(..).map(str::to_owned).collect()
    }
}
