//! `complete`: prints what may stand in the place of a command line's last word, for the scripts in `runtime/completions`.
//!
//! What that is, `cli` has found out; here the containers are looked for, if it is one of them. Whoever presses a key must not get
//! an error for it: a root that cannot be read has no containers.

use crate::cli::Offer;
use crate::state::Root;
use std::path::Path;

/// Makes the lines: a word and, after a tab, what it means; or `:files` and `:directories`, which no word looks like.
pub(crate) fn run(offer: &Offer) -> String {
    match offer {
        Offer::Words(words) => words
            .iter()
            .map(|word| match word.help {
                "" => format!("{}\n", word.text),
                help => format!("{}\t{help}\n", word.text),
            })
            .collect(),
        Offer::Containers { root, begin } => containers(root)
            .iter()
            .filter(|id| id.starts_with(begin))
            .map(|id| format!("{id}\n"))
            .collect(),
        Offer::Files => ":files\n".to_owned(),
        Offer::Directories => ":directories\n".to_owned(),
    }
}

/// The ids that `list` would find, without a look at each container's state: this runs while somebody waits for a key.
fn containers(root: &Path) -> Vec<String> {
    let ids = Root::open(root, false).and_then(|root| root.ids());
    ids.unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}
