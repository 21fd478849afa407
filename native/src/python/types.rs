//! The classes of `meshnode.dataplane` that both twins use, looked up once.

use pyo3::BoundObject;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::drops::{Drop, Drops};
use crate::group::Coalescing;

/// What is made of results, and what arguments are compared with.
pub struct Types {
    tuple_new: Py<PyAny>,
    unit: Py<PyType>,
    activity: Py<PyType>,
    opened: Py<PyType>,
    session_spent: Py<PyType>,
    malformed: Py<PyType>,
    coalescing: [(Py<PyAny>, Coalescing); 4],
    drops: [(Drop, Py<PyAny>); Drop::ALL.len()],
}

impl Types {
    /// They are imported when first needed: by then the package that imports this module is complete.
    pub fn get(py: Python<'_>) -> PyResult<&Self> {
        static TYPES: PyOnceLock<Types> = PyOnceLock::new();
        TYPES.get_or_try_init(py, || Self::load(py))
    }

    fn load(py: Python<'_>) -> PyResult<Self> {
        let class = |module: &str, name: &str| -> PyResult<Py<PyType>> {
            Ok(py.import(module)?.getattr(name)?.cast_into::<PyType>()?.unbind())
        };
        let types = "meshnode.dataplane.types";
        let coalescing = py.import(types)?.getattr("Coalescing")?;
        let combination = |tcp: bool, udp: bool| -> PyResult<_> {
            let value = u8::from(tcp) | u8::from(udp) << 1;
            Ok((coalescing.call1((value,))?.unbind(), Coalescing { tcp, udp }))
        };
        let reasons = py.import("meshnode.dataplane.drops")?.getattr("DropReason")?;
        let mut drops = Vec::new();
        for (reason, name) in Drop::ALL {
            drops.push((reason, reasons.getattr(name)?.unbind()));
        }
        let Ok(drops) = drops.try_into() else { unreachable!("one for each") };
        Ok(Self {
            tuple_new: py.get_type::<PyTuple>().getattr("__new__")?.unbind(),
            unit: class(types, "Unit")?,
            activity: class(types, "Activity")?,
            opened: class(types, "Opened")?,
            session_spent: class("meshnode.dataplane.sessions", "SessionSpent")?,
            malformed: class("meshnode.dataplane.segmentation", "MalformedSuperpacket")?,
            coalescing: [
                combination(true, false)?,
                combination(true, true)?,
                combination(false, false)?,
                combination(false, true)?,
            ],
            drops,
        })
    }

    /// An instance of a named tuple: what its own constructor does, without a call of Python code.
    fn named_tuple<'py, T>(
        &self,
        class: &Py<PyType>,
        py: Python<'py>,
        fields: T,
    ) -> PyResult<Bound<'py, PyAny>>
    where
        T: IntoPyObject<'py, Target = PyTuple>,
    {
        let fields = fields.into_pyobject(py).map_err(Into::into)?.into_any().into_bound();
        self.tuple_new.bind(py).call1((class.bind(py), fields))
    }

    /// `Unit`.
    pub fn unit<'py>(&self, py: Python<'py>, fields: (usize, usize, usize)) -> PyResult<Bound<'py, PyAny>> {
        self.named_tuple(&self.unit, py, fields)
    }

    /// `Activity`.
    pub fn activity<'py>(
        &self,
        py: Python<'py>,
        fields: (i64, Bound<'py, PyAny>, usize, usize, usize, usize),
    ) -> PyResult<Bound<'py, PyAny>> {
        self.named_tuple(&self.activity, py, fields)
    }

    /// `Opened`.
    pub fn opened<'py, U, A, O>(
        &self,
        py: Python<'py>,
        units: U,
        activity: A,
        other: O,
        drops: &Drops,
    ) -> PyResult<Bound<'py, PyAny>>
    where
        U: IntoPyObject<'py>,
        A: IntoPyObject<'py>,
        O: IntoPyObject<'py>,
    {
        let counts = PyDict::new(py);
        for (reason, name) in &self.drops {
            let count = drops.of(*reason);
            if count > 0 {
                counts.set_item(name, count)?;
            }
        }
        self.named_tuple(&self.opened, py, (units, activity, other, counts))
    }

    /// Which packets may be merged.
    pub fn coalescing(&self, flag: &Bound<'_, PyAny>) -> PyResult<Coalescing> {
        // There is one object for each combination, and asking it for its value would run Python code.
        for (object, coalescing) in &self.coalescing {
            if flag.is(object) {
                return Ok(*coalescing);
            }
        }
        let value: u8 = flag.getattr(intern!(flag.py(), "value"))?.extract()?;
        Ok(Coalescing { tcp: value & 1 != 0, udp: value & 2 != 0 })
    }

    /// `SessionSpent`.
    pub fn session_spent(py: Python<'_>) -> PyErr {
        match Self::get(py) {
            Ok(types) => PyErr::from_type(types.session_spent.bind(py).clone(), ()),
            Err(error) => error,
        }
    }

    /// `MalformedSuperpacket`.
    pub fn malformed(py: Python<'_>, message: &'static str) -> PyErr {
        match Self::get(py) {
            Ok(types) => PyErr::from_type(types.malformed.bind(py).clone(), (message,)),
            Err(error) => error,
        }
    }
}
