//! `FastPath`.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::SockaddrStorage;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::fast_path;
use crate::gate::Verdict;
use crate::python::gate::Gate;
use crate::python::session::Session;
use crate::python::tables::{AllowedIPs, SessionTable};
use crate::python::types::Types;
use crate::turn::{Flow, Message, Moved, Settings, Socket, Tables, Turn};

/// Moves packets between sockets and a tunnel device, as far as Python has decided where they go.
///
/// For one thread at a time.
#[pyclass(frozen, module = "meshnode._native")]
pub struct FastPath {
    inner: Mutex<fast_path::FastPath<Py<Session>>>,
    sessions: Py<SessionTable>,
    allowed_ips: Py<AllowedIPs>,
    tunnel: Mutex<(Py<Gate>, Settings)>,
}

impl FastPath {
    fn lock(&self) -> MutexGuard<'_, fast_path::FastPath<Py<Session>>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn descriptor(fd: RawFd) -> PyResult<RawFd> {
    if fd < 0 { Err(PyValueError::new_err("not a file descriptor")) } else { Ok(fd) }
}

/// -1 when it was closed: what is tried with that fails, as anything else may.
fn fileno(sock: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    sock.call_method0(intern!(sock.py(), "fileno"))?.extract()
}

#[pymethods]
impl FastPath {
    /// Between sockets and the tunnel device `tun`, both non-blocking. The rest as in `set_tunnel`.
    #[new]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        tun: RawFd,
        sessions: Py<SessionTable>,
        allowed_ips: Py<AllowedIPs>,
        gate: Py<Gate>,
        mtu: usize,
        max_unit: usize,
        coalescing: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let inner = Mutex::new(fast_path::FastPath::new(descriptor(tun)?));
        let settings = Settings { mtu, max_unit, coalescing: Types::get(py)?.coalescing(coalescing)? };
        Ok(Self { inner, sessions, allowed_ips, tunnel: Mutex::new((gate, settings)) })
    }

    /// Who judges handshake messages; the MTU beyond which nothing is padded; the greatest send; what the tunnel
    /// takes merged.
    fn set_tunnel(
        &self,
        py: Python<'_>,
        gate: Py<Gate>,
        mtu: usize,
        max_unit: usize,
        coalescing: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let settings = Settings { mtu, max_unit, coalescing: Types::get(py)?.coalescing(coalescing)? };
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = (gate, settings);
        Ok(())
    }

    /// What goes to `peer` is sealed with `session` and leaves from `sock` to (host, port, scope) until then.
    ///
    /// Raises ValueError for what is no IP address.
    fn set_flow(
        &self,
        peer: i64,
        session: &Bound<'_, Session>,
        sock: &Bound<'_, PyAny>,
        to: (&str, u16, u32),
        until: f64,
    ) -> PyResult<()> {
        let (host, port, scope) = to;
        let address: IpAddr = host.parse().map_err(|_| PyValueError::new_err("not an IP address"))?;
        let to = match address {
            IpAddr::V4(_) => SocketAddr::new(address, port),
            IpAddr::V6(ipv6) => SocketAddr::V6(SocketAddrV6::new(ipv6, port, 0, scope)),
        };
        let session = Arc::clone(&session.get().0);
        let flow = Flow { session, fd: fileno(sock)?, to: SockaddrStorage::from(to), until };
        self.lock().set_flow(peer, flow);
        Ok(())
    }

    /// Ask Python about every peer again.
    fn clear_flows(&self) {
        self.lock().clear_flows();
    }

    /// Receive from `sock` if it is given, then send what the tunnel has if `reads_tun`.
    ///
    /// `number` is what the caller knows the socket by, for `Heard.socket`. None when that left nothing to do but `take_moved`, some time.
    fn turn<'py>(
        &self,
        py: Python<'py>,
        sock: Option<&Bound<'py, PyAny>>,
        number: i64,
        reads_tun: bool,
        now: f64,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let socket = sock.map(fileno).transpose()?.map(|fd| Socket { fd, number });
        let (sessions, allowed_ips) = (self.sessions.get(), self.allowed_ips.get());
        let (gate, settings) = {
            let tunnel = self.tunnel.lock().unwrap_or_else(PoisonError::into_inner);
            (tunnel.0.clone_ref(py), tunnel.1)
        };
        let gate = gate.get();
        let turn = py.detach(|| {
            let (allowed_ips, gate) = (&allowed_ips.read(), &mut gate.lock());
            let tables = Tables { sessions: &sessions.0, allowed_ips, gate };
            self.lock().turn(socket, reads_tun, tables, settings, now)
        });
        if turn.is_plain() {
            return Ok(None);
        }
        let outcome = outcome(py, Types::get(py)?, &self.lock(), &turn)?;
        Ok(Some(outcome))
    }

    /// What was moved since the last call, and what went no further.
    fn take_moved<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let moved = self.lock().take_moved();
        moved_of(py, Types::get(py)?, &moved)
    }
}

/// `Turn`.
fn outcome<'py>(
    py: Python<'py>,
    types: &Types,
    inner: &fast_path::FastPath<Py<Session>>,
    turn: &Turn,
) -> PyResult<Bound<'py, PyAny>> {
    let undecided = (turn.undecided > 0).then(|| PyBytes::new(py, inner.undecided(turn)));
    let unsent = PyList::empty(py);
    for run in &turn.unsent {
        unsent.append(types.unsent(py, (run.peer, PyBytes::new(py, inner.unsent(run)), run.stride))?)?;
    }
    let (admitted, wanted, other) = (PyList::empty(py), PyList::empty(py), PyList::empty(py));
    for Message { verdict, bytes, source: from } in &turn.messages {
        let list = match verdict {
            None => &other,
            Some(Verdict::Reply) => &wanted,
            Some(_) => &admitted,
        };
        list.append((PyBytes::new(py, bytes), source(py, *from)?))?;
    }
    let unwritten = PyList::new(py, turn.unwritten.iter().map(|unit| PyBytes::new(py, unit)))?;
    types.turn(py, (undecided, unsent, admitted, wanted, other, unwritten, turn.is_tun_gone))
}

/// `Moved`.
fn moved_of<'py>(py: Python<'py>, types: &Types, moved: &Moved<Py<Session>>) -> PyResult<Bound<'py, PyAny>> {
    let sent = PyList::empty(py);
    for one in &moved.sent {
        sent.append(types.sent(py, (one.peer, one.packets, one.bytes))?)?;
    }
    let heard = PyList::empty(py);
    for one in &moved.heard {
        let session = one.entry.handle.bind(py).clone().into_any();
        let from = source(py, one.source)?;
        let fields = (one.entry.peer, session, one.packets, one.data_packets, one.bytes, from, one.socket);
        heard.append(types.heard(py, fields)?)?;
    }
    let drops = types.drop_counts(py, &moved.drops)?;
    for (verdict, count) in moved.refused.iter().enumerate().filter(|(_, count)| **count > 0) {
        drops.set_item(types.refusal(py, verdict), count)?;
    }
    for (count, reason) in [
        (moved.without_peer, "NO_PEER_FOR_DESTINATION"),
        (moved.malformed, "MALFORMED_OUTBOUND_PACKET"),
        (moved.truncated, "TRUNCATED_DATAGRAM"),
    ] {
        if count > 0 {
            drops.set_item(types.reason(py, reason)?, count)?;
        }
    }
    types.moved(py, (sent, heard, drops))
}

/// (host, port, scope).
fn source<'py>(py: Python<'py>, address: SocketAddr) -> PyResult<Bound<'py, PyTuple>> {
    let scope = match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(ipv6) => ipv6.scope_id(),
    };
    (address.ip().to_string(), address.port(), scope).into_pyobject(py)
}
