//! Seal hostile TUN reads: what was sealed opens to the packets of [`crate::segmentation`], with padding behind
//! them, under consecutive counters; or nothing was sealed, nothing was written and no counter was used.

use _native::aead::Key;
use _native::replay::COUNTER_LIMIT;
use _native::seal::{MAX_UNIT_SEGMENTS, Sealed, seal_packet, seal_superpacket, sealed_size};
use _native::session::{Session, SessionSpent};

use crate::count;
use crate::input::Input;
use crate::packets::is_intact;
use crate::reads;
use crate::segmentation::{Header, cut, protocol};

const KEY: [u8; 32] = [7; 32];
const REMOTE_INDEX: u32 = 0x0102_0304;
const OVERHEAD: usize = 32;
const UNTOUCHED: u8 = 0xee;

/// A few reads, one after another, with one session.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let session = Session::new(&KEY, &[9; 32], 1, REMOTE_INDEX);
    session.sending().counter = match input.choice(8) {
        6 => u64::from(input.u16()),
        7 => COUNTER_LIMIT - u64::from(input.u8() % 64),
        _ => 0,
    };
    if input.once_in(64) {
        session.wipe();
    }
    for _ in 0..3 {
        let mtu = mtu(&mut input);
        if input.once_in(8) {
            let size = input.up_to(300);
            seal_one(&session, input.bytes(size), mtu);
        } else {
            seal(&session, &mut input, mtu);
        }
        if input.is_empty() {
            break;
        }
    }
}

fn mtu(input: &mut Input) -> usize {
    match input.choice(8) {
        0 => 0,
        1 => input.u8().into(),
        2 => usize::MAX - usize::from(input.u8()),
        3 => input.u16().into(),
        4 => 1420,
        _ => 1280,
    }
}

/// Up to the next multiple of 16, but not beyond the MTU.
fn padded(length: usize, mtu: usize) -> usize {
    let mut last = if mtu > 0 && length > mtu { length % mtu } else { length };
    let before = last;
    while last % 16 != 0 && (mtu == 0 || last < mtu) {
        last += 1;
    }
    length + last - before
}

fn seal_one(session: &Session, packet: &[u8], mtu: usize) {
    let before = session.sending().counter;
    let is_spent = session.sending().is_spent();
    assert_eq!(sealed_size(packet.len(), mtu), padded(packet.len(), mtu) + OVERHEAD);
    let mut out = vec![UNTOUCHED; sealed_size(packet.len(), mtu)];
    let sealed = seal_packet(&mut session.sending(), REMOTE_INDEX, packet, &mut out);
    assert_eq!(sealed.is_err(), is_spent);
    assert_eq!(session.sending().counter, before + u64::from(!is_spent));
    if sealed.is_ok() {
        assert_opens(&Key::new(&KEY), &out, before, packet);
    }
}

fn seal(session: &Session, input: &mut Input, mtu: usize) {
    let max_unit = match input.choice(4) {
        0 => input.u16().into(),
        1 => usize::MAX,
        _ => 65_487,
    };
    let (fit, missing) = (input.choice(8), 1 + input.choice(40));
    let read = reads::read(input);
    count::add(1);
    let packets = cut(&read);
    let sizes = packets.iter().flatten().map(|packet| padded(packet.len(), mtu) + OVERHEAD);
    let needed: usize = sizes.sum();
    let size = match fit {
        0 => needed.saturating_sub(missing),
        1 => needed + missing,
        _ => needed,
    };
    let mut out = vec![UNTOUCHED; size];
    let before = session.sending().counter;
    let count = packets.as_ref().map_or(0, Vec::len) as u64;
    let fits = before.checked_add(count).is_some_and(|after| after <= COUNTER_LIMIT);
    let may_number = fits && !is_wiped(session);
    let found = seal_superpacket(&mut session.sending(), REMOTE_INDEX, &read, &mut out, mtu, max_unit);
    let after = session.sending().counter;
    match packets {
        Some(packets) if needed <= size && may_number => {
            assert_eq!(after, before + count);
            assert_sealed(found.expect("a session that may number"), &out, before, &packets, mtu, max_unit);
            assert_sound(&read, &packets);
            assert!(out[needed..].iter().all(|&byte| byte == UNTOUCHED));
        }
        packets => {
            let is_refused = packets.is_some() && needed <= size;
            assert_eq!(found, if is_refused { Err(SessionSpent) } else { Ok(Sealed::default()) });
            assert_eq!(after, before);
            assert!(out.iter().all(|&byte| byte == UNTOUCHED));
        }
    }
}

fn is_wiped(session: &Session) -> bool {
    session.receiving().key.is_none()
}

fn assert_sealed(sealed: Sealed, out: &[u8], first: u64, packets: &[Vec<u8>], mtu: usize, max_unit: usize) {
    let stride = padded(packets[0].len(), mtu) + OVERHEAD;
    assert_eq!(sealed.stride, stride);
    assert_eq!(sealed.unit % stride, 0);
    assert!((1..=MAX_UNIT_SEGMENTS).contains(&(sealed.unit / stride)));
    assert!(sealed.unit <= max_unit || sealed.unit == stride);
    assert_eq!(sealed.total.div_ceil(stride), packets.len());
    let key = Key::new(&KEY);
    for (k, (datagram, packet)) in out[..sealed.total].chunks(stride).zip(packets).enumerate() {
        assert_eq!(datagram.len(), padded(packet.len(), mtu) + OVERHEAD);
        assert_opens(&key, datagram, first + k as u64, packet);
    }
}

fn assert_opens(key: &Key, datagram: &[u8], counter: u64, packet: &[u8]) {
    assert_eq!(datagram[..4], [4, 0, 0, 0]);
    assert_eq!(datagram[4..8], REMOTE_INDEX.to_le_bytes());
    assert_eq!(datagram[8..16], counter.to_le_bytes());
    let (sealed, tag) = datagram[16..].split_last_chunk::<16>().unwrap();
    let mut opened = sealed.to_vec();
    key.open(counter, *tag, &mut opened).expect("what was just sealed");
    assert_eq!(opened[..packet.len()], *packet);
    assert!(opened[packet.len()..].iter().all(|&byte| byte == 0));
}

/// The segments of a superpacket would pass any receiver's check.
fn assert_sound(read: &[u8], packets: &[Vec<u8>]) {
    let header = Header::read(read);
    if let Some(protocol) = protocol(&header) {
        assert!(packets.iter().all(|packet| is_intact(packet, header.csum_start, protocol)));
    }
}
