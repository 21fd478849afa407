//! What goes into a turn of the fast path and what comes out of it: values, no behaviour.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use nix::sys::socket::SockaddrStorage;

use crate::allowed_ips::AllowedIps;
use crate::drops::Drops;
use crate::gate::{Gate, Verdict};
use crate::group::Coalescing;
use crate::session::Session;
use crate::table::{Entry, SessionTable};

/// A socket to receive from.
#[derive(Clone, Copy)]
pub struct Socket {
    /// Non-blocking.
    pub fd: RawFd,
    /// What the caller knows it by.
    pub number: i64,
}

/// What Python decided about a peer.
pub struct Flow {
    /// The keys to seal with.
    pub session: Arc<Session>,
    /// The socket to send from.
    pub fd: RawFd,
    /// Where to.
    pub to: SockaddrStorage,
    /// Monotonic seconds; from then on Python is asked again.
    pub until: f64,
}

/// What was sent to one peer.
#[derive(Clone, Copy)]
pub struct Sent {
    /// Whom it was for.
    pub peer: i64,
    /// Datagrams.
    pub packets: usize,
    /// Bytes of them.
    pub bytes: usize,
}

/// Adjacent units in the output: datagrams of `stride` bytes for one peer, one send.
#[derive(Clone, Copy, Default)]
pub struct Run {
    /// Whom it is for.
    pub peer: i64,
    /// The first byte.
    pub start: usize,
    /// The byte behind the last.
    pub end: usize,
    /// Bytes of each datagram but the last.
    pub stride: usize,
}

/// Authentic transport data of one session from one source.
pub struct Heard<H> {
    /// The session and its peer.
    pub entry: Arc<Entry<H>>,
    /// See [`crate::open::Receiver`].
    pub packets: usize,
    /// See [`crate::open::Receiver`].
    pub data_packets: usize,
    /// UDP payload.
    pub bytes: usize,
    /// Where it came from.
    pub source: SocketAddr,
    /// What the caller knows the socket by.
    pub socket: i64,
}

/// A datagram for Python.
pub struct Message {
    /// None: no handshake message, or none that the gate judges.
    pub verdict: Option<Verdict>,
    /// The datagram.
    pub bytes: Vec<u8>,
    /// Where it came from.
    pub source: SocketAddr,
}

/// What the caller's tables are in this turn.
pub struct Tables<'a, H> {
    /// By receiver index.
    pub sessions: &'a SessionTable<H>,
    /// By inner address.
    pub allowed_ips: &'a AllowedIps,
    /// For handshake messages.
    pub gate: &'a mut Gate,
}

/// What holds for the whole tunnel.
#[derive(Clone, Copy)]
pub struct Settings {
    /// Of the tunnel: no padding beyond it.
    pub mtu: usize,
    /// The greatest send.
    pub max_unit: usize,
    /// What the tunnel takes merged.
    pub coalescing: Coalescing,
}

/// What a turn leaves to Python.
#[derive(Default)]
pub struct Turn {
    /// Length of the TUN read, now in [`crate::fast_path::FastPath::undecided`], that belongs to no valid flow.
    pub undecided: usize,
    /// What the socket did not take, and all after it.
    pub unsent: Vec<Run>,
    /// What Python has to look at.
    pub messages: Vec<Message>,
    /// What the tunnel did not take, and all of the same receive after it.
    pub unwritten: Vec<Vec<u8>>,
    /// The tunnel is gone for good.
    pub is_tun_gone: bool,
    /// What was moved is news, of which Python should know soon.
    pub is_news: bool,
}

impl Turn {
    /// Whether Python need not look at it.
    pub fn is_plain(&self) -> bool {
        self.undecided == 0
            && self.unsent.is_empty()
            && self.messages.is_empty()
            && self.unwritten.is_empty()
            && !self.is_tun_gone
            && !self.is_news
    }
}

/// What went through since Python last asked, and what did not.
pub struct Moved<H> {
    /// What was sealed, per peer; whether it also left, [`Turn::unsent`] says.
    pub sent: Vec<Sent>,
    /// What was received.
    pub heard: Vec<Heard<H>>,
    /// Why transport data went no further.
    pub drops: Drops,
    /// Why handshake messages went no further, by verdict.
    pub refused: [u32; 6],
    /// Packets of the tunnel whose destination no peer has.
    pub without_peer: u32,
    /// Packets of the tunnel whose offload header does not fit them.
    pub malformed: u32,
    /// Receives that did not fit the buffer.
    pub truncated: u32,
}

impl<H> Default for Moved<H> {
    fn default() -> Self {
        Self {
            sent: Vec::new(),
            heard: Vec::new(),
            drops: Drops::default(),
            refused: [0; 6],
            without_peer: 0,
            malformed: 0,
            truncated: 0,
        }
    }
}
