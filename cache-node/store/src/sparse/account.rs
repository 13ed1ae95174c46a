//! What an object's files take: of the tier until the last user is gone, of the data set's quota until it is evicted.
//! Invariant: every change of the charge, of the class, of who counts it and of the record in the table is made under one lock, so nothing is given back
//! twice, and a start counts the same.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::Object;
use crate::table::{FileRecord, State};
use crate::types::{Admission, Class};

/// On which terms the object is kept, and whether its data set still counts it.
pub(super) struct Account {
    admission: Admission,
    is_closed: bool,
}

impl Account {
    pub(super) fn new(admission: Admission) -> Self {
        Self { admission, is_closed: false }
    }
}

impl Object {
    pub(crate) fn admission(&self) -> Admission {
        self.account.lock().admission
    }

    pub(crate) fn charged_bytes(&self) -> u64 {
        self.charged_bytes.load(Relaxed)
    }

    /// Notes bytes that were written, for which the caller spends the room that it took.
    pub(crate) fn charge(&self, bytes: u64) {
        let account = self.account.lock();
        self.charged_bytes.fetch_add(bytes, Relaxed);
        if account.is_closed {
            // Evicted meanwhile: what the tier has of it goes with the last user.
            self.dataset.give_back(self.tier.number, bytes);
        } else if account.admission.class == Class::Pin {
            self.tier.pin(&self.dataset, bytes);
        }
    }

    /// What the files took at their making, charged already.
    pub(crate) fn count_made(&self) {
        if self.account.lock().admission.class == Class::Pin {
            self.tier.pin(&self.dataset, self.charged_bytes());
        }
    }

    /// Notes on the disk that all of it is there; not of one that was evicted meanwhile.
    pub(super) fn record_complete(&self, record: FileRecord) -> io::Result<()> {
        let account = self.account.lock();
        if account.is_closed {
            return Ok(());
        }
        self.tier.table.write(self.number, &FileRecord { state: State::Complete, admission: account.admission, ..record })
    }

    /// Notes bytes that are no longer there, but for the tier, to which the caller gives them back.
    pub(super) fn discharge(&self, bytes: u64) {
        let account = self.account.lock();
        self.charged_bytes.fetch_sub(bytes, Relaxed);
        if !account.is_closed {
            if account.admission.class == Class::Pin {
                self.tier.unpin(&self.dataset, bytes);
            }
            self.dataset.give_back(self.tier.number, bytes);
        }
    }

    /// From the eviction on: the bytes are the tier's alone, until the last user is gone. Nobody writes the object's record afterwards.
    pub(super) fn close_account(&self) {
        let mut account = self.account.lock();
        account.is_closed = true;
        let charged = self.charged_bytes();
        if account.admission.class == Class::Pin {
            self.tier.unpin(&self.dataset, charged);
        }
        self.dataset.give_back(self.tier.number, charged);
        self.tier.lingering_bytes.fetch_add(charged, Relaxed);
    }

    /// Goes by another admission from now on, also after a restart. `note` is called before anybody can change it again.
    pub(crate) fn readmit(&self, admission: Admission, note: impl FnOnce()) -> io::Result<()> {
        let mut account = self.account.lock();
        if account.is_closed {
            return Ok(());
        }
        let before = std::mem::replace(&mut account.admission, admission);
        match (before.class, admission.class) {
            (Class::Auto, Class::Pin) => self.tier.pin(&self.dataset, self.charged_bytes()),
            (Class::Pin, Class::Auto) => self.tier.unpin(&self.dataset, self.charged_bytes()),
            (Class::Auto, Class::Auto) | (Class::Pin, Class::Pin) => {}
        }
        note();
        let Some(mut record) = self.tier.table.read(self.number)?.filter(|record| record.object == self.id()) else { return Ok(()) };
        record.admission = admission;
        self.tier.table.write(self.number, &record)
    }
}
