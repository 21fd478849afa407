//! One turn of the data plane without a question to Python: receive, open, write; read, seal, send.
//!
//! Python decides a flow once: which session, which socket, which destination, and until when. The fast path
//! repeats that for what the tunnel has to send, and hands back what it cannot decide. What goes wrong is handed
//! back too: the one place that knows what to do about an error is the caller's. The twin of
//! `meshnode/engine/fast_path.py`.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use nix::errno::Errno;

use crate::allowed_ips::{AllowedIps, NO_PEER};
use crate::gate::{Gate, Verdict, is_handshake};
use crate::open::Batch;
use crate::seal::{MAX_UNIT_SEGMENTS, Sealed, seal_superpacket};
use crate::sys;
use crate::turn::{Flow, Heard, Message, Moved, Run, Sent, Settings, Socket, Tables, Turn};
use crate::virtio::HEADER_SIZE;

/// The greatest TUN read, and receive (reference §5.4, §6.4).
const TUN_BUFFER_SIZE: usize = 68 * 1024;
const RECEIVE_BUFFER_SIZE: usize = 65536;
/// What one superpacket can become, at most.
const SEAL_BUFFER_SIZE: usize = 256 * 1024;
/// Bytes from which on waiting for more to send is not worth it.
const FLUSH_AT: usize = 32 * 1024;
const OUT_SIZE: usize = SEAL_BUFFER_SIZE + 2 * FLUSH_AT;

/// What one direction may do in one turn, so that neither starves the other or the rest of the program.
const MAX_BYTES: usize = 512 * 1024;
const MAX_READS: usize = 64;
const MAX_RECEIVES: usize = 256;
/// Datagrams that one turn hands to Python.
const MAX_MESSAGES: usize = 64;
/// Peers, and sources of theirs, that one look at what was moved is about.
const MAX_MOVED: usize = 64;
/// Bytes of one send over IPv6 (reference §6.3): also over IPv4, which would take 20 more.
const MAX_RUN: usize = 65473;

/// The flows and the buffers. A buffer is used by one call at a time.
pub struct FastPath<H> {
    tun: RawFd,
    flows: HashMap<i64, Flow>,
    /// Peers that Python has heard of since the flows were cleared.
    known: HashSet<i64>,
    moved: Moved<H>,
    batch: Batch<H>,
    read: Box<[u8]>,
    out: Box<[u8]>,
    received: Box<[u8]>,
    opened: Box<[u8]>,
    used: usize,
    run: Run,
}

fn buffer(size: usize) -> Box<[u8]> {
    vec![0; size].into_boxed_slice()
}

impl<H> FastPath<H> {
    /// Between sockets and the tunnel device `tun`, both non-blocking.
    pub fn new(tun: RawFd) -> Self {
        Self {
            tun,
            flows: HashMap::new(),
            known: HashSet::new(),
            moved: Moved::default(),
            batch: Batch::default(),
            read: buffer(TUN_BUFFER_SIZE),
            out: buffer(OUT_SIZE),
            received: buffer(RECEIVE_BUFFER_SIZE),
            opened: buffer(RECEIVE_BUFFER_SIZE),
            used: 0,
            run: Run::default(),
        }
    }

    /// What goes to `peer` takes this way from now on.
    pub fn set_flow(&mut self, peer: i64, flow: Flow) {
        self.flows.insert(peer, flow);
    }

    /// Ask Python about every peer again.
    pub fn clear_flows(&mut self) {
        self.flows.clear();
        self.known.clear();
    }

    /// What was moved since the last call.
    pub fn take_moved(&mut self) -> Moved<H> {
        let moved = std::mem::take(&mut self.moved);
        self.known.extend(moved.heard.iter().map(|heard| heard.entry.peer));
        moved
    }

    /// The TUN read that `Turn::undecided` is about.
    pub fn undecided(&self, turn: &Turn) -> &[u8] {
        &self.read[..turn.undecided]
    }

    /// The bytes of one of `Turn::unsent`.
    pub fn unsent(&self, run: &Run) -> &[u8] {
        &self.out[run.start..run.end]
    }

    /// Receive from `socket` if it is given, then send what the tunnel has if `reads_tun`.
    ///
    /// In this order: what the host answers to a packet lies in the tunnel as soon as that is written.
    pub fn turn(
        &mut self,
        socket: Option<Socket>,
        reads_tun: bool,
        mut tables: Tables<'_, H>,
        settings: Settings,
        now: f64,
    ) -> Turn {
        let mut turn = Turn::default();
        if let Some(socket) = socket {
            self.receive(socket, &mut tables, settings, now, &mut turn);
        }
        if reads_tun {
            self.forward(tables.allowed_ips, settings, now, &mut turn);
        }
        turn.is_news |= self.moved.sent.len() + self.moved.heard.len() > MAX_MOVED;
        turn
    }

    // --- from the tunnel ---

    fn forward(&mut self, allowed_ips: &AllowedIps, settings: Settings, now: f64, turn: &mut Turn) {
        (self.used, self.run) = (0, Run::default());
        let mut bytes = 0;
        for _ in 0..MAX_READS {
            let length = match sys::read(self.tun, &mut self.read) {
                Ok(length) => length,
                Err(Errno::EBADFD | Errno::EBADF | Errno::ENODEV) => {
                    turn.is_tun_gone = true;
                    0
                }
                Err(_) => 0,
            };
            if length == 0 {
                break;
            }
            bytes += length;
            if !self.forward_one(length, allowed_ips, settings, now, turn) {
                turn.undecided = length;
                break;
            }
            if bytes >= MAX_BYTES || !turn.unsent.is_empty() {
                break;
            }
        }
        self.send_run(turn);
    }

    /// Seal the TUN read of `length` bytes. False when Python has to decide about it.
    fn forward_one(
        &mut self,
        length: usize,
        allowed_ips: &AllowedIps,
        settings: Settings,
        now: f64,
        turn: &mut Turn,
    ) -> bool {
        let read = &self.read[..length];
        let peer = read.get(HEADER_SIZE..).map_or(NO_PEER, |packet| allowed_ips.route(packet));
        if peer == NO_PEER {
            self.moved.without_peer += 1;
            return true;
        }
        let Some(flow) = self.flows.get(&peer).filter(|flow| now < flow.until) else { return false };
        let session = Arc::clone(&flow.session);
        if self.used > OUT_SIZE - SEAL_BUFFER_SIZE {
            self.send_run(turn);
            // What the socket did not take stays where it is until the caller has it.
            if turn.unsent.is_empty() {
                (self.used, self.run) = (0, Run::default());
            } else {
                return false;
            }
        }
        let (read, out) = (&self.read[..length], &mut self.out[self.used..]);
        let Settings { mtu, max_unit, .. } = settings;
        match seal_superpacket(&mut session.sending(), session.remote_index, read, out, mtu, max_unit) {
            Err(_) => return false,
            Ok(Sealed { total: 0, .. }) => self.moved.malformed += 1,
            Ok(sealed) => self.add(peer, sealed, turn),
        }
        true
    }

    /// Take what was just sealed: it joins what lies before it, or that is sent.
    fn add(&mut self, peer: i64, sealed: Sealed, turn: &mut Turn) {
        let Sealed { total, stride, unit } = sealed;
        let packets = total.div_ceil(stride);
        match self.moved.sent.iter_mut().rfind(|sent| sent.peer == peer) {
            Some(sent) => {
                sent.packets += packets;
                sent.bytes += total;
            }
            None => self.moved.sent.push(Sent { peer, packets, bytes: total }),
        }
        let base = self.used;
        for offset in (0..total).step_by(unit) {
            let length = unit.min(total - offset);
            if !self.joins(peer, length, stride.min(length)) {
                self.send_run(turn);
                self.run = Run { peer, start: self.used, end: self.used, stride: stride.min(length) };
            }
            self.used = base + offset + length;
            self.run.end = self.used;
        }
        if self.run.end - self.run.start >= FLUSH_AT {
            self.send_run(turn);
        }
    }

    fn joins(&self, peer: i64, length: usize, stride: usize) -> bool {
        let Run { peer: other, start, end, stride: wanted } = self.run;
        let size = end - start;
        size > 0
            && peer == other
            && (stride == wanted || (length == stride && stride < wanted))
            && size % wanted == 0
            && size + length <= MAX_RUN.min(MAX_UNIT_SEGMENTS * wanted)
    }

    fn send_run(&mut self, turn: &mut Turn) {
        let run =
            std::mem::replace(&mut self.run, Run { start: self.used, end: self.used, ..Run::default() });
        if run.start == run.end {
            return;
        }
        let is_sent = turn.unsent.is_empty()
            && self.flows.get(&run.peer).is_some_and(|flow| {
                sys::send(flow.fd, &self.out[run.start..run.end], run.stride, &flow.to).is_ok()
            });
        if !is_sent {
            turn.unsent.push(run);
        }
    }

    // --- from the network ---

    fn receive(
        &mut self,
        socket: Socket,
        tables: &mut Tables<'_, H>,
        settings: Settings,
        now: f64,
        turn: &mut Turn,
    ) {
        let mut bytes = 0;
        for _ in 0..MAX_RECEIVES {
            let Some(received) = sys::receive(socket.fd, &mut self.received) else { break };
            if received.is_truncated {
                self.moved.truncated += 1;
                continue;
            }
            bytes += received.length;
            self.open(&received, socket.number, tables, settings, now, turn);
            if bytes >= MAX_BYTES || turn.messages.len() >= MAX_MESSAGES || !turn.unwritten.is_empty() {
                break;
            }
        }
        self.batch.clear();
    }

    #[allow(clippy::too_many_arguments)]
    fn open(
        &mut self,
        received: &sys::Received,
        socket: i64,
        tables: &mut Tables<'_, H>,
        settings: Settings,
        now: f64,
        turn: &mut Turn,
    ) {
        let source = received.source;
        if received.length <= received.stride && is_handshake(&self.received[..received.length]) {
            self.sort_out(0, received.length, source, tables.gate, now, turn); // most of what a flood is made of
            return;
        }
        self.batch.open_in_place(
            tables.sessions,
            tables.allowed_ips,
            &mut self.received[..received.length],
            Some(received.stride),
            &mut self.opened,
            settings.coalescing,
        );
        for &(offset, length) in &self.batch.units {
            let unit = &self.opened[offset..offset + length];
            if !turn.unwritten.is_empty() || sys::write(self.tun, unit).is_err() {
                turn.unwritten.push(unit.to_vec());
            }
        }
        self.hear(source, socket, turn);
        for number in 0..self.batch.other.len() {
            let (offset, length) = self.batch.other[number];
            self.sort_out(offset, length, source, tables.gate, now, turn);
        }
    }

    /// What is no transport data goes to Python, unless the gate refuses it.
    fn sort_out(
        &mut self,
        offset: usize,
        length: usize,
        source: SocketAddr,
        gate: &mut Gate,
        now: f64,
        turn: &mut Turn,
    ) {
        let datagram = &self.received[offset..offset + length];
        let verdict = is_handshake(datagram).then(|| judge(gate, datagram, source, now));
        match verdict {
            None | Some(Verdict::Admit | Verdict::Reply) => {
                turn.messages.push(Message { verdict, bytes: datagram.to_vec(), source });
            }
            Some(refusal) => self.moved.refused[refusal as usize] += 1,
        }
    }

    /// Take the batch's totals into the books.
    fn hear(&mut self, source: SocketAddr, socket: i64, turn: &mut Turn) {
        self.moved.drops.add(&self.batch.drops);
        for receiver in self.batch.receivers.iter().filter(|receiver| receiver.packets > 0) {
            let entry = &receiver.entry;
            turn.is_news |= !self.known.contains(&entry.peer) && !self.flows.contains_key(&entry.peer);
            let same = |heard: &&mut Heard<H>| {
                heard.source == source && heard.socket == socket && Arc::ptr_eq(&heard.entry, entry)
            };
            match self.moved.heard.iter_mut().rev().find(same) {
                Some(heard) => {
                    heard.packets += receiver.packets;
                    heard.data_packets += receiver.data_packets;
                    heard.bytes += receiver.datagram_bytes;
                }
                None => self.moved.heard.push(Heard {
                    entry: Arc::clone(entry),
                    packets: receiver.packets,
                    data_packets: receiver.data_packets,
                    bytes: receiver.datagram_bytes,
                    source,
                    socket,
                }),
            }
        }
    }
}

fn judge(gate: &mut Gate, message: &[u8], source: SocketAddr, now: f64) -> Verdict {
    match source {
        SocketAddr::V4(from) => gate.judge(message, &from.ip().octets(), from.port(), now),
        SocketAddr::V6(from) => gate.judge(message, &from.ip().octets(), from.port(), now),
    }
}
