//! The keys of a completed handshake, with their counters (whitepaper 5.4.5).

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::aead::{KEY_SIZE, Key};
use crate::replay::{COUNTER_LIMIT, ReplayWindow};

/// The session was wiped or may number no more datagrams: the caller must not send with it.
#[derive(Debug, PartialEq, Eq)]
pub struct SessionSpent;

/// One pair of transport keys. The send counter never repeats, also when sending fails.
///
/// The age of a key is the caller's business: it wipes the session, or takes it out of the table, in time. Each
/// direction has a lock of its own, held for a run of datagrams: one thread may seal while another opens.
pub struct Session {
    /// The index that the peer puts into what it sends us.
    pub local_index: u32,
    /// The index that we put into what we send.
    pub remote_index: u32,
    sending: Mutex<Sending>,
    receiving: Mutex<Receiving>,
}

/// The half that seals.
pub struct Sending {
    key: Option<Key>,
    /// The counter that the next sealed datagram gets.
    pub counter: u64,
}

/// The half that opens.
pub struct Receiving {
    /// None after the session was wiped.
    pub key: Option<Key>,
    /// Which counters were seen.
    pub replay: ReplayWindow,
}

impl Session {
    /// Copies the keys, which stay the caller's to clear.
    pub fn new(
        send_key: &[u8; KEY_SIZE],
        receive_key: &[u8; KEY_SIZE],
        local_index: u32,
        remote_index: u32,
    ) -> Self {
        Self {
            local_index,
            remote_index,
            sending: Mutex::new(Sending { key: Some(Key::new(send_key)), counter: 0 }),
            receiving: Mutex::new(Receiving {
                key: Some(Key::new(receive_key)),
                replay: ReplayWindow::default(),
            }),
        }
    }

    /// Exclusive use of the half that seals.
    pub fn sending(&self) -> MutexGuard<'_, Sending> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exclusive use of the half that opens.
    pub fn receiving(&self) -> MutexGuard<'_, Receiving> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forget the keys. Sealing is then refused, and what arrives counts as expired.
    pub fn wipe(&self) {
        self.sending().key = None;
        self.receiving().key = None;
    }
}

impl Sending {
    /// True when nothing more may be sealed.
    pub fn is_spent(&self) -> bool {
        self.key.is_none() || self.counter >= COUNTER_LIMIT
    }

    /// Take `count` consecutive counters. Returns the key to use them with and the first, or takes none.
    pub fn reserve(&mut self, count: u64) -> Result<(&Key, u64), SessionSpent> {
        let first = self.counter;
        let next = first.checked_add(count).filter(|&next| next <= COUNTER_LIMIT).ok_or(SessionSpent)?;
        let key = self.key.as_ref().ok_or(SessionSpent)?;
        self.counter = next;
        Ok((key, first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_end_at_the_limit() {
        let session = Session::new(&[1; 32], &[2; 32], 1, 2);
        let mut sending = session.sending();
        sending.counter = COUNTER_LIMIT - 2;
        assert!(sending.reserve(3).is_err());
        assert_eq!(sending.reserve(2).map(|(_, first)| first), Ok(COUNTER_LIMIT - 2));
        assert!(sending.is_spent());
        assert!(sending.reserve(1).is_err());
        assert_eq!(sending.counter, COUNTER_LIMIT);
    }

    #[test]
    fn a_wiped_session_has_no_keys() {
        let session = Session::new(&[1; 32], &[2; 32], 1, 2);
        session.wipe();
        assert!(session.sending().is_spent());
        assert!(session.sending().reserve(1).is_err());
        assert_eq!(session.sending().counter, 0);
        assert!(session.receiving().key.is_none());
    }
}
