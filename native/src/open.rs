//! Open what one receive returned: find the session, decrypt, check, merge (reference §2.5).

use std::sync::Arc;

use crate::aead::{Key, TAG_SIZE};
use crate::allowed_ips::AllowedIps;
use crate::coalesce::{Coalescer, Unit};
use crate::drops::{Drop, Drops};
use crate::group::Coalescing;
use crate::replay::ReplayWindow;
use crate::session::Receiving;
use crate::table::{Entry, SessionTable};
use crate::wire::{DATAGRAM_HEADER_SIZE, Kind, OVERHEAD, kind_of, u16_at};

/// A session during one batch: its totals, and the inner source that was looked up last.
pub struct Receiver<H> {
    /// The session and its peer.
    pub entry: Arc<Entry<H>>,
    /// What was authentic and not replayed.
    pub packets: usize,
    /// Those of them that are no keepalives; packets that then failed the inner checks are included.
    pub data_packets: usize,
    /// UDP payload of the authentic ones.
    pub datagram_bytes: usize,
    /// Of the last authentic one, in the received buffer.
    pub last_offset: usize,
    source: [u8; 16],
    source_size: usize,
}

/// The outcome of one batch. Keep it for the next: then nothing is allocated once it has seen a large one.
pub struct Batch<H> {
    /// In the output: offload header and packet, one TUN write each.
    pub units: Vec<Unit>,
    /// In the received buffer: what does not begin as transport data.
    pub other: Vec<(usize, usize)>,
    /// In order of the sessions' first datagram; those without a valid one are included.
    pub receivers: Vec<Receiver<H>>,
    /// What went no further.
    pub drops: Drops,
    indices: Vec<u32>,
    coalescer: Coalescer,
    /// A copy of datagrams that must stay as they are.
    copy: Vec<u8>,
}

impl<H> Default for Batch<H> {
    fn default() -> Self {
        Self {
            units: Vec::new(),
            other: Vec::new(),
            receivers: Vec::new(),
            drops: Drops::default(),
            indices: Vec::new(),
            coalescer: Coalescer::default(),
            copy: Vec::new(),
        }
    }
}

impl<H> Batch<H> {
    /// [`Batch::open_in_place`] for datagrams that must stay as they are, at the price of a copy.
    pub fn open(
        &mut self,
        sessions: &SessionTable<H>,
        allowed_ips: &AllowedIps,
        datagrams: &[u8],
        stride: Option<usize>,
        out: &mut [u8],
        coalescing: Coalescing,
    ) {
        let mut copy = std::mem::take(&mut self.copy);
        copy.clear();
        copy.extend_from_slice(datagrams);
        self.open_in_place(sessions, allowed_ips, &mut copy, stride, out, coalescing);
        self.copy = copy;
    }

    /// Open datagrams of `stride` bytes, the last maybe shorter; a stride that is none means one datagram.
    ///
    /// Transport data is decrypted where it lies, and overwritten with zeroes where its tag does not fit; what
    /// is found to be `other` stays as it is. `out` must be at least as long as `datagrams`: packets never
    /// outgrow their datagrams. A bad datagram costs only itself and is counted under its reason.
    pub fn open_in_place(
        &mut self,
        sessions: &SessionTable<H>,
        allowed_ips: &AllowedIps,
        datagrams: &mut [u8],
        stride: Option<usize>,
        out: &mut [u8],
        coalescing: Coalescing,
    ) {
        assert!(out.len() >= datagrams.len(), "the output is too small");
        self.clear();
        let total = datagrams.len();
        let (stride, coalescing) = match stride {
            Some(stride) if 0 < stride && stride < total => (stride, coalescing),
            _ => (total.max(1), Coalescing::default()),
        };
        self.coalescer.start(coalescing);
        let table = sessions.read();
        let mut unknown = None;
        let mut offset = 0;
        while offset < total {
            let stop = total.min(offset + stride);
            match kind_of(&datagrams[offset..stop]) {
                Kind::TooShort => self.drops.count(Drop::TooShort),
                Kind::Other => self.other.push((offset, stop - offset)),
                Kind::Data { index, .. } if unknown == Some(index) => {
                    self.drops.count(Drop::UnknownReceiverIndex)
                }
                Kind::Data { index, .. } => match self.receiver(index, || table.get(&index).cloned()) {
                    Some(receiver) => {
                        offset = self.open_run(receiver, index, allowed_ips, datagrams, offset, stride, out);
                        continue;
                    }
                    None => {
                        unknown = Some(index);
                        self.drops.count(Drop::UnknownReceiverIndex);
                    }
                },
            }
            offset = stop;
        }
        self.coalescer.finish(out, &mut self.units);
    }

    /// Forget everything, above all the sessions: their keys go when their owner lets them go.
    pub fn clear(&mut self) {
        self.units.clear();
        self.other.clear();
        self.receivers.clear();
        self.indices.clear();
        self.drops = Drops::default();
    }

    /// The number of the session with `index` in this batch.
    fn receiver(&mut self, index: u32, find: impl FnOnce() -> Option<Arc<Entry<H>>>) -> Option<usize> {
        if let Some(known) = self.indices.iter().position(|&other| other == index) {
            return Some(known);
        }
        let entry = find()?;
        self.indices.push(index);
        self.receivers.push(Receiver {
            entry,
            packets: 0,
            data_packets: 0,
            datagram_bytes: 0,
            last_offset: 0,
            source: [0; 16],
            source_size: 0,
        });
        Some(self.receivers.len() - 1)
    }

    /// Open datagrams from `offset` on as long as they are for `index`. Returns where that ended.
    #[allow(clippy::too_many_arguments)]
    fn open_run(
        &mut self,
        receiver: usize,
        index: u32,
        allowed_ips: &AllowedIps,
        datagrams: &mut [u8],
        mut offset: usize,
        stride: usize,
        out: &mut [u8],
    ) -> usize {
        let receiver = &mut self.receivers[receiver];
        let entry = Arc::clone(&receiver.entry);
        let mut guard = entry.session.receiving();
        let Receiving { key, replay } = &mut *guard;
        while offset < datagrams.len() {
            let stop = datagrams.len().min(offset + stride);
            let datagram = &mut datagrams[offset..stop];
            let Kind::Data { index: found, counter } = kind_of(datagram) else { break };
            if found != index {
                break;
            }
            let opened =
                receiver.open(key.as_ref(), replay, counter, &mut datagram[DATAGRAM_HEADER_SIZE..], offset);
            match opened.and_then(|packet| receiver.admit(allowed_ips, packet)) {
                Ok([]) => {}
                Ok(packet) => self.coalescer.add(out, packet),
                Err(reason) => self.drops.count(reason),
            }
            offset = stop;
        }
        offset
    }
}

impl<H> Receiver<H> {
    /// Decrypt what precedes the tag, where it is, and check for replay.
    #[inline]
    fn open<'a>(
        &mut self,
        key: Option<&Key>,
        replay: &mut ReplayWindow,
        counter: u64,
        sealed: &'a mut [u8],
        offset: usize,
    ) -> Result<&'a [u8], Drop> {
        let key = key.ok_or(Drop::ExpiredKey)?;
        let (packet, tag) = sealed.split_last_chunk_mut::<TAG_SIZE>().ok_or(Drop::TooShort)?;
        key.open(counter, *tag, packet).map_err(|_| Drop::InvalidTag)?;
        if !replay.accept(counter) {
            return Err(Drop::ReplayedCounter);
        }
        self.packets += 1;
        self.data_packets += usize::from(!packet.is_empty());
        self.datagram_bytes += packet.len() + OVERHEAD;
        self.last_offset = offset;
        Ok(packet)
    }

    /// The packet without its padding, nothing for a keepalive, if its length and the source are right.
    #[inline]
    fn admit<'a>(&mut self, allowed_ips: &AllowedIps, packet: &'a [u8]) -> Result<&'a [u8], Drop> {
        let (length, source) = match packet.first().map(|first| first >> 4) {
            None => return Ok(packet),
            Some(4) if packet.len() >= 20 => (usize::from(u16_at(packet, 2)), &packet[12..16]),
            Some(6) if packet.len() >= 40 => (usize::from(u16_at(packet, 4)) + 40, &packet[8..24]),
            Some(_) => return Err(Drop::MalformedInnerPacket),
        };
        if length < 20 || length > packet.len() {
            return Err(Drop::MalformedInnerPacket);
        }
        if source != &self.source[..self.source_size] {
            if allowed_ips.lookup(source) != self.entry.peer {
                return Err(Drop::SourceNotAllowed);
            }
            self.source[..source.len()].copy_from_slice(source);
            self.source_size = source.len();
        }
        Ok(&packet[..length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{seal_packet, sealed_size};
    use crate::session::Session;
    use crate::virtio::HEADER_SIZE;

    const KEY: [u8; 32] = [3; 32];

    fn packet(source: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[3] = 40;
        packet[12..16].copy_from_slice(&[10, 0, 0, source]);
        packet
    }

    fn sealed(sender: &Session, packet: &[u8]) -> Vec<u8> {
        let mut out = vec![0; sealed_size(packet.len(), 1280)];
        seal_packet(&mut sender.sending(), sender.remote_index, packet, &mut out).unwrap();
        out
    }

    fn receiver_side() -> (Session, SessionTable<()>, AllowedIps) {
        let sender = Session::new(&KEY, &[9; 32], 1, 77);
        let sessions = SessionTable::default();
        let session = Arc::new(Session::new(&[9; 32], &KEY, 77, 1));
        sessions.write().insert(77, Arc::new(Entry { session, peer: 5, handle: () }));
        let mut allowed_ips = AllowedIps::default();
        allowed_ips.insert(&[10, 0, 0, 1], 32, 5);
        (sender, sessions, allowed_ips)
    }

    #[test]
    fn each_bad_datagram_costs_itself() {
        let (sender, sessions, allowed_ips) = receiver_side();
        let good = sealed(&sender, &packet(1));
        let mut forged = sealed(&sender, &packet(1));
        forged[20] ^= 1;
        let spoofed = sealed(&sender, &packet(2));
        let stranger = sealed(&Session::new(&KEY, &KEY, 1, 78), &packet(1));
        let mut handshake = good.clone();
        handshake[0] = 1;
        let last = sealed(&sender, &packet(1));
        let all = [&good, &good, &forged, &spoofed, &stranger, &handshake, &last];
        let mut datagrams: Vec<u8> = all.into_iter().flatten().copied().collect();
        datagrams.extend([4, 0, 0, 0, 1]);
        let mut out = vec![0; datagrams.len()];
        let mut batch = Batch::default();
        batch.open(&sessions, &allowed_ips, &datagrams, Some(good.len()), &mut out, Coalescing::default());
        let written: Vec<_> =
            batch.units.iter().map(|&(at, length)| &out[at + HEADER_SIZE..at + length]).collect();
        assert_eq!(written, [packet(1), packet(1)]);
        for (reason, _) in Drop::ALL {
            let expected = !matches!(reason, Drop::ExpiredKey | Drop::MalformedInnerPacket);
            assert_eq!(batch.drops.of(reason), u32::from(expected), "{reason:?}");
        }
        assert_eq!(batch.other, [(5 * good.len(), good.len())]);
        let totals = &batch.receivers[0];
        assert_eq!((totals.packets, totals.last_offset), (3, 6 * good.len()));
    }

    #[test]
    fn one_session_under_two_indices_does_not_wait_for_itself() {
        let (sender, sessions, allowed_ips) = receiver_side();
        let entry = Arc::clone(&sessions.read()[&77]);
        sessions.write().insert(78, entry);
        let other = Session::new(&KEY, &KEY, 1, 78);
        other.sending().counter = 1;
        let datagrams = [sealed(&sender, &packet(1)), sealed(&other, &packet(1))].concat();
        let mut out = vec![0; datagrams.len()];
        let mut batch = Batch::default();
        batch.open(
            &sessions,
            &allowed_ips,
            &datagrams,
            Some(datagrams.len() / 2),
            &mut out,
            Coalescing::default(),
        );
        assert_eq!(batch.units.len(), 2);
        batch.clear();
        assert!(batch.receivers.is_empty());
    }

    #[test]
    fn a_wiped_session_opens_nothing() {
        let (sender, sessions, allowed_ips) = receiver_side();
        let datagram = sealed(&sender, &packet(1));
        sessions.read()[&77].session.wipe();
        let mut batch = Batch::default();
        batch.open(
            &sessions,
            &allowed_ips,
            &datagram,
            None,
            &mut vec![0; datagram.len()],
            Coalescing::default(),
        );
        assert_eq!(batch.drops.of(Drop::ExpiredKey), 1);
    }
}
