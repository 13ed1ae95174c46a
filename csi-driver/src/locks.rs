//! One operation at a time for each key.
//! Invariant: a key that nobody has or waits for takes no memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

#[derive(Debug)]
pub(crate) struct Locks<K> {
    /// Guards the map; held for memory only.
    keys: Arc<Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>>,
}

/// Held while an operation runs.
#[derive(Debug)]
pub(crate) struct Held<K: Eq + Hash> {
    key: K,
    guard: Option<OwnedMutexGuard<()>>,
    keys: Arc<Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>>,
}

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self { keys: Arc::default() }
    }
}

impl<K: Eq + Hash + Clone> Locks<K> {
    /// Waits its turn, first come, first served.
    pub(crate) async fn lock(&self, key: &K) -> Held<K> {
        let lock = Arc::clone(self.keys.lock().entry(key.clone()).or_default());
        // Should this be cancelled while it waits, the entry goes with the next who locks the key.
        let guard = lock.lock_owned().await;
        Held { key: key.clone(), guard: Some(guard), keys: Arc::clone(&self.keys) }
    }

    /// `None` when it isn't its turn within `limit`.
    pub(crate) async fn lock_within(&self, key: &K, limit: Duration) -> Option<Held<K>> {
        tokio::time::timeout(limit, self.lock(key)).await.ok()
    }
}

impl<K: Eq + Hash> Held<K> {
    pub(crate) fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Eq + Hash> Drop for Held<K> {
    fn drop(&mut self) {
        let mut keys = self.keys.lock();
        self.guard.take();
        // The map has one, whoever waits has another.
        if keys.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_held_by_one_and_forgotten() {
        let locks = Locks::default();
        let held = locks.lock(&1).await;
        assert!(locks.lock_within(&1, Duration::from_secs(1)).await.is_none());
        assert!(locks.lock_within(&2, Duration::from_secs(1)).await.is_some());
        drop(held);
        let again = locks.lock_within(&1, Duration::from_secs(1)).await;
        assert!(again.is_some());
        drop(again);
        assert!(locks.keys.lock().is_empty());
    }
}
