//! The gate of handshakes, against buckets that forget nothing: floods of messages that are of the wrong size,
//! forged, without a cookie, with one, or with another's, from a few addresses, while time passes.

use std::collections::HashMap;

use _native::gate::{Gate, Verdict, is_handshake};
use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};

use crate::count;
use crate::input::Input;

const KEY: [u8; 32] = [1; 32];
const LINGER: f64 = 1.0;

fn mac(key: &[u8], data: &[u8]) -> [u8; 16] {
    let mut state = <Blake2sMac<U16> as KeyInit>::new_from_slice(key).unwrap();
    state.update(data);
    state.finalize().into_bytes().into()
}

/// What each source may.
struct Buckets {
    rate: f64,
    burst: f64,
    sources: HashMap<Vec<u8>, (f64, f64)>,
}

impl Buckets {
    fn new(rate: f64, burst: f64) -> Self {
        Self { rate, burst, sources: HashMap::new() }
    }

    fn allow(&mut self, source: &[u8], now: f64) -> bool {
        let source = if source.len() == 16 { &source[..8] } else { source };
        let (tokens, counted) = self.sources.entry(source.to_vec()).or_insert((self.burst, now));
        *tokens = self.burst.min(*tokens + (now - *counted) * self.rate);
        *counted = now;
        let is_allowed = *tokens >= 1.0;
        *tokens -= if is_allowed { 1.0 } else { 0.0 };
        is_allowed
    }
}

struct Model {
    secret: [u8; 32],
    room: i64,
    loaded_until: f64,
    proven: Buckets,
    first_tries: Buckets,
    replies: Buckets,
}

impl Model {
    fn judge(&mut self, message: &[u8], address: &[u8], port: u16, now: f64) -> Verdict {
        let size = if message[0] == 1 { 148 } else { 92 };
        if message.len() != size {
            return Verdict::InvalidLength;
        }
        if message[size - 32..size - 16] != mac(&KEY, &message[..size - 32]) {
            return Verdict::InvalidMac1;
        }
        if self.room <= 0 {
            self.loaded_until = now + LINGER;
        }
        if now >= self.loaded_until {
            self.room -= 1;
            return Verdict::Admit;
        }
        let mac2 = mac(&cookie(&self.secret, address, port), &message[..size - 16]);
        if message[size - 16..] == mac2 {
            let is_allowed = self.proven.allow(address, now);
            return if is_allowed { Verdict::Admit } else { Verdict::RateLimited };
        }
        if self.first_tries.allow(address, now) {
            return Verdict::Admit;
        }
        if self.replies.allow(address, now) { Verdict::Reply } else { Verdict::UnderLoad }
    }
}

fn cookie(secret: &[u8; 32], address: &[u8], port: u16) -> [u8; 16] {
    mac(secret, &[address, &port.to_be_bytes()[..]].concat())
}

/// A flood.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut gate = Gate::new(KEY);
    let mut model = Model {
        secret: [0; 32],
        room: 0,
        loaded_until: f64::NEG_INFINITY,
        proven: Buckets::new(20.0, 5.0),
        first_tries: Buckets::new(0.2, 1.0),
        replies: Buckets::new(2.0, 5.0),
    };
    let mut now = 0.0;
    while !input.is_empty() {
        let kind = input.u8();
        // Sixteenths are exact, so that the order of operations makes no difference.
        now += f64::from(if kind & 3 == 3 { input.u8() } else { kind & 1 }) / 16.0;
        if kind & 0x1c == 0 {
            model.room = i64::from(input.u8() % 8) - 1;
            gate.set_room(model.room);
        }
        if kind & 0xfc == 4 {
            model.secret = [input.u8(); 32];
            gate.set_secret(model.secret);
        }
        let (address, port) = source(&mut input);
        let message = message(&mut input, kind, &model.secret, &address, port);
        if is_handshake(&message) {
            count::add(1);
            let expected = model.judge(&message, &address, port, now);
            assert_eq!(gate.judge(&message, &address, port, now), expected);
            assert_eq!(gate.is_loaded(now), now < model.loaded_until);
        } else {
            assert!(message.len() < 4 || !matches!(message[..4], [1 | 2, 0, 0, 0]));
        }
    }
}

/// One of a few addresses and ports: IPv4, IPv6, and what a relay tells its clients apart by.
fn source(input: &mut Input) -> (Vec<u8>, u16) {
    let kind = input.u8();
    let mut address = vec![0; [4, 16, 32, usize::from(kind >> 6)][usize::from(kind & 3)]];
    if let Some(byte) = address.first_mut() {
        *byte = kind >> 2 & 3;
    }
    if let Some(byte) = address.last_mut() {
        *byte = kind >> 4 & 1;
    }
    (address, (kind >> 5 & 1).into())
}

fn message(input: &mut Input, kind: u8, secret: &[u8; 32], address: &[u8], port: u16) -> Vec<u8> {
    let mut message = vec![0; if kind & 0x20 == 0 { 148 } else { 92 }];
    message[0] = if kind & 0x20 == 0 { 1 } else { 2 };
    let size = message.len();
    let body = input.bytes(3);
    message[4..4 + body.len()].copy_from_slice(body);
    let mac1 = mac(&KEY, &message[..size - 32]);
    message[size - 32..size - 16].copy_from_slice(&mac1);
    if kind & 0x40 != 0 {
        let port = if input.once_in(8) { port ^ 1 } else { port };
        let mac2 = mac(&cookie(secret, address, port), &message[..size - 16]);
        message[size - 16..].copy_from_slice(&mac2);
    }
    if kind & 0x80 != 0 && input.once_in(2) {
        let at = input.choice(size);
        message[at] ^= input.u8();
        message.truncate(if input.once_in(4) { input.choice(size) } else { size });
        message.resize(message.len().max(1), 0);
    }
    message
}
