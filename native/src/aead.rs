//! ChaCha20-Poly1305 with WireGuard's nonces, and keys that do not outlive their use.

use std::mem::MaybeUninit;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
use zeroize::Zeroize;

/// Bytes of a key.
pub const KEY_SIZE: usize = 32;
/// Bytes of a tag.
pub const TAG_SIZE: usize = 16;

/// The tag does not fit: forged or damaged.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidTag;

/// One direction's key. Its memory is overwritten when it is dropped.
///
/// The box is the one place where the expanded key lives: `ring` does not clear what it holds, so the bytes are
/// kept as `MaybeUninit`, which `zeroize` may clear whatever they mean.
pub struct Key(Box<[MaybeUninit<LessSafeKey>; 1]>);

impl Key {
    /// Copies `key`, which stays the caller's to clear.
    pub fn new(key: &[u8; KEY_SIZE]) -> Self {
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the length is that of the algorithm");
        Self(Box::new([MaybeUninit::new(LessSafeKey::new(unbound))]))
    }

    fn key(&self) -> &LessSafeKey {
        // SAFETY: `new` initialised it, and nothing but `drop` writes to it.
        unsafe { self.0[0].assume_init_ref() }
    }

    /// Seal `packet` where it is. A counter must never be used twice with one key.
    #[inline]
    pub fn seal(&self, counter: u64, packet: &mut [u8]) -> [u8; TAG_SIZE] {
        let sealed = self.key().seal_in_place_separate_tag(nonce(counter), Aad::empty(), packet);
        let tag = sealed.expect("a packet is shorter than the 256 GiB that one nonce allows");
        tag.as_ref().try_into().expect("the length is that of the algorithm")
    }

    /// Open `packet` where it is. On failure nothing of its content is left there.
    #[inline]
    pub fn open(&self, counter: u64, tag: [u8; TAG_SIZE], packet: &mut [u8]) -> Result<(), InvalidTag> {
        let opened =
            self.key().open_in_place_separate_tag(nonce(counter), Aad::empty(), Tag::from(tag), packet, 0..);
        opened.map(|_| ()).map_err(|_| InvalidTag)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        const { assert!(!std::mem::needs_drop::<LessSafeKey>()) };
        self.0.as_mut_slice().zeroize();
    }
}

/// 4 zero bytes, then the counter, little-endian.
#[inline]
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_was_sealed_and_nothing_else() {
        let key = Key::new(&[7; KEY_SIZE]);
        let mut packet = *b"the quick brown fox";
        let tag = key.seal(1 << 33, &mut packet);
        let mut damaged = packet;
        damaged[3] ^= 1;
        assert_eq!(key.open(1 << 33, tag, &mut damaged), Err(InvalidTag));
        assert_eq!(damaged, [0; 19]);
        assert_eq!(key.open(1, tag, &mut packet.clone()), Err(InvalidTag));
        assert_eq!(key.open(1 << 33, tag, &mut packet), Ok(()));
        assert_eq!(&packet, b"the quick brown fox");
    }
}
