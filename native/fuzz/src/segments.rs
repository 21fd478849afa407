//! From one TUN read to its packets, against [`crate::segmentation`]: the same packets, byte for byte, with zeroes
//! behind them, or a refusal.

use _native::superpacket::Superpacket;

use crate::count;
use crate::input::Input;
use crate::reads;
use crate::segmentation::cut;

/// One read.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let room = input.choice(20);
    let read = reads::read(&mut input);
    count::add(1);
    let expected = cut(&read);
    let Ok(superpacket) = Superpacket::parse(&read) else {
        assert!(expected.is_none(), "a sound read was refused");
        return;
    };
    let expected = expected.expect("an unsound read was taken");
    assert_eq!(superpacket.count, expected.len());
    for (k, packet) in expected.iter().enumerate() {
        let is_last = k + 1 == expected.len();
        let size = if is_last { superpacket.last_size } else { superpacket.segment_size };
        let mut out = vec![0xee; size + room];
        superpacket.write(k, &mut out);
        assert_eq!(out[..size], packet[..], "packet {k}");
        assert!(out[size..].iter().all(|&byte| byte == 0), "what follows packet {k}");
    }
}
