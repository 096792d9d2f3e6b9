//! A plan in words, for `--dry-run`: the names are those of errors, of the log and of `--trace`.
//!
//! Pure.

use super::{Open, Plan, names};
use serde::Serialize;
use std::ffi::CString;
use std::fmt;
use std::path::PathBuf;

/// What would be done, in this order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outline {
    /// The group that the process would be born in.
    cgroup: Option<PathBuf>,
    /// Namespaces that the clone makes; others are made or joined by steps.
    new_namespaces: String,
    /// A process between joins or makes what the container's process is born into.
    stage: Option<Vec<String>>,
    /// What the command opens before the clone.
    opens: Vec<String>,
    steps: Vec<Numbered>,
    exec: Program,
}

#[derive(Debug, Serialize)]
struct Numbered {
    step: usize,
    name: String,
}

#[derive(Debug, Serialize)]
struct Program {
    args: Vec<String>,
    env: Vec<String>,
    /// Where the program is looked for, in this order.
    candidates: Vec<String>,
}

impl Outline {
    pub(crate) fn of(plan: &Plan, cgroup: Option<PathBuf>) -> Self {
        let texts = |list: &[CString]| {
            list.iter()
                .map(|text| text.to_string_lossy().into_owned())
                .collect()
        };
        let stage = plan.birth.stage.as_ref().map(|stage| {
            let joins = stage.join.iter();
            let joins =
                joins.map(|join| format!("join the {} namespace {}", names(join.flags), join.path));
            let user = stage
                .new_user
                .then(|| "create the user namespace".to_owned());
            let offsets = stage
                .time_offsets
                .as_ref()
                .map(|_| "set the offsets of the time namespace".to_owned());
            joins.chain(user).chain(offsets).collect()
        });
        let steps = plan.steps.iter().enumerate();
        Outline {
            cgroup,
            new_namespaces: names(plan.birth.flags),
            stage,
            opens: plan.opens.iter().map(ToString::to_string).collect(),
            steps: steps
                .map(|(step, name)| Numbered {
                    step,
                    name: name.to_string(),
                })
                .collect(),
            exec: Program {
                args: texts(plan.exec.argv.strings()),
                env: texts(plan.exec.envp.strings()),
                candidates: texts(&plan.exec.candidates),
            },
        }
    }
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Open::Namespace(path) => write!(f, "namespace {}", path.to_string_lossy()),
            Open::Tree(tree) if tree.id_map.is_some() => {
                write!(f, "mount source {}, id-mapped", tree.path.to_string_lossy())
            }
            Open::Tree(tree) => write!(f, "mount source {}", tree.path.to_string_lossy()),
            Open::Process => write!(f, "the container's process"),
            Open::Directory(path) => write!(f, "directory {}", path.to_string_lossy()),
        }
    }
}

impl fmt::Display for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cgroup {
            Some(path) => writeln!(f, "cgroup: {}", path.display())?,
            None => writeln!(f, "cgroup: the caller's")?,
        }
        for (at, open) in self.opens.iter().enumerate() {
            writeln!(f, "open {at}: {open}")?;
        }
        for done in self.stage.iter().flatten() {
            writeln!(f, "stage: {done}")?;
        }
        writeln!(f, "clone: new namespaces: {}", self.new_namespaces)?;
        for Numbered { step, name } in &self.steps {
            writeln!(f, "step {step}: {name}")?;
        }
        writeln!(f, "exec: {:?}", self.exec.args)?;
        for candidate in &self.exec.candidates {
            writeln!(f, "exec: look for {candidate}")?;
        }
        for variable in &self.exec.env {
            writeln!(f, "exec: environment {variable}")?;
        }
        Ok(())
    }
}
