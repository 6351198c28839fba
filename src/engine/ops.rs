//! The primitives, one file per family: shape rule, backward rule, f64 definition and error bound, and beside it their
//! lowering.
//!
//! The set is closed under differentiation: every backward rule is recorded with the tape methods found here.

use std::any::Any;
use std::str::FromStr;

use crate::engine::case::{Case, CaseError, Parameters, Parts, ShapeClass};
use crate::engine::lower::{Lower, Opaque};
use crate::engine::tape::Primitive;

/// Names of shaders with their texts, as they lie in `shaders/`.
pub(crate) type Shaders = &'static [(&'static str, &'static str)];

/// The shaders of these names.
macro_rules! shaders {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name, ".wgsl")))),*]
    };
}
pub(in crate::engine) use shaders;

/// Declares which primitives of a family are computed by kernels.
macro_rules! lowers {
    ($($primitive:ty),*) => {
        pub(in crate::engine::ops) fn lowering(primitive: &dyn std::any::Any) -> Option<&dyn Lower> {
            None$(.or_else(|| primitive.downcast_ref::<$primitive>().map(|known| known as &dyn Lower)))*
        }
    };
}

pub mod conv2d;
pub mod elementwise;
pub mod layout;
pub mod matmul;
pub mod optimiser;
pub mod patch;
pub mod pool;
pub mod random;
pub mod reduce;
pub mod sort;
pub mod warp;

/// A family of primitives: all that the rest of the program knows about them.
#[derive(Debug)]
pub struct Family {
    /// For example `conv2d`, of `conv2d/input`.
    pub name: &'static str,
    /// Parses the role and parameters of a case.
    describe: fn(&str, &mut Parameters) -> Result<Parts, String>,
    /// The cases that checks run, by name.
    cases: fn() -> Vec<(ShapeClass, String)>,
    /// Its kernels' texts by name.
    pub shaders: Shaders,
    lowering: fn(&dyn Any) -> Option<&dyn Lower>,
}

/// Every family.
pub const FAMILIES: &[Family] = &[
    conv2d::FAMILY,
    patch::CUTDIFF,
    elementwise::FAMILY,
    layout::FAMILY,
    matmul::FAMILY,
    optimiser::FAMILY,
    pool::FAMILY,
    random::FAMILY,
    reduce::FAMILY,
    patch::SOFTBOX,
    patch::SOFTDISC,
    sort::FAMILY,
    warp::FAMILY,
];

/// The cases with their names as strings.
fn listed(cases: &[(ShapeClass, &str)]) -> Vec<(ShapeClass, String)> {
    cases.iter().map(|&(class, name)| (class, name.to_owned())).collect()
}

fn no_role(family: &str, role: &str) -> String {
    format!("there is no `{role}` in {family}")
}

impl Case {
    /// Floating-point operations of one evaluation.
    pub fn flops(&self) -> u64 {
        lowering(&*self.primitive).map_or(0, |lowered| lowered.flops(&self.shapes(), &self.output()))
    }
}

impl FromStr for Case {
    type Err = CaseError;

    fn from_str(name: &str) -> Result<Self, CaseError> {
        let name: String = name.chars().filter(|c| !c.is_whitespace()).collect();
        let parts = |family: &str, role: &str, p: &mut Parameters| {
            let known = FAMILIES.iter().find(|known| known.name == family);
            (known.ok_or_else(|| format!("there is no family `{family}`"))?.describe)(role, p)
        };
        Case::parse(&name, parts).map_err(|reason| CaseError { name, reason })
    }
}

/// All cases of all families with their classes.
///
/// # Panics
/// When a family lists an invalid name; a test parses them all.
pub fn cases() -> Vec<(ShapeClass, Case)> {
    let parse = |(class, name): (ShapeClass, String)| match name.parse() {
        Ok(case) => (class, case),
        Err(error) => panic!("{error}"),
    };
    FAMILIES.iter().flat_map(|family| (family.cases)()).map(parse).collect()
}

/// How a primitive becomes a kernel; `None` if its output shares its input's buffer under another shape.
///
/// # Panics
/// When the primitive belongs to no family here.
pub fn lowering(primitive: &dyn Primitive) -> Option<&dyn Lower> {
    let any: &dyn Any = primitive;
    if any.is::<layout::Reshape>() || any.is::<layout::Pack>() {
        return None;
    }
    let opaque = any.downcast_ref::<Opaque>().map(|opaque| opaque as &dyn Lower);
    let lowered = opaque.or_else(|| FAMILIES.iter().find_map(|family| (family.lowering)(any)));
    Some(lowered.unwrap_or_else(|| panic!("{primitive:?} has no kernel: list it in `lowers!` of its family")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::case::name_of;

    #[test]
    fn case_names_parse_to_their_cases() {
        let cases = cases();
        for (_, case) in &cases {
            let again: Case = case.to_string().parse().unwrap();
            assert_eq!(again.to_string(), case.to_string());
            assert_eq!(format!("{:?}", again.primitive), format!("{:?}", case.primitive));
            assert_eq!(again.inputs, case.inputs);
            assert!(case.to_string().starts_with(case.primitive.name()), "{case}");
        }
        let mut names: Vec<String> = cases.iter().map(|(_, case)| case.to_string()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cases.len(), "a case is listed twice");
    }

    #[test]
    fn applications_are_named_by_their_cases() {
        let cases = cases();
        let mut named = std::collections::BTreeSet::new();
        for (_, case) in &cases {
            let Some(name) = name_of(&*case.primitive, &case.shapes()) else { continue };
            let again: Case = name.parse().unwrap();
            assert_eq!(format!("{:?}", again.primitive), format!("{:?}", case.primitive), "{case} is called {name}");
            assert_eq!(again.shapes(), case.shapes(), "{case} is called {name}");
            named.insert(case.primitive.name());
        }
        let all: std::collections::BTreeSet<_> = cases.iter().map(|(_, case)| case.primitive.name()).collect();
        let unnamed: Vec<_> = all.difference(&named).copied().collect();
        assert_eq!(unnamed, ["layout/pack"], "of these `bench` cannot say what `check` takes");
    }

    #[test]
    fn invalid_case_names_are_refused() {
        for (name, reason) in [
            ("conv2d/input", "form"),
            ("conv3d/input(n=1)", "family"),
            ("layout/twist(x=1)", "twist"),
            ("conv2d/output(n=1,c=6,h=1,w=1,k=4,r=1,s=1,stride=1,padding=0,groups=3)", "divide"),
            ("reduce/sum(x=3x4,from=1)", "`to` is missing"),
            ("reduce/sum(x=3x4,from=1,to=2,by=1)", "by"),
            ("reduce/sum(x=3x4,from=1,to=9)", "axes"),
            ("reduce/sum(x=3x0,from=1,to=2)", "zero"),
            ("pool/mean(x=1x1x2x2,r=1,s=1,stride=1,padding=0)", "there is no `mean` in pool"),
        ] {
            let error = name.parse::<Case>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn case_data_depends_on_the_seed_alone() {
        let case: Case = "elementwise/unary(f=exp,x=131)".parse().unwrap();
        assert_eq!(case.floats(1), case.floats(1));
        assert_ne!(case.floats(1), case.floats(2));
        assert!(case.integers(1)[0].data().iter().all(|x| x.fract() == 0.0 && x.abs() <= 4.0));
    }
}
