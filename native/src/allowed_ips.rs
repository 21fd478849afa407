//! Cryptokey routing: from an address to the peer that owns the longest prefix around it (reference §3.8).
//!
//! One table serves both directions and all peers: the destination of what leaves, the source of what arrives.
//! A prefix has one owner; inserting it for another peer moves it.

use std::collections::HashMap;

/// The lookup result that means "nobody".
pub const NO_PEER: i64 = -1;

/// The prefixes of one address family: a table per prefix length, tried from the longest.
#[derive(Default)]
struct Family {
    bits: u32,
    tables: Vec<(u32, HashMap<u128, i64>)>,
}

impl Family {
    fn new(bits: u32) -> Self {
        Self { bits, tables: Vec::new() }
    }

    /// The bits of `address` that a prefix of `length` consists of.
    fn leading(&self, address: u128, length: u32) -> u128 {
        address.checked_shr(self.bits - length).unwrap_or(0)
    }

    fn insert(&mut self, network: u128, length: u32, peer: i64) {
        let leading = self.leading(network, length);
        let at = self.tables.partition_point(|(other, _)| *other > length);
        if self.tables.get(at).is_none_or(|(other, _)| *other != length) {
            self.tables.insert(at, (length, HashMap::new()));
        }
        self.tables[at].1.insert(leading, peer);
    }

    fn remove(&mut self, network: u128, length: u32, peer: i64) {
        let leading = self.leading(network, length);
        for (_, table) in self.tables.iter_mut().filter(|(other, _)| *other == length) {
            if table.get(&leading) == Some(&peer) {
                table.remove(&leading);
            }
        }
        self.tables.retain(|(_, table)| !table.is_empty());
    }

    fn remove_peer(&mut self, peer: i64) {
        for (_, table) in &mut self.tables {
            table.retain(|_, owner| *owner != peer);
        }
        self.tables.retain(|(_, table)| !table.is_empty());
    }

    fn lookup(&self, address: u128) -> i64 {
        let mut found =
            self.tables.iter().filter_map(|(length, table)| table.get(&self.leading(address, *length)));
        found.next().copied().unwrap_or(NO_PEER)
    }

    fn prefixes_of(&self, peer: i64) -> impl Iterator<Item = (u128, u32)> {
        self.tables.iter().flat_map(move |(length, table)| {
            let owned = table.iter().filter(move |(_, owner)| **owner == peer);
            owned.map(move |(leading, _)| (leading.checked_shl(self.bits - length).unwrap_or(0), *length))
        })
    }
}

/// Prefix -> peer, a peer being an integer >= 0 of the caller's choice.
pub struct AllowedIps {
    ipv4: Family,
    ipv6: Family,
}

impl Default for AllowedIps {
    fn default() -> Self {
        Self { ipv4: Family::new(32), ipv6: Family::new(128) }
    }
}

/// An address as a number, with its family's bits.
fn number(address: &[u8]) -> Option<(u128, u32)> {
    if let Ok(ipv4) = <[u8; 4]>::try_from(address) {
        return Some((u32::from_be_bytes(ipv4).into(), 32));
    }
    let ipv6 = <[u8; 16]>::try_from(address).ok()?;
    Some((u128::from_be_bytes(ipv6), 128))
}

impl AllowedIps {
    /// Give the prefix to `peer`, taking it from another if need be. False, and nothing happens, when it is none.
    pub fn insert(&mut self, network: &[u8], length: u32, peer: i64) -> bool {
        self.change(network, length, |family, network| family.insert(network, length, peer))
    }

    /// Take the prefix from `peer`. Nothing happens when it belongs to another or to nobody.
    pub fn remove(&mut self, network: &[u8], length: u32, peer: i64) -> bool {
        self.change(network, length, |family, network| family.remove(network, length, peer))
    }

    /// Take all prefixes of `peer`.
    pub fn remove_peer(&mut self, peer: i64) {
        self.ipv4.remove_peer(peer);
        self.ipv6.remove_peer(peer);
    }

    /// The owner of the longest prefix around `address` (4 or 16 bytes), or [`NO_PEER`].
    pub fn lookup(&self, address: &[u8]) -> i64 {
        match number(address) {
            Some((address, 32)) => self.ipv4.lookup(address),
            Some((address, _)) => self.ipv6.lookup(address),
            None => NO_PEER,
        }
    }

    /// The IPv4 prefixes that `peer` owns now: network and length.
    pub fn ipv4_prefixes_of(&self, peer: i64) -> impl Iterator<Item = (u128, u32)> {
        self.ipv4.prefixes_of(peer)
    }

    /// The IPv6 prefixes that `peer` owns now: network and length.
    pub fn ipv6_prefixes_of(&self, peer: i64) -> impl Iterator<Item = (u128, u32)> {
        self.ipv6.prefixes_of(peer)
    }

    /// The peer that owns the destination of a packet; [`NO_PEER`] when nobody does or it is no IP packet.
    pub fn route(&self, packet: &[u8]) -> i64 {
        match packet.first().map(|first| first >> 4) {
            Some(4) if packet.len() >= 20 => self.lookup(&packet[16..20]),
            Some(6) if packet.len() >= 40 => self.lookup(&packet[24..40]),
            _ => NO_PEER,
        }
    }

    fn change(&mut self, network: &[u8], length: u32, how: impl FnOnce(&mut Family, u128)) -> bool {
        let Some((network, bits)) = number(network) else { return false };
        let family = if bits == 32 { &mut self.ipv4 } else { &mut self.ipv6 };
        if length > bits {
            return false;
        }
        how(family, network);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides() {
        let mut table = AllowedIps::default();
        table.insert(&[0; 4], 0, 1);
        table.insert(&[10, 0, 0, 0], 8, 2);
        table.insert(&[10, 1, 2, 3], 32, 3);
        table.insert(&[0; 16], 0, 4);
        for (address, peer) in [([9, 9, 9, 9], 1), ([10, 9, 9, 9], 2), ([10, 1, 2, 3], 3)] {
            assert_eq!(table.lookup(&address), peer);
        }
        assert_eq!(table.lookup(&[9; 16]), 4);
        assert_eq!(table.lookup(&[9; 5]), NO_PEER);
    }

    #[test]
    fn a_moved_prefix_follows_its_owner() {
        let mut table = AllowedIps::default();
        table.insert(&[10, 0, 0, 0], 8, 1);
        table.insert(&[10, 0, 0, 0], 8, 2);
        table.remove(&[10, 0, 0, 0], 8, 1);
        assert_eq!(table.lookup(&[10, 1, 1, 1]), 2);
        assert_eq!(table.ipv4_prefixes_of(2).collect::<Vec<_>>(), [(0x0a00_0000, 8)]);
        table.remove_peer(2);
        assert_eq!(table.lookup(&[10, 1, 1, 1]), NO_PEER);
        assert!(!table.insert(&[10, 0, 0, 0], 33, 1));
    }

    #[test]
    fn routes_by_destination() {
        let mut table = AllowedIps::default();
        table.insert(&[10, 0, 0, 2], 32, 7);
        let mut packet = [0; 20];
        packet[0] = 0x45;
        packet[16..].copy_from_slice(&[10, 0, 0, 2]);
        assert_eq!(table.route(&packet), 7);
        assert_eq!(table.route(&packet[..19]), NO_PEER);
        assert_eq!(table.route(&[]), NO_PEER);
    }
}
