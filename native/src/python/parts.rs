//! Parts of the kernel by themselves: tests compare each with its Python twin.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::checksum::sum;
use crate::python::buffers::{Input, Output};
use crate::python::types::Types;
use crate::superpacket::Superpacket;
use crate::{coalesce, padding as pad, replay};

/// The replay window of one receiving key.
#[pyclass(module = "meshnode._native")]
pub struct ReplayWindow(replay::ReplayWindow);

#[pymethods]
impl ReplayWindow {
    #[new]
    fn new() -> Self {
        Self(replay::ReplayWindow::default())
    }

    /// Mark `counter` as seen. False, and nothing changes, if it was seen, is too old or at the limit.
    fn accept(&mut self, counter: u64) -> bool {
        self.0.accept(counter)
    }
}

/// The packets of one batch. Give each to `add` as soon as it lies in the buffer, then call `finish`.
#[pyclass(module = "meshnode._native")]
pub struct Coalescer {
    out: Output,
    coalescer: coalesce::Coalescer,
}

#[pymethods]
impl Coalescer {
    #[new]
    fn new(py: Python<'_>, out: Output, coalescing: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut coalescer = coalesce::Coalescer::default();
        coalescer.start(Types::get(py)?.coalescing(coalescing)?);
        Ok(Self { out, coalescer })
    }

    /// Take the IP packet of `length` bytes at `offset`. Returns where the used part of `out` ends.
    fn add(&mut self, offset: usize, length: usize) -> usize {
        let packet = self.out.bytes()[offset..offset + length].to_vec();
        self.coalescer.add(self.out.bytes(), &packet);
        self.coalescer.end()
    }

    /// Write the offload headers. Returns (offset, length) of each unit, offload header included.
    fn finish(&mut self) -> Vec<(usize, usize)> {
        let mut units = Vec::new();
        self.coalescer.finish(self.out.bytes(), &mut units);
        units
    }
}

/// The folded sum of the words of `data`.
#[pyfunction]
pub fn ones_complement_sum(data: Input) -> u64 {
    sum(data.bytes())
}

/// What goes into the checksum field over `data`.
#[pyfunction]
pub fn internet_checksum(data: Input) -> u64 {
    0xffff - sum(data.bytes())
}

/// Zero bytes that follow a packet of `length` bytes: never beyond the MTU (0: no such limit).
#[pyfunction]
pub fn padding(length: usize, mtu: usize) -> usize {
    pad::padding(length, mtu)
}

/// The packets that one TUN read stands for. Raises MalformedSuperpacket.
#[pyfunction]
pub fn segments<'py>(py: Python<'py>, read: Input) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let superpacket = Superpacket::parse(read.bytes()).map_err(|error| Types::malformed(py, error.0))?;
    (0..superpacket.count)
        .map(|k| {
            let is_last = k + 1 == superpacket.count;
            let size = if is_last { superpacket.last_size } else { superpacket.segment_size };
            PyBytes::new_with(py, size, |out| {
                superpacket.write(k, out);
                Ok(())
            })
        })
        .collect()
}
