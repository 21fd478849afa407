//! Merge packets, cut the result again: the same packets ([`crate::arrivals`]).

use _native::coalesce::Coalescer;
use _native::group::Coalescing;

use crate::arrivals::{self, May};
use crate::count;
use crate::input::Input;
use crate::packets::Streams;
use crate::receiving::stated_length;

/// A few batches, one after another, in the same working memory.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut coalescer = Coalescer::default();
    let mut streams = Streams::default();
    for _ in 0..2 {
        batch(&mut input, &mut coalescer, &mut streams);
    }
}

fn batch(input: &mut Input, coalescer: &mut Coalescer, streams: &mut Streams) {
    let flags = input.choice(8);
    let may = May { tcp: flags != 0 && flags != 2, udp: flags > 1 };
    let usual = if input.once_in(64) { 1000 + input.choice(200) * 10 } else { 60 + input.choice(100) };
    let mut packets = Vec::new();
    let count = input.choice(100);
    while packets.len() < count && !input.is_empty() {
        let size = if input.once_in(8) { usual - 30 + input.choice(60) } else { usual };
        let mut packet = match input.once_in(32) {
            true => input.bytes(size).to_vec(),
            false => streams.packet(input, size),
        };
        // What the kernel merges was cut to the length that it states.
        if let Some(length) = stated_length(&packet) {
            packet.truncate(length);
            packets.push(packet);
        }
    }
    let mut out = vec![0xee; packets.iter().map(|packet| packet.len() + 10).sum()];
    coalescer.start(Coalescing { tcp: may.tcp, udp: may.udp });
    for packet in &packets {
        coalescer.add(&mut out, packet);
    }
    count::add(packets.len());
    let mut units = Vec::new();
    coalescer.finish(&mut out, &mut units);
    let units: Vec<&[u8]> = units.iter().map(|&(offset, length)| &out[offset..offset + length]).collect();
    arrivals::check(&packets, &units, may);
}
