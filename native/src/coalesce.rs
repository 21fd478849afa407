//! From opened packets to superpackets that the tunnel device takes in one write (reference §5.6).
//!
//! A flow is a protocol, two addresses and two ports. A packet joins only the latest item of its flow; one that
//! cannot be merged ends its flow's item, or every flow's when it does not show its flow. So nothing of a flow
//! overtakes anything else of it, except that a TCP segment may go before the group that it immediately
//! precedes. Items leave in the order of their first packet.
//!
//! Packets come one by one, and each is copied once, behind the one before: the payload of one that joins the
//! last item goes directly to its end, so that a bulk transfer ends as one contiguous unit; anything else gets
//! [`HEADER_SIZE`] bytes of room before it. Joining an earlier item leaves pieces apart, and
//! [`Coalescer::finish`] puts them together.

use std::collections::HashMap;
use std::ops::Range;

use crate::checksum::copy_and_sum;
use crate::group::{Coalescing, Flow, Group, Side, classify};
use crate::virtio::{HEADER_SIZE, NO_OFFLOAD};

/// Position and length of one unit: offload header and packet, one TUN write.
pub type Unit = (usize, usize);

/// One packet, or several merged.
struct Item {
    offset: usize,
    end: usize,
    group: Option<Group>,
    /// Payload that does not follow `end` directly: the first and the last of a chain.
    more: Option<(usize, usize)>,
}

/// A link of such a chain.
struct Piece {
    range: Range<usize>,
    next: Option<usize>,
}

/// The packets of one batch. Give each to `add`, then call `finish`.
///
/// Keep it for the next batch: then nothing is allocated once it has seen a large one.
#[derive(Default)]
pub struct Coalescer {
    coalescing: Coalescing,
    items: Vec<Item>,
    pieces: Vec<Piece>,
    /// The latest item of each flow that something may join.
    open: HashMap<Flow, usize>,
    /// Whether the last item is one that something may join.
    is_last_open: bool,
    end: usize,
    gathered: Vec<u8>,
}

impl Coalescer {
    /// Begin a batch.
    pub fn start(&mut self, coalescing: Coalescing) {
        self.coalescing = coalescing;
        self.items.clear();
        self.pieces.clear();
        self.open.clear();
        self.is_last_open = false;
        self.end = 0;
    }

    /// Where the used part of the buffer ends.
    #[inline]
    pub fn end(&self) -> usize {
        self.end
    }

    /// Take an IP packet. `out` must have room for it, and for [`HEADER_SIZE`] bytes, behind `end`.
    #[inline]
    pub fn add(&mut self, out: &mut [u8], packet: &[u8]) {
        if self.is_last_open && self.join(self.items.len() - 1, out, packet) {
            return;
        }
        if self.coalescing == Coalescing::default() {
            self.append_item(out, packet, None);
        } else {
            self.place(out, packet);
        }
    }

    /// Write the offload headers and put every item into one piece. Its units are added to `units`.
    pub fn finish(&mut self, out: &mut [u8], units: &mut Vec<Unit>) {
        for item in &self.items {
            let header = match &item.group {
                Some(group) if group.count > 1 => {
                    group.finish(&mut out[item.offset..item.offset + group.shape.header_size]).to_bytes()
                }
                _ => NO_OFFLOAD,
            };
            let start = item.offset - HEADER_SIZE;
            out[start..item.offset].copy_from_slice(&header);
            units.push((start, item.end - start));
        }
        if !self.pieces.is_empty() {
            self.gather(out, units);
        }
    }

    // --- where a packet goes ---

    /// Let the packet join its flow's latest item, or become an item.
    fn place(&mut self, out: &mut [u8], packet: &[u8]) {
        let (flow, shape) = classify(packet, self.coalescing);
        let Some(flow) = flow else {
            self.open.clear();
            return self.append_item(out, packet, None);
        };
        let Some(shape) = shape else {
            self.open.remove(&flow);
            return self.append_item(out, packet, None);
        };
        if let Some(&found) = self.open.get(&flow) {
            let is_last = self.is_last_open && found == self.items.len() - 1; // that was tried
            let is_alike = self.items[found].group.as_ref().is_some_and(|group| group.shape == shape);
            if !is_last && is_alike && self.join(found, out, packet) {
                return;
            }
        }
        self.open.insert(flow, self.items.len());
        self.append_item(out, packet, Some(Group::new(shape, packet)));
    }

    fn append_item(&mut self, out: &mut [u8], packet: &[u8], group: Option<Group>) {
        let offset = self.end + HEADER_SIZE;
        self.end = offset + packet.len();
        out[offset..self.end].copy_from_slice(packet);
        self.is_last_open = group.is_some();
        self.items.push(Item { offset, end: self.end, group, more: None });
    }

    // --- merging ---

    /// Merge the packet into the item. False, with nothing changed that counts, or true.
    #[inline]
    fn join(&mut self, number: usize, out: &mut [u8], packet: &[u8]) -> bool {
        let item = &mut self.items[number];
        let Some(group) = &mut item.group else { return false };
        let header_size = group.shape.header_size;
        let first = &out[item.offset..item.end];
        if packet.len() <= header_size || !group.shape.agree(first, packet) {
            return false;
        }
        let Some(side) = group.offer(first, packet) else { return false };
        // Where its payload goes to stay, if it is intact; if not, nothing else was there.
        let is_next = side == Side::After && item.end == self.end && item.more.is_none();
        let offset = if is_next { self.end } else { self.end + HEADER_SIZE + header_size };
        let payload = offset..offset + packet.len() - header_size;
        let payload_sum = copy_and_sum(&packet[header_size..], &mut out[payload.clone()]);
        if !group.join(side, packet, payload_sum) {
            return false;
        }
        self.end = payload.end;
        match side {
            Side::After if is_next => item.end = self.end,
            Side::After => self.append_piece(number, payload),
            Side::Before => {
                let offset = offset - header_size;
                out[offset..payload.start].copy_from_slice(&packet[..header_size]);
                self.prepend(number, header_size, offset);
            }
        }
        true
    }

    fn append_piece(&mut self, item: usize, payload: Range<usize>) {
        let piece = self.pieces.len();
        self.pieces.push(Piece { range: payload, next: None });
        let item = &mut self.items[item];
        item.more = match item.more {
            None => Some((piece, piece)),
            Some((first, last)) => {
                self.pieces[last].next = Some(piece);
                Some((first, piece))
            }
        };
    }

    /// The packet that ends at `end` becomes the first of the item.
    fn prepend(&mut self, item: usize, header_size: usize, offset: usize) {
        let item = &mut self.items[item];
        let piece = self.pieces.len();
        let next = item.more.map(|(first, _)| first);
        self.pieces.push(Piece { range: item.offset + header_size..item.end, next });
        item.more = Some((piece, item.more.map_or(piece, |(_, last)| last)));
        item.offset = offset;
        item.end = self.end;
    }

    // --- the result ---

    /// Put the pieces of every item side by side, from the start of the buffer.
    fn gather(&mut self, out: &mut [u8], units: &mut [Unit]) {
        let gathered = &mut self.gathered;
        gathered.clear();
        for (item, unit) in self.items.iter().zip(units) {
            let start = gathered.len();
            gathered.extend_from_slice(&out[unit.0..unit.0 + unit.1]);
            let mut next = item.more.map(|(first, _)| first);
            while let Some(piece) = next {
                gathered.extend_from_slice(&out[self.pieces[piece].range.clone()]);
                next = self.pieces[piece].next;
            }
            *unit = (start, gathered.len() - start);
        }
        out[..gathered.len()].copy_from_slice(gathered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{complement, sum};
    use crate::superpacket::Superpacket;
    use crate::wire::put_u16;

    const BOTH: Coalescing = Coalescing { tcp: true, udp: true };

    fn segment(sequence: u32, size: usize, flags: u8, identification: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0, 80, 0, 81, 0, 0, 0, 0, 0, 0, 0, 9, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        packet.extend((0..size).map(|k| (k as u32 + sequence) as u8));
        let length = packet.len();
        put_u16(&mut packet, 2, length as u16);
        put_u16(&mut packet, 4, identification);
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        let checksum = complement(sum(&packet[..20]));
        put_u16(&mut packet, 10, checksum);
        let checksum = complement(sum(&packet[12..20]) + 6 + length as u64 - 20 + sum(&packet[20..]));
        put_u16(&mut packet, 36, checksum);
        packet
    }

    fn coalesce(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut out = vec![0xee; 10_000];
        let mut coalescer = Coalescer::default();
        coalescer.start(BOTH);
        for packet in packets {
            coalescer.add(&mut out, packet);
        }
        let mut units = Vec::new();
        coalescer.finish(&mut out, &mut units);
        units.iter().map(|&(offset, length)| out[offset..offset + length].to_vec()).collect()
    }

    fn cut(unit: &[u8]) -> Vec<Vec<u8>> {
        let superpacket = Superpacket::parse(unit).unwrap();
        let sizes =
            |k| if k + 1 == superpacket.count { superpacket.last_size } else { superpacket.segment_size };
        (0..superpacket.count)
            .map(|k| {
                let mut segment = vec![0; sizes(k)];
                superpacket.write(k, &mut segment);
                segment
            })
            .collect()
    }

    #[test]
    fn a_stream_becomes_one_unit() {
        let packets: Vec<_> = (0..5).map(|k| segment(100 * u32::from(k), 100, 0x10, k)).collect();
        let units = coalesce(&packets);
        assert_eq!(units.len(), 1);
        assert_eq!(cut(&units[0]), packets);
    }

    #[test]
    fn reversed_segments_come_out_in_order() {
        let packets: Vec<_> = (0..5).map(|k| segment(100 * u32::from(k), 100, 0x10, k)).collect();
        let reversed: Vec<_> = packets.iter().rev().cloned().collect();
        let units = coalesce(&reversed);
        assert_eq!(units.len(), 1);
        assert_eq!(cut(&units[0]), packets);
    }

    #[test]
    fn a_corrupt_one_stays_alone() {
        let mut packets: Vec<_> = (0..3).map(|k| segment(100 * u32::from(k), 100, 0x10, k)).collect();
        packets[1][60] ^= 1;
        let units = coalesce(&packets);
        assert_eq!(units.len(), 3);
        assert_eq!(units[1][HEADER_SIZE..], packets[1]);
    }

    #[test]
    fn what_shows_no_flow_ends_all() {
        let packets = [segment(0, 10, 0x10, 0), vec![0x50; 30], segment(10, 10, 0x10, 1)];
        assert_eq!(coalesce(&packets).len(), 3);
    }
}
