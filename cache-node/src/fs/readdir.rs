//! Folders, listed with cookies that outlive a sync.
//! A cookie is (which listing, how many rows were given): after a sync the name that was given last is looked for in the new listing, so no name
//! that stayed is repeated or lost.

use std::ops::ControlFlow;
use std::sync::Arc;

use tracing::warn;

use super::locate::{content_of, node_of};
use super::overlay::Repair;
use super::{Attempt, Current, DirectoryRow, Error, Filesystem, NodeId};
use crate::fill::chain;
use forebay_manifest::{DirectoryIndex, Found};

type Sink<'a> = &'a mut dyn FnMut(DirectoryRow<'_>) -> ControlFlow<()>;

/// 33 bits count rows (2^32 entries, `.` and `..`), 29 bits name the listing, one bit says that it was made on demand; the sign stays clear.
const ROW_BITS: u32 = 33;
const LISTING_MASK: u64 = (1 << 29) - 1;
const ON_DEMAND_BIT: u64 = 1 << 62;
/// `.` and `..` come before the entries.
const DOTS: u64 = 2;

fn cookie(on_demand: bool, listing: u64, rows: u64) -> u64 {
    (if on_demand { ON_DEMAND_BIT } else { 0 }) | (listing & LISTING_MASK) << ROW_BITS | rows
}

/// Where a listing goes on.
struct Position {
    on_demand: bool,
    listing: u64,
    rows: u64,
}

impl Position {
    fn of(cookie: u64) -> Self {
        Self { on_demand: cookie & ON_DEMAND_BIT != 0, listing: cookie >> ROW_BITS & LISTING_MASK, rows: cookie & ((1 << ROW_BITS) - 1) }
    }
}

impl Filesystem {
    /// Gives rows after `cookie` (0 = from the start) until `sink` breaks; the row it broke at was not taken.
    pub fn try_read_directory(&self, id: NodeId, cookie: u64, sink: Sink<'_>) -> Attempt<()> {
        if !id.is_directory() {
            return Attempt::Ready(Err(Error::NotADirectory { id }));
        }
        let position = Position::of(cookie);
        match self.current.load_full() {
            Some(current) => Attempt::Ready(self.read_manifest(&current, id, &position, sink)),
            None => self.read_on_demand(id, &position, sink),
        }
    }

    /// Makes `try_read_directory` ready: lists the folder at the source, before the first manifest is complete.
    pub async fn prepare_directory(&self, id: NodeId) -> Result<(), Error> {
        if self.current.load().is_some() {
            return Ok(());
        }
        self.on_demand.list(content_of(id)).await.map_err(|cause| {
            warn!(dataset = self.name(), error = %chain(&cause), "list a folder at the source failed");
            Error::Io
        })
    }

    fn read_manifest(&self, current: &Arc<Current>, id: NodeId, position: &Position, sink: Sink<'_>) -> Result<(), Error> {
        let directory = self.directory_in(current, id)?.ok_or(Error::Stale { id })?;
        let manifest = &current.manifest;
        let sequence = manifest.summary().sequence;
        let mut rows = position.rows;
        if position.rows > DOTS && (position.on_demand || position.listing != sequence & LISTING_MASK) {
            let last = self.last_given(id, position)?.ok_or(Error::Stale { id })?;
            rows = DOTS + self.rows_up_to(current, directory, &last)?;
        }
        let parent = || self.checked(current, manifest.directory(directory).and_then(|this| manifest.directory(this.parent)));
        let made = manifest.summary().created_seconds;
        if rows == 0 {
            if sink(DirectoryRow { cookie: cookie(false, sequence, 1), name: b".", node: self.directory_node(content_of(id), made) })
                .is_break()
            {
                return Ok(());
            }
            rows = 1;
        }
        if rows == 1 {
            if sink(DirectoryRow { cookie: cookie(false, sequence, 2), name: b"..", node: self.directory_node(parent()?.id, made) })
                .is_break()
            {
                return Ok(());
            }
            rows = DOTS;
        }
        let mut failed = None;
        let from = u32::try_from(rows - DOTS).unwrap_or(u32::MAX);
        let visited = manifest.visit(directory, from, |name, found| {
            rows += 1;
            let node = match self.row(current, id, name, &found) {
                Ok(Some(node)) => node,
                Ok(None) => return ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            };
            sink(DirectoryRow { cookie: cookie(false, sequence, rows), name, node })
        });
        self.checked(current, visited)?;
        failed.map_or(Ok(()), Err)
    }

    /// The row of an entry as it is now; `None` when a fill found it gone.
    fn row(&self, current: &Current, directory: NodeId, name: &[u8], found: &Found) -> Result<Option<super::Node>, Error> {
        match self.overlay.by_name(content_of(directory), name) {
            None => self.found_node(current, found).map(Some),
            Some(Repair::File(file)) => Ok(Some(self.loose_node(&file))),
            Some(Repair::Absent) => Ok(None),
        }
    }

    /// The name that a listing that no longer serves gave last; `None` when that listing is forgotten.
    fn last_given(&self, id: NodeId, position: &Position) -> Result<Option<Vec<u8>>, Error> {
        let at = position.rows - DOTS - 1;
        if position.on_demand {
            let listing = self.on_demand.listing(content_of(id), Some(position.listing));
            return Ok(listing.and_then(|listing| listing.rows.get(at as usize).map(|(name, _)| name.clone())));
        }
        let Some(previous) =
            self.previous.load_full().filter(|previous| previous.manifest.summary().sequence & LISTING_MASK == position.listing)
        else {
            return Ok(None);
        };
        let Some(directory) = self.directory_in(&previous, id)? else { return Ok(None) };
        let entry = previous.manifest.entries(directory, u32::try_from(at).unwrap_or(u32::MAX)).next();
        Ok(match entry {
            Some(entry) => Some(self.checked(&previous, entry)?.name),
            None => None,
        })
    }

    /// How many entries of the folder are not after `name`. O(entries): once per folder that is being read while a sync happens.
    fn rows_up_to(&self, current: &Current, directory: DirectoryIndex, name: &[u8]) -> Result<u64, Error> {
        let mut count = 0;
        let visited = current.manifest.visit(directory, 0, |other, _| {
            if other > name {
                return ControlFlow::Break(());
            }
            count += 1;
            ControlFlow::Continue(())
        });
        self.checked(current, visited)?;
        Ok(count)
    }

    fn read_on_demand(&self, id: NodeId, position: &Position, sink: Sink<'_>) -> Attempt<()> {
        let directory = content_of(id);
        let Some(parent) = self.on_demand.parent(directory) else { return Attempt::Ready(Err(Error::Stale { id })) };
        let wanted = (position.rows > 0 && position.on_demand).then_some(position.listing);
        let Some(listing) = self.on_demand.listing(directory, wanted) else {
            // The listing that was begun with is forgotten: only from the start there is a way on.
            return if wanted.is_none() { Attempt::Wait } else { Attempt::Ready(Err(Error::Stale { id })) };
        };
        let dots = [(b".".as_slice(), self.directory_node(directory, 0)), (b"..".as_slice(), self.directory_node(parent, 0))];
        let rows = listing.rows.iter().map(|(name, node)| {
            let node = match self.overlay.by_name(directory, name) {
                None => self.on_demand_node(node),
                Some(Repair::File(file)) => self.loose_node(&file),
                Some(Repair::Absent) => return (name.as_slice(), None),
            };
            (name.as_slice(), Some(node))
        });
        let all = dots.into_iter().map(|(name, node)| (name, Some(node))).chain(rows);
        for (at, (name, node)) in all.enumerate().skip(position.rows as usize) {
            let Some(node) = node else { continue };
            let row = DirectoryRow { cookie: cookie(true, listing.generation, at as u64 + 1), name, node };
            if sink(row).is_break() {
                break;
            }
        }
        debug_assert_eq!(node_of(directory), id);
        Attempt::Ready(Ok(()))
    }
}
