//! What the tunnel device is given, against what arrived: cut again, a merged unit is what arrived, and nothing
//! overtakes anything of its flow.
//!
//! Merging makes some fields those of the first packet, or computed ones: the IPv4 identification, the flow label,
//! TCP's window and urgent pointer, and checksums. [`plain`] blanks them. A packet that was not merged is the same
//! to the byte.

use std::collections::HashMap;

use crate::packets::{ACK, PSH, TCP, UDP, is_intact, set_u16, u16_of};
use crate::segmentation::{Header, cut};

/// Where the transport header is, and the protocol, of what may be merged at all.
fn transport(packet: &[u8]) -> Option<(usize, u8)> {
    let (start, protocol) = match packet.first()? >> 4 {
        4 if packet[0] == 0x45 && packet.len() >= 20 && u16_of(packet, 6) & 0x3fff == 0 => (20, packet[9]),
        6 if packet.len() >= 40 => (40, packet[6]),
        _ => return None,
    };
    let least = match protocol {
        TCP => 20,
        UDP => 8,
        _ => return None,
    };
    (packet.len() >= start + least).then_some((start, protocol))
}

/// Protocol, addresses and ports.
fn flow(packet: &[u8]) -> Option<Vec<u8>> {
    let (start, protocol) = transport(packet)?;
    let addresses = if start == 20 { 12 } else { 8 };
    Some([&[protocol], &packet[addresses..start + 4]].concat())
}

/// Without what merging does not keep.
fn plain(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (start, protocol) = transport(&packet).expect("it was merged");
    if start == 20 {
        set_u16(&mut packet, 4, 0);
        set_u16(&mut packet, 10, 0);
    } else {
        packet[1] &= 0xf0;
        packet[2..4].fill(0);
    }
    match protocol {
        TCP => packet[start + 14..start + 20].fill(0),
        _ => set_u16(&mut packet, start + 6, 0),
    }
    packet
}

/// Which packets may be merged.
#[derive(Clone, Copy, Debug)]
pub struct May {
    /// TCP segments.
    pub tcp: bool,
    /// UDP datagrams.
    pub udp: bool,
}

/// Panics unless `units` are what `arrived`, in an order that is right.
pub fn check(arrived: &[Vec<u8>], units: &[&[u8]], may: May) {
    let mut progress = Progress { is_out: vec![false; arrived.len()], last: HashMap::new(), count: 0 };
    let mergeable: Vec<_> =
        arrived.iter().map(|packet| is_mergeable(packet).then(|| plain(packet))).collect();
    for unit in units {
        if unit[..10] == [0; 10] {
            let at = progress.take(|at| arrived[at] == unit[10..]);
            progress.follow(flow(&unit[10..]), at, at);
            continue;
        }
        check_header(unit, may);
        let packets = cut(unit).expect("a sound superpacket");
        assert!(packets.len() > 1, "one packet needs no offload");
        let found = packets.iter().map(|packet| {
            let wanted = Some(plain(packet));
            progress.take(|at| mergeable[at] == wanted)
        });
        let found: Vec<usize> = found.collect();
        let (first, last) = (*found.iter().min().unwrap(), *found.iter().max().unwrap());
        progress.follow(flow(&packets[0]), first, last);
    }
    assert_eq!(progress.count, arrived.len(), "something did not arrive");
    assert!(units.len() == arrived.len() || may.tcp || may.udp);
}

/// Whether it is all that a merged packet must be.
fn is_mergeable(packet: &[u8]) -> bool {
    let Some((start, protocol)) = transport(packet) else { return false };
    let is_plain = protocol == UDP || packet[start + 13] & !PSH == ACK;
    is_plain && is_intact(packet, start, protocol)
}

fn check_header(unit: &[u8], may: May) {
    let (header, packet) = (Header::read(unit), &unit[10..]);
    let (start, protocol) = transport(packet).expect("it was merged");
    let is_tcp = protocol == TCP;
    assert!(if is_tcp { may.tcp } else { may.udp });
    assert!(packet.len() <= 65535);
    let size = start + if is_tcp { usize::from(packet[start + 12] >> 4) * 4 } else { 8 };
    assert_eq!((header.flags, header.hdr_len, header.csum_start), (1, size, start));
    assert_eq!(
        header.gso_type,
        if !is_tcp {
            5
        } else if start == 20 {
            1
        } else {
            4
        }
    );
    assert!(is_tcp || (packet.len() - size).div_ceil(header.gso_size) <= 64);
    let length = u16_of(packet, if start == 20 { 2 } else { 4 });
    assert_eq!(usize::from(length), packet.len() - if start == 20 { 0 } else { 40 });
}

struct Progress {
    is_out: Vec<bool>,
    /// The latest of each flow that is out; None: what shows no flow.
    last: HashMap<Option<Vec<u8>>, usize>,
    count: usize,
}

impl Progress {
    /// The first one that is it and is not out yet.
    fn take(&mut self, is_it: impl Fn(usize) -> bool) -> usize {
        let found = (0..self.is_out.len()).find(|&at| !self.is_out[at] && is_it(at));
        let at = found.expect("a packet that did not arrive");
        self.is_out[at] = true;
        self.count += 1;
        at
    }

    /// What arrived from `first` to `last` is out, as one unit.
    fn follow(&mut self, flow: Option<Vec<u8>>, first: usize, last: usize) {
        if flow.is_none() {
            // Nothing passes what shows no flow, in either direction.
            assert!(self.is_out[..first].iter().all(|&is_out| is_out), "overtaken by what shows no flow");
            assert_eq!(self.count, first + 1, "what shows no flow was overtaken");
        }
        assert!(self.last.get(&flow).is_none_or(|&before| before < first), "reordered within a flow");
        self.last.insert(flow, last);
    }
}
