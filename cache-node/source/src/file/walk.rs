//! A tree of files as one list of keys in ascending byte order, page by page.
//! Knows folders and their order. Invariant: a folder sorts as its name with a `/`, as its keys do in a bucket.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::TryStreamExt;
use opendal::{EntryMode, Operator};
use parking_lot::Mutex;

use super::object;
use crate::{ListPage, ListRequest, Object};

const PAGE_ROWS: usize = 1000;
/// Walks kept for their next page; one more than the parallel ranges of a listing, twice.
const WALKS_MAX: usize = 130;

/// What is left of a folder, the next entry last.
struct Level {
    rows: Vec<Row>,
}

enum Row {
    /// Its key, with a `/` at the end.
    Folder(String),
    File(Object),
}

impl Row {
    fn key(&self) -> &[u8] {
        match self {
            Self::Folder(key) => key.as_bytes(),
            Self::File(object) => &object.key.0,
        }
    }
}

/// Walks that stopped at a page's end, by where they go on: without them each page would read its folders again.
#[derive(Default)]
pub(super) struct Walks(Mutex<VecDeque<(Bytes, Bytes, Vec<Level>)>>);

impl Walks {
    fn take(&self, request: &ListRequest) -> Option<Vec<Level>> {
        let after = request.after.as_ref().filter(|_| !request.one_level)?;
        let mut walks = self.0.lock();
        let at = walks.iter().position(|(prefix, next, _)| *prefix == request.prefix && next == after)?;
        walks.remove(at).map(|(_, _, levels)| levels)
    }

    fn keep(&self, prefix: &Bytes, next: &Bytes, levels: Vec<Level>) {
        let mut walks = self.0.lock();
        walks.push_back((prefix.clone(), next.clone(), levels));
        if walks.len() > WALKS_MAX {
            walks.pop_front();
        }
    }

    pub(super) async fn page(&self, operator: &Operator, request: &ListRequest) -> opendal::Result<ListPage> {
        let after = request.after.as_deref();
        let mut levels = match self.take(request) {
            Some(levels) => levels,
            None => {
                // The folder that holds everything with this prefix.
                let cut = request.prefix.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
                match std::str::from_utf8(&request.prefix[..cut]) {
                    Ok(folder) => vec![level(operator, folder).await?],
                    Err(_) => Vec::new(),
                }
            }
        };
        let mut page = ListPage::default();
        while let Some(top) = levels.last_mut() {
            let Some(row) = top.rows.pop() else {
                levels.pop();
                continue;
            };
            let key = row.key();
            let is_folder = matches!(row, Row::Folder(_));
            let shares_prefix = key.starts_with(&request.prefix) || (is_folder && request.prefix.starts_with(key));
            // Every key of a folder begins with the folder's, so one beyond `after` may follow also when the folder is before it.
            let is_before = after.is_some_and(|after| key <= after && !(is_folder && after.starts_with(key)));
            if !shares_prefix || is_before {
                continue;
            }
            if request.before.as_ref().is_some_and(|before| key >= &before[..]) {
                levels.clear();
                break;
            }
            match row {
                Row::Folder(folder)
                    if request.one_level && folder.as_bytes() != &request.prefix[..] && folder.len() > request.prefix.len() =>
                {
                    let was_told = after.is_some_and(|after| after.starts_with(folder.as_bytes()));
                    if !was_told {
                        page.folders.push(Bytes::from(folder));
                    }
                }
                Row::Folder(folder) => levels.push(level(operator, &folder).await?),
                Row::File(object) => page.objects.push(object),
            }
            if page.objects.len() + page.folders.len() >= PAGE_ROWS {
                break;
            }
        }
        if !levels.is_empty() {
            let last = page.objects.last().map(|object| object.key.0.clone());
            let next = last.max(page.folders.last().map(|folder| Bytes::from([folder, "\u{10FFFF}".as_bytes()].concat())));
            if let Some(next) = &next
                && !request.one_level
            {
                self.keep(&request.prefix, next, levels);
            }
            page.next = next;
        }
        Ok(page)
    }
}

async fn level(operator: &Operator, folder: &str) -> opendal::Result<Level> {
    let mut lister = operator.lister(if folder.is_empty() { "/" } else { folder }).await?;
    let mut rows = Vec::new();
    while let Some(entry) = lister.try_next().await? {
        let path = entry.path();
        if path == folder || path == "/" {
            continue;
        }
        // What isn't UTF-8 comes with a replacement character in its place, under a name that is no file's: not reachable through opendal.
        if path.contains(char::REPLACEMENT_CHARACTER) {
            tracing::warn!(key = path, "a file whose name is not UTF-8 is left out of the listing");
            continue;
        }
        match entry.metadata().mode() {
            EntryMode::DIR => rows.push(Row::Folder(path.to_owned())),
            EntryMode::FILE => rows.push(Row::File(object(Bytes::from(path.to_owned()), entry.metadata()))),
            EntryMode::Unknown => {}
        }
    }
    rows.sort_unstable_by(|left, right| right.key().cmp(left.key()));
    Ok(Level { rows })
}
