//! Bytes of Python's buffers, for the time of one call.
//!
//! This is the only place where the kernel looks at memory that it does not own. What makes it sound: the buffer
//! is held while the slice is in use (so it is neither freed nor resized), it is contiguous, and nobody else
//! writes to it meanwhile. The last is the contract of every call: "its buffers are the call's until it returns".
//! Without the GIL another thread of the program could break it, as it could with `encrypt_into`.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::prelude::*;

/// From this many bytes on a batch is worth releasing the GIL for. Taking it back costs as much as sealing a
/// small packet, and far more when another thread has taken it meanwhile.
pub const RELEASE_FROM: usize = 16 * 1024;

/// Bytes to read.
pub struct Input(PyBuffer<u8>);

/// Bytes to read and write.
pub struct Output(PyBuffer<u8>);

fn contiguous(buffer: &PyBuffer<u8>) -> PyResult<()> {
    if buffer.is_c_contiguous() { Ok(()) } else { Err(PyBufferError::new_err("the buffer has gaps")) }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Input {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let buffer = PyBuffer::get(&object)?;
        contiguous(&buffer)?;
        Ok(Self(buffer))
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Output {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let buffer = PyBuffer::get(&object)?;
        contiguous(&buffer)?;
        if buffer.readonly() {
            return Err(PyBufferError::new_err("the buffer is read-only"));
        }
        Ok(Self(buffer))
    }
}

impl Input {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        if self.0.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: see above; the buffer has that many bytes, and at least one, so its pointer is not null.
        unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast(), self.0.len_bytes()) }
    }

    /// The same bytes to write as well, or still only to read, as the buffer allows.
    pub fn into_output(self) -> Result<Output, Input> {
        if self.0.readonly() { Err(self) } else { Ok(Output(self.0)) }
    }
}

impl Output {
    /// The bytes, none of which may be among those of `input`.
    pub fn bytes_beside(&mut self, input: &Input) -> PyResult<&mut [u8]> {
        let start = |buffer: &PyBuffer<u8>| buffer.buf_ptr() as usize;
        let (read, written) = (start(&input.0), start(&self.0));
        if read < written + self.0.len_bytes() && written < read + input.0.len_bytes() {
            return Err(PyValueError::new_err("the output overlaps what is read"));
        }
        Ok(self.bytes())
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        if self.0.len_bytes() == 0 {
            return &mut [];
        }
        // SAFETY: see above; besides, this borrows the only handle to the buffer that the call has.
        unsafe { std::slice::from_raw_parts_mut(self.0.buf_ptr().cast(), self.0.len_bytes()) }
    }
}
