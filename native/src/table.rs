//! Receiver index -> session and peer, for every session that may still receive.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::session::Session;

/// What is behind one index. `H` is what the caller knows the session by.
pub struct Entry<H> {
    /// The keys.
    pub session: Arc<Session>,
    /// Whose they are.
    pub peer: i64,
    /// The caller's object for the session.
    pub handle: H,
}

type Entries<H> = HashMap<u32, Arc<Entry<H>>>;

/// The table. A batch holds it for reading, so an entry that goes meanwhile is still good to its end.
pub struct SessionTable<H>(RwLock<Entries<H>>);

impl<H> Default for SessionTable<H> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<H> SessionTable<H> {
    /// To look up in.
    pub fn read(&self) -> RwLockReadGuard<'_, Entries<H>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To change.
    pub fn write(&self) -> RwLockWriteGuard<'_, Entries<H>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
