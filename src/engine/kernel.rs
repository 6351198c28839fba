//! A kernel: one WGSL file, its specialisation, and its number of workgroups. Data only.
//!
//! Two kinds of numbers reach a shader. *Constants* are module-scope `const`s whose default in the file is replaced
//! before compilation. Each combination is its own pipeline, so constants are reserved for what an inner loop profits
//! from: window sizes, strides, tiles. *Immediates* are members of the file's `var<immediate>` struct, set at each
//! dispatch; extents travel this way, so one pipeline serves all shapes. Tests compare both with the WGSL by
//! reflection. In addition, an alias of `f32` in the file may be turned into one of `vec4<f32>`, `f16` or `vec4<f16>`;
//! an alias of `u32` with the same name plus `Bits` then becomes `vec4<u32>`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The class of devices a kernel is chosen for. CPU drivers run the invocations of a workgroup as SIMD lanes of one
/// core, so barriers and workgroup memory cost time there instead of saving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceClass {
    Gpu,
    Cpu(Lanes),
    /// GPUs whose matrix units (tensor cores) multiply in [`Precision::F16`]. Convolutions and matrix products have
    /// kernels for them; all other kernels are those of [`DeviceClass::Gpu`].
    Matrix(Tile),
}

impl DeviceClass {
    /// All classes that a kernel may be chosen for.
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

/// Most workgroup memory, in bytes, of a kernel that every device must run.
pub const WORKGROUP_BYTES: u32 = 16_384;
/// The same for a kernel for matrix units or for the lanes of a CPU driver.
pub const CLASS_WORKGROUP_BYTES: u32 = 32_768;

/// Width of a CPU driver's SIMD vectors: 4 in SwiftShader, 8 in Mesa's lavapipe. A vector is a subgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lanes {
    Four,
    Eight,
}

impl Lanes {
    /// The widest that fits a subgroup of `size` invocations, if any.
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
    /// Rows (and columns) of a matrix.
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
    /// No rounding
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
    /// The 32 bits as stored in an immediate.
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

/// The constant that holds the matrix size of a kernel on matrix units.
pub(crate) const TILE: &str = "TILE";
/// The constant that holds the number of lanes that exchange values.
const LANES: &str = "LANES";

/// Most workgroups in one dimension on every device.
const MAX_WORKGROUPS: usize = 65_535;

/// One dispatch: a shader, its specialisation and its grid. Bindings follow from the primitive: its inputs in order as
/// `var<storage, read>`, then its output as `var<storage, read_write>`, all in group 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Path under `shaders/` without the extension, also the label in plans, profiles and tests: `conv2d/input`.
    pub name: &'static str,
    /// Values for the file's module-scope `const`s.
    pub constants: Vec<(&'static str, Scalar)>,
    /// The file's aliases of `f32` that become `vec4<f32>`: values of these types are loaded, computed and stored four
    /// at a time.
    pub vectors: Vec<&'static str>,
    /// Operands that may be stored as f16: [binding (inputs first), alias of their elements].
    pub storable: Vec<(usize, &'static str)>,
    /// Those of these aliases that become `f16` or `vec4<f16>`.
    pub halves: Vec<&'static str>,
    /// Values for the members of the file's `var<immediate>` struct, in the order of declaration.
    pub immediates: Vec<(&'static str, Scalar)>,
    workgroups: [u32; 3],
}

impl Kernel {
    /// A kernel of one workgroup with the defaults of the file.
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

    /// The device class that the kernel requires, if any.
    pub fn needs(&self) -> Option<DeviceClass> {
        self.tile().map(DeviceClass::Matrix).or_else(|| self.lanes().map(DeviceClass::Cpu))
    }

    /// Turns the alias into `vec4<f32>`.
    pub fn vector(mut self, alias: &'static str) -> Self {
        self.vectors.push(alias);
        self
    }

    /// Declares that an operand with `elements` elements of type `alias` may be stored as f16, if they fill whole
    /// words.
    pub fn storable(mut self, binding: usize, alias: &'static str, elements: usize) -> Self {
        if elements.is_multiple_of(2) {
            self.storable.push((binding, alias));
        }
        self
    }

    /// Whether the operand may be stored as f16.
    pub fn is_storable(&self, binding: usize) -> bool {
        self.storable.iter().any(|&(at, _)| at == binding)
    }

    /// The kernel with all eligible operands stored as f16; `None` if there are none.
    pub fn halved(&self) -> Option<Kernel> {
        let halves: Vec<&'static str> = self.storable.iter().map(|&(_, alias)| alias).collect();
        (!halves.is_empty()).then(|| Kernel { halves, ..self.clone() })
    }

    /// Stores the operand as f16, if eligible.
    pub fn store_half(&mut self, binding: usize) {
        self.halves.extend(self.storable.iter().find(|(at, _)| *at == binding).map(|(_, alias)| alias));
    }

    /// Whether the operand is stored as f16.
    pub fn is_half(&self, binding: usize) -> bool {
        self.storable.iter().any(|(at, alias)| *at == binding && self.halves.contains(alias))
    }

    /// Identifies the pipeline: equal for kernels that compile to the same one, and only for those. `conv2d/input H=7 W=7 X=vec4
    /// X=f16`
    pub fn specialisation(&self) -> String {
        let constants = self.constants.iter().map(|(name, value)| match value {
            Scalar::U32(value) => format!(" {name}={value}"),
            value => format!(" {name}={value}"),
        });
        let of =
            |aliases: &[&str], kind: &str| aliases.iter().map(|alias| format!(" {alias}={kind}")).collect::<String>();
        let vectors = of(&self.vectors, "vec4");
        [self.name.to_owned()].into_iter().chain(constants).chain([vectors, of(&self.halves, "f16")]).collect()
    }

    /// Sets the next member of the `var<immediate>` struct.
    pub fn immediate(mut self, name: &'static str, value: impl Into<Scalar>) -> Self {
        self.immediates.push((name, value.into()));
        self
    }

    /// The matrix size, for a kernel on matrix units; such a kernel rounds its factors to f16.
    pub fn tile(&self) -> Option<Tile> {
        let (_, side) = self.constants.iter().find(|(name, _)| *name == TILE)?;
        [Tile::Eight, Tile::Sixteen].into_iter().find(|tile| *side == tile.side().into())
    }

    /// The SIMD width that the kernel requires, if its lanes exchange values.
    pub fn lanes(&self) -> Option<Lanes> {
        let (_, count) = self.constants.iter().find(|(name, _)| *name == LANES)?;
        [Lanes::Four, Lanes::Eight].into_iter().find(|lanes| *count == lanes.count().into())
    }

    /// Sets the number of lanes that exchange values.
    pub fn with_lanes(self, lanes: Lanes) -> Self {
        self.constant(LANES, lanes.count())
    }

    /// Sets the matrix size.
    pub fn with_tile(self, tile: Tile) -> Self {
        self.constant(TILE, tile.side())
    }

    /// Workgroups in x, y and z, each within the limits of every device.
    pub fn workgroups(&self) -> [u32; 3] {
        self.workgroups
    }

    /// Enough workgroups of `workgroup_size` for `invocations`. A count above the limit of one dimension folds into y:
    /// shaders compute the flat workgroup index as `id.y * num_workgroups.x + id.x` and skip the surplus.
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
    /// When a dimension is 0 or exceeds 65535; fold such a grid with [`Kernel::over`].
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
    fn no_grid_dimension_exceeds_the_limit() {
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
