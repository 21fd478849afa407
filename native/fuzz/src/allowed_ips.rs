//! Cryptokey routing, against a list that is searched from one end to the other.

use _native::allowed_ips::{AllowedIps, NO_PEER};

use crate::input::Input;

/// Network, length, peer: each network once, its host bits cleared.
#[derive(Default)]
pub struct Model(Vec<(Vec<u8>, usize, i64)>);

/// The first `length` bits of `address`, and zeroes.
fn masked(address: &[u8], length: usize) -> Vec<u8> {
    let kept = |bit: usize| if bit < length { 0x80 >> (bit % 8) } else { 0u8 };
    let mask = |byte: usize| (0..8).map(|bit| kept(byte * 8 + bit)).fold(0, |mask, bit| mask | bit);
    address.iter().enumerate().map(|(at, &byte)| byte & mask(at)).collect()
}

fn is_prefix(network: &[u8], length: usize) -> bool {
    matches!(network.len(), 4 | 16) && length <= network.len() * 8
}

impl Model {
    /// Whether it is a prefix; then it is the peer's.
    pub fn insert(&mut self, network: &[u8], length: usize, peer: i64) -> bool {
        let is_prefix = is_prefix(network, length);
        if is_prefix {
            let network = masked(network, length);
            self.0.retain(|(other, bits, _)| (other, *bits) != (&network, length));
            self.0.push((network, length, peer));
        }
        is_prefix
    }

    fn remove(&mut self, network: &[u8], length: usize, peer: i64) -> bool {
        let entry = (masked(network, length), length, peer);
        self.0.retain(|other| *other != entry);
        is_prefix(network, length)
    }

    /// The owner of the longest prefix.
    pub fn lookup(&self, address: &[u8]) -> i64 {
        let around = self.0.iter().filter(|(network, length, _)| {
            network.len() == address.len() && masked(address, *length) == *network
        });
        around.max_by_key(|(_, length, _)| *length).map_or(NO_PEER, |(_, _, peer)| *peer)
    }

    fn prefixes_of(&self, peer: i64, size: usize) -> Vec<(u128, u32)> {
        let owned = self.0.iter().filter(|(network, _, owner)| network.len() == size && *owner == peer);
        let number = |network: &[u8]| network.iter().fold(0, |number, &byte| number << 8 | u128::from(byte));
        let mut prefixes: Vec<_> =
            owned.map(|(network, length, _)| (number(network), *length as u32)).collect();
        prefixes.sort_unstable();
        prefixes
    }
}

/// Of one family or of none, with few different bits, so that prefixes meet.
fn address(input: &mut Input, family: usize) -> Vec<u8> {
    let mut address = vec![0; [4, 16, 4, 16, 4, 16, 4, 5][family]];
    if family >= 4 {
        let size = address.len();
        address[..input.bytes(size).len()].fill(0xff);
    }
    let size = address.len();
    for _ in 0..input.choice(4) {
        address[input.choice(size)] ^= 0x80 >> input.choice(8);
    }
    address
}

/// A few changes, each followed by a look.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut table, mut model) = (AllowedIps::default(), Model::default());
    while !input.is_empty() {
        let (operation, family, peer) = (input.choice(8), input.choice(8), input.choice(3) as i64);
        let network = address(&mut input, family);
        let length = match input.choice(4) {
            0 => input.u8().into(),
            1 => network.len() * 8,
            _ => input.choice(network.len() * 8 + 1),
        };
        match operation {
            0..5 => {
                assert_eq!(table.insert(&network, length as u32, peer), model.insert(&network, length, peer))
            }
            5 | 6 => {
                assert_eq!(table.remove(&network, length as u32, peer), model.remove(&network, length, peer))
            }
            _ => {
                table.remove_peer(peer);
                model.0.retain(|(_, _, owner)| *owner != peer);
            }
        }
        look(&mut input, &table, &model, &network, family);
    }
}

fn look(input: &mut Input, table: &AllowedIps, model: &Model, network: &[u8], family: usize) {
    for address in [network, &address(input, family)] {
        let owner = model.lookup(address);
        assert_eq!(table.lookup(address), owner);
        let packet = match address.len() {
            4 => [&[0x45; 16][..], address].concat(),
            _ => [&[0x60; 24][..], address].concat(),
        };
        let is_whole = packet.len() == if address.len() == 4 { 20 } else { 40 };
        assert_eq!(table.route(&packet), if is_whole { owner } else { NO_PEER });
        assert_eq!(table.route(&packet[..packet.len() - 1]), NO_PEER);
    }
    for peer in 0..3 {
        let (mut ipv4, mut ipv6): (Vec<_>, Vec<_>) =
            (table.ipv4_prefixes_of(peer).collect(), table.ipv6_prefixes_of(peer).collect());
        ipv4.sort_unstable();
        ipv6.sort_unstable();
        assert_eq!(ipv4, model.prefixes_of(peer, 4));
        assert_eq!(ipv6, model.prefixes_of(peer, 16));
    }
}
