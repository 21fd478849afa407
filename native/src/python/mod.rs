//! The module `meshnode._native`: the kernel with the names and the types of its Python twin.
//!
//! `MESHNODE_PURE=1` in the environment makes importing it fail, with that as the reason: this is the one place
//! where the switch is looked at, so whoever imports the module (`meshnode.dataplane.kernel`) needs to know
//! nothing about the environment.

mod batch;
mod buffers;
mod fast_path;
mod gate;
mod parts;
mod session;
mod tables;
mod types;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

const PURE: &str = "MESHNODE_PURE";

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    if std::env::var_os(PURE).is_some_and(|value| !value.is_empty() && value != "0") {
        return Err(PyImportError::new_err(format!("{PURE} is set")));
    }
    module.add_class::<session::Session>()?;
    module.add_class::<tables::SessionTable>()?;
    module.add_class::<tables::AllowedIPs>()?;
    module.add_class::<gate::Gate>()?;
    module.add_class::<fast_path::FastPath>()?;
    module.add_class::<parts::ReplayWindow>()?;
    module.add_class::<parts::Coalescer>()?;
    module.add_function(wrap_pyfunction!(batch::open_batch, module)?)?;
    module.add_function(wrap_pyfunction!(batch::route, module)?)?;
    module.add_function(wrap_pyfunction!(batch::seal_packet, module)?)?;
    module.add_function(wrap_pyfunction!(batch::seal_superpacket, module)?)?;
    module.add_function(wrap_pyfunction!(parts::internet_checksum, module)?)?;
    module.add_function(wrap_pyfunction!(parts::ones_complement_sum, module)?)?;
    module.add_function(wrap_pyfunction!(parts::padding, module)?)?;
    module.add_function(wrap_pyfunction!(parts::segments, module)?)?;
    Ok(())
}
