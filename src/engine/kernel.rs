//! A kernel: one WGSL file, what it is specialised by, and how many workgroups of it to start. Data only.
//!
//! Two kinds of numbers reach a shader. *Constants* are module-scope `const`s whose default in the file is replaced
//! before compilation; each combination is a pipeline of its own, so they are kept for what an inner loop gains from:
//! window sizes, strides, tiles. *Immediates* are members of the file's `var<immediate>` struct, set at each dispatch;
//! extents travel this way, so that one pipeline serves all shapes. Tests hold both against the WGSL by reflection. Besides,
//! an alias of `f32` in the file may be made one of `vec4<f32>`, `f16` or `vec4<f16>`; an alias of `u32` that is called after it,
//! with `Bits` behind its name, then stands for `vec4<u32>`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of device a kernel is chosen for. CPU drivers run a workgroup's invocations as SIMD lanes of one core, so
/// barriers and workgroup memory cost there what they save on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceClass {
    Gpu,
    Cpu(Lanes),
    /// A GPU's matrix units (tensor cores) multiply in [`Precision::F16`]: convolutions and matrix products have kernels
    /// for them, all else is as on [`DeviceClass::Gpu`].
    Matrix(Tile),
}

impl DeviceClass {
    /// Each that a kernel may be chosen for.
    pub const ALL: [DeviceClass; 5] = [
        DeviceClass::Gpu,
        DeviceClass::Cpu(Lanes::Four),
        DeviceClass::Cpu(Lanes::Eight),
        DeviceClass::Matrix(Tile::Eight),
        DeviceClass::Matrix(Tile::Sixteen),
    ];
}

impl fmt::Display for DeviceClass {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            DeviceClass::Gpu => f.pad("gpu"),
            DeviceClass::Cpu(lanes) => f.pad(&format!("cpu {}", lanes.count())),
            DeviceClass::Matrix(tile) => f.pad(&format!("matrix {tile}")),
        }
    }
}

/// Bytes of workgroup memory that a kernel takes at most, if every device is to run it.
pub const WORKGROUP_BYTES: u32 = 16_384;
/// The same of a kernel for matrix units, or for the lanes of a CPU driver.
pub const CLASS_WORKGROUP_BYTES: u32 = 32_768;

/// How many values a CPU driver's SIMD vectors hold: 4 in SwiftShader, 8 in Mesa's lavapipe. A vector is a subgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lanes {
    Four,
    Eight,
}

impl Lanes {
    /// As many as fit a subgroup of `size` invocations, if any do.
    pub fn within(size: u32) -> Option<Lanes> {
        [Lanes::Eight, Lanes::Four].into_iter().find(|lanes| lanes.count() <= size as usize)
    }

    pub fn count(self) -> usize {
        match self {
            Lanes::Four => 4,
            Lanes::Eight => 8,
        }
    }
}

/// The square matrices that a device's matrix units multiply: 8 × 8 on Apple's GPUs, 16 × 16 on NVIDIA's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tile {
    #[serde(rename = "8x8")]
    Eight,
    #[serde(rename = "16x16")]
    Sixteen,
}

impl Tile {
    /// Rows, and columns, of a matrix.
    pub fn side(self) -> usize {
        match self {
            Tile::Eight => 8,
            Tile::Sixteen => 16,
        }
    }
}

/// `8x8` or `16x16`.
impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{0}x{0}", self.side())
    }
}

/// What convolutions and matrix products round their factors to. Sums are f32, and so is every value that something else
/// reads: what is read as a factor alone is stored as it is rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "program", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Nothing is rounded
    #[default]
    F32,
    /// Half precision, on the device's matrix units; factors beyond ±65504 become infinite
    F16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
        })
    }
}

/// A number of one of WGSL's 32-bit scalar types.
#[derive(Clone, Copy, PartialEq)]
pub enum Scalar {
    U32(u32),
    I32(i32),
    F32(f32),
}

impl Scalar {
    /// The 32 bits as they are laid out in an immediate.
    pub fn to_bits(self) -> u32 {
        match self {
            Scalar::U32(value) => value,
            Scalar::I32(value) => value as u32,
            Scalar::F32(value) => value.to_bits(),
        }
    }

    /// The WGSL type name.
    pub fn type_name(self) -> &'static str {
        match self {
            Scalar::U32(_) => "u32",
            Scalar::I32(_) => "i32",
            Scalar::F32(_) => "f32",
        }
    }
}

/// Prints a WGSL literal.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Scalar::U32(value) => write!(f, "{value}u"),
            Scalar::I32(value) => write!(f, "{value}i"),
            Scalar::F32(value) => write!(f, "{value:?}f"),
        }
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<u32> for Scalar {
    fn from(value: u32) -> Self {
        Scalar::U32(value)
    }
}

impl From<usize> for Scalar {
    /// # Panics
    /// When the extent does not fit 32 bits; no device holds such a buffer.
    fn from(value: usize) -> Self {
        Scalar::U32(u32::try_from(value).expect("an extent fits 32 bits"))
    }
}

impl From<i32> for Scalar {
    fn from(value: i32) -> Self {
        Scalar::I32(value)
    }
}

impl From<f32> for Scalar {
    fn from(value: f32) -> Self {
        Scalar::F32(value)
    }
}

/// The constant that says which matrices a kernel multiplies.
pub(crate) const TILE: &str = "TILE";
/// The constant that says how many lanes hand each other values.
const LANES: &str = "LANES";

/// Largest number of workgroups in one dimension that every device allows.
const MAX_WORKGROUPS: usize = 65_535;

/// One dispatch: which shader, specialised how, over which grid. Bindings follow from the primitive: its inputs in order
/// as `var<storage, read>`, then its output as `var<storage, read_write>`, all in group 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Path under `shaders/` without the extension, also the label in plans, profiles and tests: `conv2d/input`.
    pub name: &'static str,
    /// Values for the file's module-scope `const`s.
    pub constants: Vec<(&'static str, Scalar)>,
    /// Those of the file's aliases of `f32` that stand for `vec4<f32>` instead: of what is bound so, four neighbours are
    /// loaded, computed or stored at once.
    pub vectors: Vec<&'static str>,
    /// Operands that may be stored in f16, by binding, inputs first: the alias of `f32` that stands for their elements.
    pub storable: Vec<(usize, &'static str)>,
    /// Those of these aliases that stand for `f16`, or `vec4<f16>`.
    pub halves: Vec<&'static str>,
    /// Values for the members of the file's `var<immediate>` struct, in the order of declaration.
    pub immediates: Vec<(&'static str, Scalar)>,
    workgroups: [u32; 3],
}

impl Kernel {
    /// A kernel of one workgroup with the file's own defaults.
    pub fn new(name: &'static str) -> Self {
        Kernel {
            name,
            constants: Vec::new(),
            vectors: Vec::new(),
            storable: Vec::new(),
            halves: Vec::new(),
            immediates: Vec::new(),
            workgroups: [1, 1, 1],
        }
    }

    /// Replaces the initialiser of the module-scope `const name`.
    pub fn constant(mut self, name: &'static str, value: impl Into<Scalar>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    /// The class without which a device does not run the kernel, if there is one.
    pub fn needs(&self) -> Option<DeviceClass> {
        self.tile().map(DeviceClass::Matrix).or_else(|| self.lanes().map(DeviceClass::Cpu))
    }

    /// Has the alias stand for `vec4<f32>`.
    pub fn vector(mut self, alias: &'static str) -> Self {
        self.vectors.push(alias);
        self
    }

    /// Says that an operand of so many elements, for which the alias stands, may be stored in f16: if they fill whole words.
    pub fn storable(mut self, binding: usize, alias: &'static str, elements: usize) -> Self {
        if elements.is_multiple_of(2) {
            self.storable.push((binding, alias));
        }
        self
    }

    /// Whether the operand may be stored in f16.
    pub fn is_storable(&self, binding: usize) -> bool {
        self.storable.iter().any(|&(at, _)| at == binding)
    }

    /// The kernel with all in f16 that may be stored so, if there is any.
    pub fn halved(&self) -> Option<Kernel> {
        let halves: Vec<&'static str> = self.storable.iter().map(|&(_, alias)| alias).collect();
        (!halves.is_empty()).then(|| Kernel { halves, ..self.clone() })
    }

    /// Has the operand stored in f16, if it may be.
    pub fn store_half(&mut self, binding: usize) {
        self.halves.extend(self.storable.iter().find(|(at, _)| *at == binding).map(|(_, alias)| alias));
    }

    /// Whether the operand is stored in f16.
    pub fn is_half(&self, binding: usize) -> bool {
        self.storable.iter().any(|(at, alias)| *at == binding && self.halves.contains(alias))
    }

    /// What the kernel shares with all that are compiled to the same pipeline, and with no other.
    pub fn specialisation(&self) -> String {
        format!("{} {:?} {:?} {:?}", self.name, self.constants, self.vectors, self.halves)
    }

    /// Sets the next member of the `var<immediate>` struct.
    pub fn immediate(mut self, name: &'static str, value: impl Into<Scalar>) -> Self {
        self.immediates.push((name, value.into()));
        self
    }

    /// The matrices that the kernel multiplies on matrix units, if it does: then it rounds its factors to f16.
    pub fn tile(&self) -> Option<Tile> {
        let (_, side) = self.constants.iter().find(|(name, _)| *name == TILE)?;
        [Tile::Eight, Tile::Sixteen].into_iter().find(|tile| *side == tile.side().into())
    }

    /// The lanes of the SIMD vectors that the kernel is written for, if it hands values from lane to lane.
    pub fn lanes(&self) -> Option<Lanes> {
        let (_, count) = self.constants.iter().find(|(name, _)| *name == LANES)?;
        [Lanes::Four, Lanes::Eight].into_iter().find(|lanes| *count == lanes.count().into())
    }

    /// Sets the lanes that hand each other values.
    pub fn with_lanes(self, lanes: Lanes) -> Self {
        self.constant(LANES, lanes.count())
    }

    /// Sets the matrices that the kernel multiplies.
    pub fn with_tile(self, tile: Tile) -> Self {
        self.constant(TILE, tile.side())
    }

    /// Workgroups in x, y and z: none is 0 or more than every device allows.
    pub fn workgroups(&self) -> [u32; 3] {
        self.workgroups
    }

    /// Enough workgroups for `invocations`, `workgroup_size` in each. Counts beyond the limit of one dimension are folded
    /// into y: shaders recover the flat workgroup index as `id.y * num_workgroups.x + id.x` and guard against the surplus.
    ///
    /// # Panics
    /// As [`grid`](Kernel::grid), beyond 65535² workgroups.
    pub fn over(self, invocations: usize, workgroup_size: usize) -> Self {
        self.over_layers(invocations, workgroup_size, 1)
    }

    /// As [`over`](Kernel::over), for each of `layers` in z.
    ///
    /// # Panics
    /// As [`grid`](Kernel::grid), which does not fold z.
    pub fn over_layers(self, invocations: usize, workgroup_size: usize, layers: usize) -> Self {
        let groups = invocations.div_ceil(workgroup_size).max(1);
        let rows = groups.div_ceil(MAX_WORKGROUPS);
        self.grid([groups.div_ceil(rows), rows, layers])
    }

    /// Exactly these workgroups.
    ///
    /// # Panics
    /// When a dimension is 0 or exceeds 65535: such a kernel has to fold its grid, see [`Kernel::over`].
    pub fn grid(mut self, workgroups: [usize; 3]) -> Self {
        assert!(
            workgroups.iter().all(|count| (1..=MAX_WORKGROUPS).contains(count)),
            "{}: a grid of {workgroups:?} workgroups is outside 1..={MAX_WORKGROUPS}",
            self.name
        );
        self.workgroups = workgroups.map(|count| count as u32);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_grids_fold_into_y_and_cover_every_invocation() {
        for count in [1, 64, 65, 64 * 65_535, 64 * 65_535 + 1, 1 << 28] {
            let [x, y, z] = Kernel::new("any").over(count, 64).workgroups().map(|n| n as usize);
            assert!(x <= MAX_WORKGROUPS && y <= MAX_WORKGROUPS && z == 1);
            assert!(x * y * 64 >= count && (x * y - y) * 64 < count, "{count}: {x} × {y}");
        }
    }

    #[test]
    fn no_dimension_of_a_grid_exceeds_what_every_device_allows() {
        assert_eq!(Kernel::new("any").over_layers(64 * 65_536, 64, 65_535).workgroups(), [32_768, 2, 65_535]);
        let refused: [fn() -> Kernel; 4] = [
            || Kernel::new("any").over_layers(64, 64, 65_536),
            || Kernel::new("any").over_layers(64, 64, 0),
            || Kernel::new("any").grid([1, 65_536, 1]),
            || Kernel::new("any").over(65_535 * 65_535 + 1, 1),
        ];
        for (index, grid) in refused.into_iter().enumerate() {
            assert!(std::panic::catch_unwind(grid).is_err(), "{index} was accepted");
        }
    }

    #[test]
    fn literals_are_typed() {
        assert_eq!(Scalar::from(3u32).to_string(), "3u");
        assert_eq!(Scalar::from(0.5f32).to_string(), "0.5f");
        assert_eq!(Scalar::from(-2i32).to_string(), "-2i");
    }
}
