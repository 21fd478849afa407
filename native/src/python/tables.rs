//! `SessionTable` and `AllowedIPs`.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyFrozenSet;

use crate::allowed_ips;
use crate::python::buffers::Input;
use crate::python::session::Session;
use crate::table::{self, Entry};

/// Receiver index -> (session, peer), for every session that may still receive.
#[pyclass(frozen, module = "meshnode._native")]
pub struct SessionTable(pub table::SessionTable<Py<Session>>);

#[pymethods]
impl SessionTable {
    #[new]
    fn new() -> Self {
        Self(table::SessionTable::default())
    }

    /// Datagrams for `index` are opened with `session` and come from `peer`.
    fn set(&self, index: u32, session: Py<Session>, peer: i64) {
        let entry = Entry { session: Arc::clone(&session.get().0), peer, handle: session };
        // What was there is dropped only after the lock: that may run Python code.
        let _replaced = self.0.write().insert(index, Arc::new(entry));
    }

    /// Forget `index`. Nothing happens when it is unknown.
    fn delete(&self, index: u32) {
        let _removed = self.0.write().remove(&index);
    }

    /// The session of `index` and the peer behind it.
    fn get(&self, py: Python<'_>, index: u32) -> Option<(Py<Session>, i64)> {
        self.0.read().get(&index).map(|entry| (entry.handle.clone_ref(py), entry.peer))
    }

    fn __len__(&self) -> usize {
        self.0.read().len()
    }
}

/// Prefix -> peer, a peer being an integer >= 0 of the caller's choice.
#[pyclass(frozen, module = "meshnode._native")]
pub struct AllowedIPs(RwLock<allowed_ips::AllowedIps>);

impl AllowedIPs {
    /// To look up in.
    pub fn read(&self) -> RwLockReadGuard<'_, allowed_ips::AllowedIps> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, allowed_ips::AllowedIps> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The network address and the length of an `ipaddress.IPv4Network` or `IPv6Network`.
struct Prefix(Vec<u8>, u32);

impl<'a, 'py> FromPyObject<'a, 'py> for Prefix {
    type Error = PyErr;

    fn extract(network: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        // Interned: the interpreter's cache of attributes keeps every other name that it is asked for.
        let py = network.py();
        let address = network.getattr(intern!(py, "network_address"))?.getattr(intern!(py, "packed"))?;
        Ok(Self(address.extract()?, network.getattr(intern!(py, "prefixlen"))?.extract()?))
    }
}

#[pymethods]
impl AllowedIPs {
    #[new]
    fn new() -> Self {
        Self(RwLock::default())
    }

    /// Give `prefix` to `peer`, taking it from another if need be.
    fn insert(&self, prefix: Prefix, peer: i64) -> PyResult<()> {
        let is_prefix = self.write().insert(&prefix.0, prefix.1, peer);
        if is_prefix { Ok(()) } else { Err(PyValueError::new_err("not an IP network")) }
    }

    /// Take `prefix` from `peer`. Nothing happens when it belongs to another or to nobody.
    fn remove(&self, prefix: Prefix, peer: i64) {
        self.write().remove(&prefix.0, prefix.1, peer);
    }

    /// Take all prefixes of `peer`.
    fn remove_peer(&self, peer: i64) {
        self.write().remove_peer(peer);
    }

    /// The owner of the longest prefix around `address` (4 or 16 bytes), or NO_PEER.
    fn lookup(&self, address: Input) -> i64 {
        self.read().lookup(address.bytes())
    }

    /// The prefixes that `peer` owns now.
    fn prefixes_of<'py>(&self, py: Python<'py>, peer: i64) -> PyResult<Bound<'py, PyFrozenSet>> {
        let module = py.import("ipaddress")?;
        let (ipv4, ipv6): (Vec<_>, Vec<_>) = {
            let table = self.read();
            (table.ipv4_prefixes_of(peer).collect(), table.ipv6_prefixes_of(peer).collect())
        };
        let mut networks = Vec::new();
        for (class, found) in [("IPv4Network", ipv4), ("IPv6Network", ipv6)] {
            let class = module.getattr(class)?;
            for prefix in found {
                networks.push(class.call1((prefix,))?);
            }
        }
        PyFrozenSet::new(py, networks)
    }
}
