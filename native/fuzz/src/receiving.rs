//! What becomes of each datagram of a receive, one by one, with no thought of speed.

use std::collections::HashMap;

use _native::aead::Key;
use _native::drops::{Drop, Drops};

use crate::allowed_ips;
use crate::packets::u16_of;
use crate::replay;

/// One side's keys, as the receiver knows them.
pub struct Session {
    key: Option<Key>,
    replay: replay::Model,
    peer: i64,
}

impl Session {
    /// Of `peer`; without a key it was wiped.
    pub fn new(key: Option<&[u8; 32]>, peer: i64) -> Self {
        Self { key: key.map(Key::new), replay: replay::Model::default(), peer }
    }
}

/// What one index heard: packets, those that were no keepalives, bytes, position of the last.
pub type Heard = (u32, usize, usize, usize, usize);

/// All that one receive comes to.
#[derive(Default)]
pub struct Outcome {
    /// Packets for the tunnel device, in order.
    pub delivered: Vec<Vec<u8>>,
    /// Position and length of what is no transport data.
    pub other: Vec<(usize, usize)>,
    /// What went no further.
    pub drops: Drops,
    /// By index, in order of its first datagram.
    pub heard: Vec<Heard>,
}

/// The receiver's tables.
pub struct Receiver {
    /// Sessions, and which index means which.
    pub sessions: Vec<Session>,
    /// Index -> position in `sessions`.
    pub indices: HashMap<u32, usize>,
    /// Who may send from where.
    pub allowed_ips: allowed_ips::Model,
}

impl Receiver {
    /// Open every datagram.
    pub fn receive(&mut self, datagrams: &[u8], stride: Option<usize>) -> Outcome {
        let mut outcome = Outcome::default();
        let stride = stride.filter(|&stride| stride > 0).unwrap_or(datagrams.len());
        for (number, datagram) in datagrams.chunks(stride.max(1)).enumerate() {
            self.receive_one(datagram, number * stride, &mut outcome);
        }
        outcome
    }

    fn receive_one(&mut self, datagram: &[u8], offset: usize, outcome: &mut Outcome) {
        let is_data = datagram.starts_with(&[4, 0, 0, 0]);
        if !is_data {
            outcome.other.push((offset, datagram.len()));
            return;
        }
        if datagram.len() < 32 {
            return outcome.drops.count(Drop::TooShort);
        }
        let index = u32::from_le_bytes(datagram[4..8].try_into().unwrap());
        let counter = u64::from_le_bytes(datagram[8..16].try_into().unwrap());
        let Some(&number) = self.indices.get(&index) else {
            return outcome.drops.count(Drop::UnknownReceiverIndex);
        };
        let at = outcome.heard.iter().position(|heard| heard.0 == index).unwrap_or_else(|| {
            outcome.heard.push((index, 0, 0, 0, 0));
            outcome.heard.len() - 1
        });
        let session = &mut self.sessions[number];
        let packet = match session.open(counter, &datagram[16..]) {
            Ok(packet) => packet,
            Err(reason) => return outcome.drops.count(reason),
        };
        let heard = &mut outcome.heard[at];
        heard.1 += 1;
        heard.2 += usize::from(!packet.is_empty());
        heard.3 += datagram.len();
        heard.4 = offset;
        if packet.is_empty() {
            return;
        }
        match admit(&packet, session.peer, &self.allowed_ips) {
            Ok(length) => outcome.delivered.push(packet[..length].to_vec()),
            Err(reason) => outcome.drops.count(reason),
        }
    }
}

impl Session {
    fn open(&mut self, counter: u64, sealed: &[u8]) -> Result<Vec<u8>, Drop> {
        let key = self.key.as_ref().ok_or(Drop::ExpiredKey)?;
        let (sealed, tag) = sealed.split_at(sealed.len() - 16);
        let mut packet = sealed.to_vec();
        key.open(counter, tag.try_into().unwrap(), &mut packet).map_err(|_| Drop::InvalidTag)?;
        if self.replay.accept(counter) { Ok(packet) } else { Err(Drop::ReplayedCounter) }
    }
}

/// The length that an IP packet states of itself, if it has all of that.
pub fn stated_length(packet: &[u8]) -> Option<usize> {
    let length = match packet.first()? >> 4 {
        4 if packet.len() >= 20 => usize::from(u16_of(packet, 2)),
        6 if packet.len() >= 40 => 40 + usize::from(u16_of(packet, 4)),
        _ => return None,
    };
    (20..=packet.len()).contains(&length).then_some(length)
}

/// The length of what goes on to the tunnel device.
fn admit(packet: &[u8], peer: i64, allowed_ips: &allowed_ips::Model) -> Result<usize, Drop> {
    let length = stated_length(packet).ok_or(Drop::MalformedInnerPacket)?;
    let source = if packet[0] >> 4 == 4 { &packet[12..16] } else { &packet[8..24] };
    if allowed_ips.lookup(source) == peer { Ok(length) } else { Err(Drop::SourceNotAllowed) }
}
