//! Which handshake messages are worth working on: the macs, and what a flood is allowed (whitepaper 5.3, 5.4.4).
//!
//! The twin of `meshnode/dataplane/gate.py`, which says why each limit is what it is.

use std::collections::HashMap;

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use zeroize::Zeroizing;

const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const INITIATION_SIZE: usize = 148;
const RESPONSE_SIZE: usize = 92;
const MAC_SIZE: usize = 16;
const LINGER: f64 = 1.0;
const IDLE: f64 = 1.0;
const MAX_SOURCES: usize = 8192;
/// Bytes by which sources are told apart that have no IP address: a public key fills them.
const MAX_NAME: usize = 32;
/// The key of a source: such bytes and, as a name may be the beginning of another, how many they are.
const KEY_SIZE: usize = MAX_NAME + 1;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// To be worked on.
    Admit,
    /// To be answered with a cookie, and dropped as `UnderLoad`.
    Reply,
    /// Not the size of its type.
    InvalidLength,
    /// Its sender does not know our public key.
    InvalidMac1,
    /// Too many came; not answered either.
    UnderLoad,
    /// Its source has had its share.
    RateLimited,
}

/// Whether these bytes begin as an initiation or a response: nothing else is the gate's business.
#[inline]
pub fn is_handshake(datagram: &[u8]) -> bool {
    matches!(datagram, [INITIATION | RESPONSE, 0, 0, 0, ..])
}

/// Tokens per source, refilled with time.
struct Buckets {
    rate: f64,
    burst: f64,
    idle: f64,
    sources: HashMap<[u8; KEY_SIZE], (f64, f64)>,
    next_sweep: f64,
}

impl Buckets {
    fn new(rate: f64, burst: f64, idle: f64) -> Self {
        Self { rate, burst, idle, sources: HashMap::new(), next_sweep: 0.0 }
    }

    fn allow(&mut self, source: [u8; KEY_SIZE], now: f64) -> bool {
        self.forget_idle(now);
        let is_full = self.sources.len() >= MAX_SOURCES;
        let (mut tokens, counted) = match self.sources.get(&source) {
            Some(&bucket) => bucket,
            None if is_full => return false,
            None => (self.burst, now),
        };
        tokens = self.burst.min(tokens + (now - counted) * self.rate);
        let is_allowed = tokens >= 1.0;
        self.sources.insert(source, (if is_allowed { tokens - 1.0 } else { tokens }, now));
        is_allowed
    }

    fn forget_idle(&mut self, now: f64) {
        if now < self.next_sweep || self.sources.is_empty() {
            return;
        }
        self.next_sweep = now + self.idle;
        let idle = self.idle;
        self.sources.retain(|_, &mut (_, counted)| now - counted < idle);
    }
}

/// The judge. Times are monotonic seconds.
pub struct Gate {
    /// Keyed already: that is a third of the work.
    mac1: Blake2sMac<U16>,
    secret: Zeroizing<[u8; 32]>,
    room: i64,
    loaded_until: f64,
    proven: Buckets,
    first_tries: Buckets,
    replies: Buckets,
}

impl Gate {
    /// `mac1_key` is that of messages to us.
    pub fn new(mac1_key: [u8; 32]) -> Self {
        Self {
            mac1: keyed(&mac1_key),
            secret: Zeroizing::new([0; 32]),
            room: 0,
            loaded_until: f64::NEG_INFINITY,
            proven: Buckets::new(20.0, 5.0, IDLE),
            first_tries: Buckets::new(0.2, 1.0, 5.0),
            replies: Buckets::new(2.0, 5.0, 3.0),
        }
    }

    /// What cookies are made with from now on.
    pub fn set_secret(&mut self, secret: [u8; 32]) {
        self.secret = Zeroizing::new(secret);
    }

    /// How many more messages may wait before strangers have to prove their address.
    pub fn set_room(&mut self, room: i64) {
        self.room = room;
    }

    /// Whether strangers have to prove their address.
    pub fn is_loaded(&self, now: f64) -> bool {
        now < self.loaded_until
    }

    /// Judge a message that [`is_handshake`], of `address` (4 or 16 bytes, or what names a relayed one).
    pub fn judge(&mut self, message: &[u8], address: &[u8], port: u16, now: f64) -> Verdict {
        let size = if message.first() == Some(&INITIATION) { INITIATION_SIZE } else { RESPONSE_SIZE };
        if message.len() != size {
            return Verdict::InvalidLength;
        }
        let (body, macs) = message.split_at(size - 2 * MAC_SIZE);
        let (mac1, mac2) = macs.split_at(MAC_SIZE);
        if !is_mac(self.mac1.clone(), body, mac1) {
            return Verdict::InvalidMac1;
        }
        if self.room <= 0 {
            self.loaded_until = now + LINGER;
        }
        if !self.is_loaded(now) {
            self.room -= 1;
            return Verdict::Admit;
        }
        let source = key_of(address);
        if mac2 != [0; MAC_SIZE] && self.has_cookie(&message[..size - MAC_SIZE], mac2, address, port) {
            return if self.proven.allow(source, now) { Verdict::Admit } else { Verdict::RateLimited };
        }
        if self.first_tries.allow(source, now) {
            Verdict::Admit
        } else if self.replies.allow(source, now) {
            Verdict::Reply
        } else {
            Verdict::UnderLoad
        }
    }

    fn has_cookie(&self, message: &[u8], mac2: &[u8], address: &[u8], port: u16) -> bool {
        let cookie = mac(&*self.secret, &[address, &port.to_be_bytes()]);
        is_mac(keyed(&cookie), message, mac2)
    }
}

/// An IPv6 source is its /64.
fn key_of(address: &[u8]) -> [u8; KEY_SIZE] {
    let size = if address.len() == 16 { 8 } else { address.len().min(MAX_NAME) };
    let mut key = [0; KEY_SIZE];
    key[..size].copy_from_slice(&address[..size]);
    key[MAX_NAME] = size as u8;
    key
}

/// Keyed BLAKE2s with 16 bytes of output.
fn keyed(key: &[u8]) -> Blake2sMac<U16> {
    KeyInit::new_from_slice(key).expect("a key of at most 32 bytes")
}

/// The MAC of the parts in a row.
fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_SIZE] {
    let mut state = keyed(key);
    for part in parts {
        state.update(part);
    }
    state.finalize().into_bytes().into()
}

/// Whether `tag` is the MAC of `data` under the key of `state`, in constant time.
fn is_mac(mut state: Blake2sMac<U16>, data: &[u8], tag: &[u8]) -> bool {
    state.update(data);
    state.verify_slice(tag).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [1; 32];

    fn initiation(cookie: Option<[u8; 16]>) -> Vec<u8> {
        let mut message = vec![0; INITIATION_SIZE];
        message[0] = INITIATION;
        let mac1 = mac(&KEY, &[&message[..116]]);
        message[116..132].copy_from_slice(&mac1);
        if let Some(cookie) = cookie {
            let mac2 = mac(&cookie, &[&message[..132]]);
            message[132..].copy_from_slice(&mac2);
        }
        message
    }

    #[test]
    fn strangers_are_asked_for_proof_when_there_is_no_room() {
        let mut gate = Gate::new(KEY);
        gate.set_secret([2; 32]);
        gate.set_room(1);
        let mut forged = initiation(None);
        forged[7] ^= 1;
        assert_eq!(gate.judge(&forged, &[1, 1, 1, 1], 1, 0.0), Verdict::InvalidMac1);
        assert_eq!(gate.judge(&forged[1..], &[1, 1, 1, 1], 1, 0.0), Verdict::InvalidLength);
        let verdicts: Vec<_> = (0..8).map(|_| gate.judge(&initiation(None), &[1, 1, 1, 1], 1, 0.0)).collect();
        assert_eq!(verdicts[..2], [Verdict::Admit; 2]);
        assert_eq!(verdicts[2..7], [Verdict::Reply; 5]);
        assert_eq!(verdicts[7], Verdict::UnderLoad);
        let cookie = mac(&[2; 32], &[&[1, 1, 1, 1], &[0, 1]]);
        for _ in 0..5 {
            assert_eq!(gate.judge(&initiation(Some(cookie)), &[1, 1, 1, 1], 1, 0.5), Verdict::Admit);
        }
        assert_eq!(gate.judge(&initiation(Some(cookie)), &[1, 1, 1, 1], 1, 0.5), Verdict::RateLimited);
        assert_eq!(gate.judge(&initiation(Some(cookie)), &[1, 1, 1, 2], 1, 0.5), Verdict::Admit);
        assert_eq!(gate.judge(&initiation(Some(cookie)), &[1, 1, 1, 2], 1, 0.5), Verdict::Reply);
        gate.set_room(64);
        assert_eq!(gate.judge(&initiation(None), &[1, 1, 1, 1], 1, 9.0), Verdict::Admit);
    }
}
