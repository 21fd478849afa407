//! The classes of `meshnode.dataplane` that both twins use, looked up once.

use pyo3::BoundObject;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

use crate::drops::{Drop, Drops};
use crate::gate::Verdict;
use crate::group::Coalescing;

/// What is made of results, and what arguments are compared with.
pub struct Types {
    tuple_new: Py<PyAny>,
    unit: Py<PyType>,
    activity: Py<PyType>,
    opened: Py<PyType>,
    sent: Py<PyType>,
    unsent: Py<PyType>,
    heard: Py<PyType>,
    turn: Py<PyType>,
    moved: Py<PyType>,
    session_spent: Py<PyType>,
    malformed: Py<PyType>,
    coalescing: [(Py<PyAny>, Coalescing); 4],
    drops: [(Drop, Py<PyAny>); Drop::ALL.len()],
    reasons: Py<PyAny>,
    verdicts: [Py<PyAny>; VERDICTS.len()],
    refusals: [Py<PyAny>; VERDICTS.len()],
}

/// The names of verdicts in Python, by number: those that refuse are reasons too.
const VERDICTS: [&str; 6] =
    ["ADMIT", "REPLY", "INVALID_LENGTH", "INVALID_MAC1", "UNDER_LOAD", "RATE_LIMITED"];

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
        let judgements = py.import("meshnode.dataplane.gate")?.getattr("Verdict")?;
        let (mut verdicts, mut refusals) = (Vec::new(), Vec::new());
        for name in VERDICTS {
            let verdict = judgements.getattr(name)?;
            // ADMIT and REPLY are no reasons; nothing is counted under them.
            refusals.push(reasons.getattr(name).unwrap_or_else(|_| verdict.clone()).unbind());
            verdicts.push(verdict.unbind());
        }
        let (Ok(verdicts), Ok(refusals)) = (verdicts.try_into(), refusals.try_into()) else {
            unreachable!("one for each")
        };
        Ok(Self {
            tuple_new: py.get_type::<PyTuple>().getattr("__new__")?.unbind(),
            unit: class(types, "Unit")?,
            activity: class(types, "Activity")?,
            opened: class(types, "Opened")?,
            sent: class(types, "Sent")?,
            unsent: class(types, "Unsent")?,
            heard: class(types, "Heard")?,
            turn: class(types, "Turn")?,
            moved: class(types, "Moved")?,
            session_spent: class("meshnode.dataplane.sessions", "SessionSpent")?,
            malformed: class("meshnode.dataplane.segmentation", "MalformedSuperpacket")?,
            coalescing: [
                combination(true, false)?,
                combination(true, true)?,
                combination(false, false)?,
                combination(false, true)?,
            ],
            drops,
            reasons: reasons.unbind(),
            verdicts,
            refusals,
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
        let counts = self.drop_counts(py, drops)?;
        self.named_tuple(&self.opened, py, (units, activity, other, counts))
    }

    /// `dict[DropReason, int]`, without those that did not occur.
    pub fn drop_counts<'py>(&self, py: Python<'py>, drops: &Drops) -> PyResult<Bound<'py, PyDict>> {
        let counts = PyDict::new(py);
        if drops.is_empty() {
            return Ok(counts);
        }
        for (reason, name) in &self.drops {
            let count = drops.of(*reason);
            if count > 0 {
                counts.set_item(name, count)?;
            }
        }
        Ok(counts)
    }

    /// The member of `DropReason` with that name.
    pub fn reason<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.reasons.bind(py).getattr(name)
    }

    /// The member of `Verdict`.
    pub fn verdict<'py>(&self, py: Python<'py>, verdict: Verdict) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.verdicts[verdict as usize].bind(py).clone())
    }

    /// The member of `DropReason` that is counted for the verdict with this number.
    pub fn refusal<'a, 'py>(&'a self, py: Python<'py>, verdict: usize) -> &'a Bound<'py, PyAny> {
        self.refusals[verdict].bind(py)
    }

    /// `Sent`.
    pub fn sent<'py>(&self, py: Python<'py>, fields: (i64, usize, usize)) -> PyResult<Bound<'py, PyAny>> {
        self.named_tuple(&self.sent, py, fields)
    }

    /// `Unsent`.
    pub fn unsent<'py>(
        &self,
        py: Python<'py>,
        fields: (i64, Bound<'py, PyBytes>, usize),
    ) -> PyResult<Bound<'py, PyAny>> {
        self.named_tuple(&self.unsent, py, fields)
    }

    /// `Heard`.
    pub fn heard<'py>(
        &self,
        py: Python<'py>,
        fields: (i64, Bound<'py, PyAny>, usize, usize, usize, Bound<'py, PyTuple>, i64),
    ) -> PyResult<Bound<'py, PyAny>> {
        self.named_tuple(&self.heard, py, fields)
    }

    /// `Turn`.
    pub fn turn<'py, F>(&self, py: Python<'py>, fields: F) -> PyResult<Bound<'py, PyAny>>
    where
        F: IntoPyObject<'py, Target = PyTuple>,
    {
        self.named_tuple(&self.turn, py, fields)
    }

    /// `Moved`.
    pub fn moved<'py, F>(&self, py: Python<'py>, fields: F) -> PyResult<Bound<'py, PyAny>>
    where
        F: IntoPyObject<'py, Target = PyTuple>,
    {
        self.named_tuple(&self.moved, py, fields)
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
