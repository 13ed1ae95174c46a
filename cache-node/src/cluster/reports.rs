//! What the operator was told of each data set, so that it is told again only what is other.
//! Pure. Does not know who asks: whoever shows the name of an earlier answer has what was in it.
//! Invariant: a name of another process's answers is nobody's: then everything is told.

use std::collections::BTreeMap;

use forebay_wire::control_service::{ObservedDataset, SyncReply};
use forebay_wire::versioned::Versioned;

#[derive(Debug)]
pub(super) struct Reports {
    /// Tells the answers of this process from those of another.
    life: String,
    /// By UID.
    told: Versioned<ObservedDataset>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { life: format!("{:016x}", rand::random::<u64>()), told: Versioned::default() }
    }
}

impl Reports {
    /// Names the answer, and leaves out of it what was in the answer called `seen` and is the same.
    pub(super) fn shorten(&mut self, reply: &mut SyncReply, seen: &str) {
        let datasets: BTreeMap<String, ObservedDataset> = reply.datasets.drain(..).map(|dataset| (dataset.uid.clone(), dataset)).collect();
        self.told.replace(datasets);
        reply.observed = format!("{}.{}", self.life, self.told.now());
        let then = seen.strip_prefix(&self.life).and_then(|rest| rest.strip_prefix('.')?.parse().ok());
        match then.and_then(|then: u64| self.told.since(then)) {
            Some(changes) => {
                reply.observed_since = seen.to_owned();
                reply.datasets = changes.set.into_iter().cloned().collect();
                reply.datasets_gone = changes.gone.into_iter().map(str::to_owned).collect();
            }
            None => reply.datasets = self.told.values().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(held: &[(&str, u64)]) -> SyncReply {
        let of =
            |(uid, held): &(&str, u64)| ObservedDataset { uid: (*uid).to_owned(), wanted_held_bytes: *held, ..ObservedDataset::default() };
        SyncReply { datasets: held.iter().map(of).collect(), ..SyncReply::default() }
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        let mut reports = Reports::default();
        let mut first = reply(&[("a", 1), ("b", 1)]);
        reports.shorten(&mut first, "");
        assert_eq!((first.datasets.len(), first.observed_since.as_str()), (2, ""));
        let mut same = reply(&[("a", 1), ("b", 1)]);
        reports.shorten(&mut same, &first.observed);
        assert_eq!((same.datasets.len(), &same.observed_since, &same.observed), (0, &first.observed, &first.observed));
        let mut other = reply(&[("b", 2), ("c", 1)]);
        reports.shorten(&mut other, &first.observed);
        assert_eq!(other.datasets, reply(&[("b", 2), ("c", 1)]).datasets);
        assert_eq!(other.datasets_gone, ["a"]);
    }

    #[test]
    fn who_has_another_processs_answer_is_told_everything() {
        let (mut before, mut reports) = (Reports::default(), Reports::default());
        let mut told = reply(&[("a", 1)]);
        before.shorten(&mut told, "");
        for seen in ["", "x.1", "nonsense", &told.observed, &format!("{}.9", reports.life)] {
            let mut reply = reply(&[("a", 1)]);
            reports.shorten(&mut reply, seen);
            assert_eq!((reply.datasets.len(), reply.observed_since.as_str()), (1, ""), "{seen}");
        }
    }
}
