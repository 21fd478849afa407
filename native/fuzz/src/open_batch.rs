//! Open GRO batches in which authentic, forged, replayed, truncated, spoofed and foreign datagrams are mixed: each
//! gets what it deserves, whatever its neighbours are ([`crate::receiving`]), and what is delivered arrives whole
//! and in order ([`crate::arrivals`]).

use std::collections::HashMap;
use std::sync::Arc;

use _native::aead::Key;
use _native::allowed_ips::AllowedIps;
use _native::drops::Drop;
use _native::group::Coalescing;
use _native::open::Batch;
use _native::session::Session;
use _native::table::{Entry, SessionTable};

use crate::allowed_ips::Model;
use crate::arrivals::{self, May};
use crate::count;
use crate::input::Input;
use crate::packets::Streams;
use crate::receiving::{Outcome, Receiver, Session as ModelSession};
use crate::replay::counter;

const KEYS: [[u8; 32]; 3] = [[1; 32], [2; 32], [3; 32]];
/// Index, the number of its session, its peer: one session is known by two, one was wiped.
const INDICES: [(u32, usize, i64); 4] = [(11, 0, 1), (22, 1, 2), (33, 0, 1), (44, 2, 1)];
const PREFIXES: [(&[u8], usize, i64); 4] = [
    (&[10, 0, 0, 0], 8, 1),
    (&[10, 1, 0, 0], 16, 2),
    (&[0; 16], 0, 1),
    (&[0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 16, 2),
];

/// The kernel's tables and those of the model.
struct Both {
    sessions: SessionTable<u32>,
    allowed_ips: AllowedIps,
    model: Receiver,
}

impl Both {
    fn new() -> Self {
        let of_kernel = KEYS.map(|key| Arc::new(Session::new(&[9; 32], &key, 0, 0)));
        of_kernel[2].wipe();
        let sessions = SessionTable::default();
        for (index, number, peer) in INDICES {
            let session = Arc::clone(&of_kernel[number]);
            sessions.write().insert(index, Arc::new(Entry { session, peer, handle: index }));
        }
        let (mut allowed_ips, mut prefixes) = (AllowedIps::default(), Model::default());
        for (network, length, peer) in PREFIXES {
            allowed_ips.insert(network, length as u32, peer);
            prefixes.insert(network, length, peer);
        }
        let model = Receiver {
            sessions: vec![
                ModelSession::new(Some(&KEYS[0]), 1),
                ModelSession::new(Some(&KEYS[1]), 2),
                ModelSession::new(None, 1),
            ],
            indices: INDICES.map(|(index, number, _)| (index, number)).into(),
            allowed_ips: prefixes,
        };
        Self { sessions, allowed_ips, model }
    }
}

/// The peer, and whoever else can send datagrams to our socket.
struct Sender {
    keys: [Key; 3],
    counters: HashMap<usize, u64>,
    streams: Streams,
    sent: Vec<Vec<u8>>,
}

impl Sender {
    /// The next datagram, with `room` bytes for the packet.
    fn datagram(&mut self, input: &mut Input, room: usize) -> Vec<u8> {
        let kind = input.u8();
        let (index, number, _) = INDICES[if kind & 0x30 == 0 { input.choice(INDICES.len()) } else { 0 }];
        let last = self.counters.entry(number).or_insert(u64::MAX);
        *last = if kind & 0xc0 == 0xc0 { counter(input, *last) } else { last.wrapping_add(1) };
        let counter = *last;
        let shorter = if kind & 1 == 0 { 0 } else { input.choice(16) };
        let mut packet = match kind & 15 {
            14 => input.bytes(room).to_vec(),
            _ => self.streams.packet(input, room.saturating_sub(shorter)),
        };
        packet.resize(room, 0);
        let mut datagram = seal(&self.keys[number], index, counter, &packet);
        match kind & 15 {
            9 => {
                let at = input.up_to(datagram.len() - 1);
                datagram[at] ^= 1 << input.choice(8);
            }
            10 if !self.sent.is_empty() => datagram = self.sent[input.up_to(self.sent.len() - 1)].clone(),
            11 => datagram[4..8].copy_from_slice(&input.u32().to_le_bytes()),
            12 => datagram[0] = input.u8(),
            13 => {
                datagram.fill(0);
                let bytes = input.bytes(datagram.len());
                datagram[..bytes.len()].copy_from_slice(bytes);
            }
            15 => {
                let from = input.up_to(datagram.len());
                datagram[from..].fill(0);
            }
            _ => {}
        }
        datagram.resize(room + 32, 0);
        self.sent.push(datagram.clone());
        datagram
    }
}

fn seal(key: &Key, index: u32, counter: u64, packet: &[u8]) -> Vec<u8> {
    let mut sealed = packet.to_vec();
    let tag = key.seal(counter, &mut sealed);
    let header = [&[4, 0, 0, 0], &index.to_le_bytes()[..], &counter.to_le_bytes()].concat();
    [header, sealed, tag.to_vec()].concat()
}

/// A few receives, one after another, with the same tables and the same working memory.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut both = Both::new();
    let mut sender = Sender {
        keys: KEYS.map(|key| Key::new(&key)),
        counters: HashMap::new(),
        streams: Streams::default(),
        sent: Vec::new(),
    };
    let mut batch = Batch::default();
    for _ in 0..3 {
        receive(&mut input, &mut both, &mut sender, &mut batch);
    }
}

fn receive(input: &mut Input, both: &mut Both, sender: &mut Sender, batch: &mut Batch<u32>) {
    let flags = input.choice(8);
    let may = May { tcp: flags != 0 && flags != 2, udp: flags > 1 };
    let room = match input.choice(32) {
        0 => 0,
        1 => 1000 + input.up_to(500),
        _ => 48 + input.choice(120),
    };
    let count = 1 + input.choice(70);
    let mut datagrams = Vec::new();
    for _ in 0..count {
        datagrams.extend(sender.datagram(input, room));
        if input.is_empty() {
            break;
        }
    }
    if input.once_in(4) {
        let cut = input.up_to(room + 32);
        datagrams.truncate(datagrams.len() - cut);
    }
    let stride = match input.choice(16) {
        12 => None,
        13 => Some(0),
        14 => Some(input.u8().into()),
        15 => Some(input.u16().into()),
        _ => Some(room + 32),
    };
    let expected = both.model.receive(&datagrams, stride);
    let mut out = vec![0xee; datagrams.len()];
    let coalescing = Coalescing { tcp: may.tcp, udp: may.udp };
    batch.open(&both.sessions, &both.allowed_ips, &datagrams, stride, &mut out, coalescing);
    let is_one = stride.is_none_or(|stride| stride == 0 || stride >= datagrams.len());
    let count =
        if is_one { usize::from(!datagrams.is_empty()) } else { datagrams.len().div_ceil(stride.unwrap()) };
    check(batch, &out, &expected, if is_one { May { tcp: false, udp: false } } else { may }, count);
}

fn check(batch: &Batch<u32>, out: &[u8], expected: &Outcome, may: May, datagrams: usize) {
    count::add(datagrams);
    assert_eq!(batch.drops, expected.drops);
    assert_eq!(batch.other, expected.other);
    let heard: Vec<_> = batch
        .receivers
        .iter()
        .map(|one| (one.entry.handle, one.packets, one.data_packets, one.datagram_bytes, one.last_offset))
        .collect();
    assert_eq!(heard, expected.heard);
    let units: Vec<&[u8]> =
        batch.units.iter().map(|&(offset, length)| &out[offset..offset + length]).collect();
    arrivals::check(&expected.delivered, &units, may);
    // Every datagram is accounted for once.
    let dropped: u32 = Drop::ALL.iter().map(|(reason, _)| batch.drops.of(*reason)).sum();
    let keepalives: usize = heard.iter().map(|one| one.1 - one.2).sum();
    let delivered = expected.delivered.len();
    assert_eq!(dropped as usize + batch.other.len() + keepalives + delivered, datagrams);
}
