//! Which object files are in use: at most one `Object` per file number at a time, the last ones used kept open.
//! Knows numbers and ids. Invariant: whoever loads or makes an object has its turn, so no two copies of its block bitmap exist.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use super::handles::Handles;
use super::sparse::Object;
use super::table::FileRecord;
use super::tier::Tier;

const STRIPES: usize = 64;

/// Lets one caller per key through at a time; no lock is held meanwhile.
pub(crate) struct Turns {
    stripes: [(Mutex<HashSet<u128>>, Condvar); STRIPES],
}

pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    key: u128,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { stripes: std::array::from_fn(|_| (Mutex::default(), Condvar::new())) }
    }
    fn stripe(&self, key: u128) -> &(Mutex<HashSet<u128>>, Condvar) {
        &self.stripes[key as usize % STRIPES]
    }
    pub(crate) fn try_take(&self, key: u128) -> Option<Turn<'_>> {
        // Not `then_some`: a `Turn` that is made is also dropped.
        self.stripe(key).0.lock().insert(key).then(|| Turn { turns: self, key })
    }
    pub(crate) fn take(&self, key: u128) -> Turn<'_> {
        let (taken, changed) = self.stripe(key);
        let mut taken = taken.lock();
        while !taken.insert(key) {
            changed.wait(&mut taken);
        }
        Turn { turns: self, key }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let (taken, changed) = self.turns.stripe(self.key);
        taken.lock().remove(&self.key);
        changed.notify_all();
    }
}

pub(crate) struct Objects {
    handles: Handles<Object>,
    /// Everything alive, kept open or not.
    live: [Mutex<HashMap<u64, Weak<Object>>>; STRIPES],
    loading: Turns,
}

fn key_of(tier: &Tier, number: u32) -> u64 {
    u64::from(tier.number) << 32 | u64::from(number)
}

impl Objects {
    pub(crate) fn new(open_max: usize) -> Self {
        Self { handles: Handles::new(open_max), live: std::array::from_fn(|_| Mutex::default()), loading: Turns::new() }
    }

    fn live(&self, key: u64) -> &Mutex<HashMap<u64, Weak<Object>>> {
        &self.live[key as usize % STRIPES]
    }

    /// `None`: there is no such object any more.
    pub(crate) fn get(&self, tier: &Arc<Tier>, number: u32) -> io::Result<Option<Arc<Object>>> {
        let key = key_of(tier, number);
        if let Some(object) = self.handles.get(key) {
            return Ok(Some(object));
        }
        let _turn = self.loading.take(u128::from(key));
        let alive = self.live(key).lock().get(&key).and_then(Weak::upgrade);
        let object = match alive {
            Some(object) => object,
            None => match Object::load(tier, number)? {
                Some(object) => self.remember(object),
                None => return Ok(None),
            },
        };
        self.handles.insert(key, object.clone());
        // Looked at after it went in: an eviction that came before let go of a handle that wasn't there yet.
        if object.is_gone() {
            self.handles.remove(key);
        }
        Ok(Some(object))
    }

    fn remember(&self, object: Object) -> Arc<Object> {
        let key = key_of(&object.tier, object.number);
        let object = Arc::new(object);
        let mut live = self.live(key).lock();
        if live.len() >= 32 && live.len() == live.capacity() {
            live.retain(|_, weak| weak.strong_count() > 0);
        }
        live.insert(key, Arc::downgrade(&object));
        object
    }

    /// A new one, which is filling: kept open. The caller has charged `sidecar_bytes(record)`.
    pub(crate) fn create(&self, tier: &Arc<Tier>, record: FileRecord) -> io::Result<Arc<Object>> {
        let number = tier.table.take_number();
        let key = key_of(tier, number);
        // Who comes with the number from an entry of the file that had it before finds this one, and doesn't load a second.
        let _turn = self.loading.take(u128::from(key));
        let object = self.remember(Object::create(tier, number, record)?);
        self.handles.insert(key, object.clone());
        Ok(object)
    }

    /// Lets go of the handle: after an eviction, or where keeping it open is no use.
    pub(crate) fn forget(&self, object: &Object) {
        let key = key_of(&object.tier, object.number);
        self.handles.remove(key);
        if object.is_gone() {
            self.live(key).lock().remove(&key);
        }
    }
}
