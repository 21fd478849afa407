//! `Session`.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use zeroize::Zeroizing;

use crate::aead::KEY_SIZE;
use crate::python::types::Types;
use crate::session;

/// One pair of transport keys (whitepaper 5.4.5). The send counter never repeats, also when sending fails.
///
/// Python never sees the keys again. The age of a key is the caller's business: it wipes the session, or takes
/// it out of the table, in time.
#[pyclass(frozen, module = "meshnode._native")]
pub struct Session(pub Arc<session::Session>);

fn key(bytes: &[u8]) -> PyResult<Zeroizing<[u8; KEY_SIZE]>> {
    let mut key = Zeroizing::new([0; KEY_SIZE]);
    if bytes.len() != KEY_SIZE {
        return Err(PyValueError::new_err("ChaCha20Poly1305 key must be 32 bytes."));
    }
    key.copy_from_slice(bytes);
    Ok(key)
}

#[pymethods]
impl Session {
    #[new]
    fn new(send_key: &[u8], receive_key: &[u8], local_index: u32, remote_index: u32) -> PyResult<Self> {
        let session = session::Session::new(&*key(send_key)?, &*key(receive_key)?, local_index, remote_index);
        Ok(Self(Arc::new(session)))
    }

    /// The index that the peer puts into what it sends us.
    #[getter]
    fn local_index(&self) -> u32 {
        self.0.local_index
    }

    /// The index that we put into what we send.
    #[getter]
    fn remote_index(&self) -> u32 {
        self.0.remote_index
    }

    /// The counter that the next sealed datagram gets.
    #[getter]
    fn send_counter(&self) -> u64 {
        self.0.sending().counter
    }

    #[setter]
    fn set_send_counter(&self, counter: u64) {
        self.0.sending().counter = counter;
    }

    /// True when nothing more may be sealed.
    #[getter]
    fn is_spent(&self) -> bool {
        self.0.sending().is_spent()
    }

    /// Take `count` consecutive counters and return the first. Raises SessionSpent; then none is taken.
    fn reserve(&self, py: Python<'_>, count: u64) -> PyResult<u64> {
        let mut sending = self.0.sending();
        sending.reserve(count).map(|(_, first)| first).map_err(|_| Types::session_spent(py))
    }

    /// Forget the keys. Sealing then raises SessionSpent, what arrives counts as EXPIRED_KEY.
    fn wipe(&self) {
        self.0.wipe();
    }

    fn __repr__(&self) -> String {
        format!(
            "<Session local_index={:#010x} remote_index={:#010x}>",
            self.0.local_index, self.0.remote_index
        )
    }
}
