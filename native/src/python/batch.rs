//! The calls that move packets: `route`, `seal_packet`, `seal_superpacket`, `open_batch`.

use std::cell::Cell;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::allowed_ips::NO_PEER;
use crate::open::Batch;
use crate::python::buffers::{Input, Output, RELEASE_FROM};
use crate::python::session::Session;
use crate::python::tables::{AllowedIPs, SessionTable};
use crate::python::types::Types;
use crate::seal;
use crate::virtio::HEADER_SIZE;

type SessionBatch = Box<Batch<Py<Session>>>;

thread_local! {
    /// Working memory of one thread between two batches: no session and no packet stays in it.
    static SPARE: Cell<Option<SessionBatch>> = const { Cell::new(None) };
}

/// Run `work`, without the GIL when it is about so many bytes that this pays.
fn released<T: Send>(py: Python<'_>, bytes: usize, work: impl FnOnce() -> T + Send) -> T {
    if bytes >= RELEASE_FROM { py.detach(work) } else { work() }
}

/// The peer that owns the destination of one TUN read; NO_PEER when nobody does or it is no IP packet.
#[pyfunction]
pub fn route(allowed_ips: &Bound<'_, AllowedIPs>, packet: Input) -> i64 {
    packet.bytes().get(HEADER_SIZE..).map_or(NO_PEER, |packet| allowed_ips.get().read().route(packet))
}

/// One IP packet (nothing: a keepalive) as one datagram. Raises SessionSpent.
#[pyfunction]
pub fn seal_packet<'py>(
    py: Python<'py>,
    session: &Bound<'py, Session>,
    plaintext: Input,
    mtu: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let packet = plaintext.bytes();
    let session = &session.get().0;
    PyBytes::new_with(py, seal::sealed_size(packet.len(), mtu), |out| {
        seal::seal_packet(&mut session.sending(), session.remote_index, packet, out)
            .map_err(|_| Types::session_spent(py))
    })
}

/// Seal one TUN read (virtio_net_hdr and packet) into `out`, as GSO units of at most `max_unit` bytes.
///
/// The units are adjacent, from the start of `out`; all but the last hold the same number of datagrams, 64 at
/// most. The list is empty, and no counter is used, when the offload header does not fit the packet or the
/// result does not fit `out`. Raises SessionSpent, and ValueError when the buffers overlap.
#[pyfunction]
pub fn seal_superpacket<'py>(
    py: Python<'py>,
    session: &Bound<'py, Session>,
    packet: Input,
    mut out: Output,
    mtu: usize,
    max_unit: usize,
) -> PyResult<Bound<'py, PyList>> {
    let types = Types::get(py)?;
    let out = out.bytes_beside(&packet)?;
    let read = packet.bytes();
    let session = &session.get().0;
    let sealed = released(py, read.len(), || {
        seal::seal_superpacket(&mut session.sending(), session.remote_index, read, out, mtu, max_unit)
    });
    let sealed = sealed.map_err(|_| Types::session_spent(py))?;
    let units = PyList::empty(py);
    for offset in (0..sealed.total).step_by(sealed.unit.max(1)) {
        let length = sealed.unit.min(sealed.total - offset);
        units.append(types.unit(py, (offset, length, sealed.stride))?)?;
    }
    Ok(units)
}

/// Open what one receive returned: datagrams of `stride` bytes, the last maybe shorter (reference §2.5).
///
/// Where `datagrams` is writable, transport data in it may be overwritten; where it is read-only, it is copied.
/// `out` must be at least as long as `datagrams` and apart from it, else ValueError; packets never outgrow
/// their datagrams, so that is always enough. A bad datagram costs only itself and is counted under its reason.
#[pyfunction]
#[pyo3(signature = (sessions, allowed_ips, datagrams, stride, out, coalescing = None))]
pub fn open_batch<'py>(
    py: Python<'py>,
    sessions: &Bound<'py, SessionTable>,
    allowed_ips: &Bound<'py, AllowedIPs>,
    datagrams: Input,
    stride: i64,
    mut out: Output,
    coalescing: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let types = Types::get(py)?;
    let coalescing = coalescing
        .map_or(Ok(crate::group::Coalescing { tcp: true, udp: false }), |flag| types.coalescing(flag))?;
    let out = out.bytes_beside(&datagrams)?;
    let total = datagrams.bytes().len();
    if out.len() < total {
        let message = format!("the output has {} bytes, the datagrams {total}", out.len());
        return Err(PyValueError::new_err(message));
    }
    let stride = usize::try_from(stride).ok();
    let (sessions, allowed_ips) = (&sessions.get().0, allowed_ips.get());
    let mut batch = SPARE.take().unwrap_or_default();
    let mut datagrams = datagrams.into_output(); // and let go with the GIL held
    released(py, total, || {
        let allowed_ips = allowed_ips.read();
        match &mut datagrams {
            Ok(datagrams) => {
                batch.open_in_place(sessions, &allowed_ips, datagrams.bytes(), stride, out, coalescing);
            }
            Err(datagrams) => {
                batch.open(sessions, &allowed_ips, datagrams.bytes(), stride, out, coalescing);
            }
        }
    });
    let opened = opened(py, types, &batch);
    batch.clear();
    SPARE.set(Some(batch));
    opened
}

/// `Opened`, of what is in `batch`.
fn opened<'py>(py: Python<'py>, types: &Types, batch: &Batch<Py<Session>>) -> PyResult<Bound<'py, PyAny>> {
    let activity = PyList::empty(py);
    for receiver in batch.receivers.iter().filter(|receiver| receiver.packets > 0) {
        let session = receiver.entry.handle.bind(py).clone().into_any();
        activity.append(types.activity(
            py,
            (
                receiver.entry.peer,
                session,
                receiver.packets,
                receiver.data_packets,
                receiver.datagram_bytes,
                receiver.last_offset,
            ),
        )?)?;
    }
    types.opened(py, PyList::new(py, &batch.units)?, activity, PyList::new(py, &batch.other)?, &batch.drops)
}
