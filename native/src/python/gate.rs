//! `Gate`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::gate;
use crate::python::types::Types;

/// The judge of handshake messages, under one key and a secret that its owner changes.
#[pyclass(frozen, module = "meshnode._native")]
pub struct Gate(Mutex<gate::Gate>);

fn key(bytes: &[u8]) -> PyResult<[u8; 32]> {
    bytes.try_into().map_err(|_| PyValueError::new_err("a key of the gate has 32 bytes"))
}

impl Gate {
    /// To judge with.
    pub fn lock(&self) -> MutexGuard<'_, gate::Gate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Gate {
    #[new]
    fn new(mac1_key: &[u8]) -> PyResult<Self> {
        Ok(Self(Mutex::new(gate::Gate::new(key(mac1_key)?))))
    }

    /// What cookies are made with from now on, 32 bytes.
    fn set_secret(&self, secret: &[u8]) -> PyResult<()> {
        self.lock().set_secret(key(secret)?);
        Ok(())
    }

    /// How many more messages may wait before strangers have to prove their address.
    fn set_room(&self, room: i64) {
        self.lock().set_room(room);
    }

    /// Whether strangers have to prove their address.
    fn is_loaded(&self, now: f64) -> bool {
        self.lock().is_loaded(now)
    }

    /// Judge a message that `is_handshake`, of `address`: 4 or 16 bytes, or what names a relayed one.
    fn judge<'py>(
        &self,
        py: Python<'py>,
        message: &[u8],
        address: &[u8],
        port: u16,
        now: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        Types::get(py)?.verdict(py, self.lock().judge(message, address, port, now))
    }
}
