//! The executable form of a kernel: one flat list of operations on scalar registers.
//!
//! WGSL has no recursion, so every call is inlined, and the state of an invocation is its registers and a position. It
//! can therefore pause and resume at barriers.

use naga::BuiltIn;

use super::word::{Map1, Map2, Map3, Rule, Word};

/// A register of an invocation. Function and private variables are held in registers too.
pub type Slot = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Registers,
    Workgroup,
    /// The storage buffer with this index in [`Program::buffers`].
    Storage(u32),
}

/// The number of elements that an index may address.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    Fixed(u32),
    /// The rest of a storage buffer from `first` on, in elements of the index's stride.
    Rest {
        buffer: u32,
        first: u32,
    },
}

/// The offset that stands for an index out of bounds: reads there give 0, writes are dropped.
pub const OUTSIDE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
pub enum Op {
    Copy {
        to: Slot,
        from: Slot,
    },
    /// Copies consecutive registers.
    Move {
        to: Slot,
        from: Slot,
        count: u32,
    },
    Zero {
        to: Slot,
        count: u32,
    },
    Map1 {
        f: Map1,
        to: Slot,
        a: Slot,
    },
    Map2 {
        f: Map2,
        to: Slot,
        a: Slot,
        b: Slot,
    },
    Map3 {
        f: Map3,
        to: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    /// Reports operands that break a rule.
    Check {
        rule: Rule,
        a: Slot,
        b: Slot,
    },
    /// `to = outer + index · stride`, checked.
    Index {
        to: Slot,
        outer: Option<Slot>,
        index: Slot,
        signed: bool,
        count: Count,
        stride: u32,
        variable: u32,
    },
    /// One scalar at `at` plus the register `offset`.
    Load {
        to: Slot,
        memory: Memory,
        at: u32,
        offset: Option<Slot>,
    },
    Store {
        from: Slot,
        memory: Memory,
        at: u32,
        offset: Option<Slot>,
    },
    /// Replaces a scalar of memory by `f(it, value)` and gives what it was, at once for all other invocations. With
    /// `compare` it is replaced only where equal, and the register after `to` tells whether it was.
    Atomic {
        access: AtomicAccess,
        f: Map2,
        to: Slot,
        memory: Memory,
        at: u32,
        offset: Option<Slot>,
        value: Slot,
        compare: Option<Slot>,
    },
    /// Four components of the texel at the registers from `at` on, three coordinates. Outside the texture a load gives 0
    /// and a store does nothing.
    Texel {
        access: TexelAccess,
        registers: Slot,
        buffer: u32,
        at: Slot,
    },
    /// The extent of a texture along an axis.
    Extent {
        to: Slot,
        buffer: u32,
        axis: u32,
    },
    /// Moves a matrix of `side` rows, row-major in registers, from or to memory. The register `stride` is the distance
    /// of its rows in memory, or of its columns if it is `transposed`.
    Matrix {
        access: MatrixAccess,
        registers: Slot,
        side: u32,
        memory: Memory,
        at: u32,
        offset: Option<Slot>,
        stride: Slot,
        transposed: bool,
        /// Size of an element on a device.
        bytes: u32,
        variable: u32,
    },
    /// `to = a · b + c` of matrices.
    MultiplyAdd {
        to: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        side: u32,
    },
    /// Number of elements of `stride` scalars in a storage buffer from `first` on.
    Length {
        to: Slot,
        buffer: u32,
        first: u32,
        stride: u32,
    },
    Jump {
        target: u32,
    },
    Unless {
        condition: Slot,
        target: u32,
    },
    /// `workgroupBarrier` orders accesses to workgroup memory, `storageBarrier` those to storage buffers.
    Barrier {
        workgroup: bool,
        storage: bool,
    },
    /// `subgroupShuffle`: the value of register `from` in lane `lane` of the subgroup. All lanes synchronise here.
    Shuffle {
        to: Slot,
        from: Slot,
        lane: Slot,
    },
    /// Combines a register of all lanes of a subgroup, or of those before. All lanes synchronise here.
    Collective {
        to: Slot,
        from: Slot,
        f: Map2,
        identity: u32,
        over: Over,
    },
    /// `subgroupBallot`: the lanes in which `from` holds, a bit each in four registers. All lanes synchronise here.
    Ballot {
        to: Slot,
        from: Slot,
    },
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicAccess {
    Load,
    Store,
    Update,
}

/// The lanes that a [`Op::Collective`] combines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    All,
    /// Those before, and the lane itself.
    Including,
    Before,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TexelAccess {
    Load,
    Store,
    /// A load whose coordinates are floats, of [0, 1] across the texture. It takes the nearest texel.
    Sample,
}

/// What an operation is to the hardware that executes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: it moves registers, or a modifier of the instruction that reads its result does it.
    Nothing,
    /// A multiply-add of floats.
    Fma,
    /// Other arithmetic of floats at full rate.
    Float,
    /// Quotients, roots and transcendental functions.
    Special,
    /// A sum or difference of integers: where one of them is known, part of an address.
    Sum,
    /// A product of integers: with a sum that takes it, one multiply-add.
    Product,
    /// Other arithmetic of integers, comparisons, selections and conversions.
    Integer,
    /// An integer quotient or remainder.
    Quotient,
    /// The first of so many loads or stores of consecutive scalars that are one instruction, in the variable with this
    /// index in [`Program::variables`].
    Access { scalars: u32, variable: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixAccess {
    Load,
    Store,
}

/// A variable in memory shared by invocations.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub memory: Memory,
    /// Its first scalar, and their number; a storage array is as long as its buffer.
    pub at: u32,
    pub scalars: u32,
    /// Scalars from one element to the next, for each array level.
    pub strides: Vec<u32>,
    /// Size of a scalar on a device, and of workgroup memory before the variable, in bytes.
    pub scalar_bytes: u32,
    pub first_byte: u32,
}

impl Variable {
    /// Names the element that holds a scalar: `sums[3][17]`.
    pub fn element(&self, scalar: u32) -> String {
        let mut rest = scalar - self.at;
        let mut path = self.name.clone();
        for stride in &self.strides {
            path += &format!("[{}]", rest / stride);
            rest %= stride;
        }
        path
    }
}

/// A buffer or texture in the kernel's interface.
#[derive(Clone, Debug)]
pub struct Binding {
    pub group: u32,
    pub binding: u32,
    /// Its place among the bindings, in the order of groups and then of bindings.
    pub rank: u32,
    pub writable: bool,
    pub name: String,
    pub layout: Layout,
}

/// How the scalars that the interpreter holds lie in a buffer's bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// Those before a runtime-sized array, and their extent with padding.
    pub head: Vec<Leaf>,
    pub head_scalars: u32,
    pub head_bytes: u32,
    /// Those of one element of that array, if there is one.
    pub element: Option<Element>,
    /// Coordinates of a texel, if it is a texture, whose elements are texels; else 0.
    pub axes: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    pub leaves: Vec<Leaf>,
    pub scalars: u32,
    pub bytes: u32,
}

/// A scalar in memory, from the beginning of what holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leaf {
    pub scalar: u32,
    pub byte: u32,
    pub kind: naga::Scalar,
}

impl Layout {
    /// Whole elements in so many bytes.
    pub fn elements_in(&self, bytes: u64) -> u64 {
        self.element.as_ref().map_or(0, |it| bytes.saturating_sub(self.head_bytes.into()) / u64::from(it.bytes.max(1)))
    }

    pub fn scalars(&self, elements: u64) -> u64 {
        u64::from(self.head_scalars) + self.element.as_ref().map_or(0, |it| elements * u64::from(it.scalars))
    }

    pub fn bytes(&self, elements: u64) -> u64 {
        u64::from(self.head_bytes) + self.element.as_ref().map_or(0, |it| elements * u64::from(it.bytes))
    }

    /// [scalar, byte, kind] of all that is not padding.
    pub fn leaves(&self, elements: u64) -> impl Iterator<Item = (u64, u64, naga::Scalar)> + '_ {
        let place = |first: [u64; 2], leaf: &Leaf| {
            (first[0] + u64::from(leaf.scalar), first[1] + u64::from(leaf.byte), leaf.kind)
        };
        let tail = self.element.iter().flat_map(move |it| {
            (0..elements).flat_map(move |index| {
                let first = [self.scalars(index), self.bytes(index)];
                it.leaves.iter().map(move |leaf| place(first, leaf))
            })
        });
        self.head.iter().map(move |leaf| place([0, 0], leaf)).chain(tail)
    }
}

/// A kernel as the sanitizer executes it; [`lower`](super::lower) makes it from WGSL.
#[derive(Clone, Debug)]
pub struct Program {
    /// The path that reports show.
    pub(super) file: String,
    pub(super) code: Vec<Op>,
    /// The source line of each operation, and its column, both from 1 on.
    pub(super) lines: Vec<u32>,
    pub(super) columns: Vec<u32>,
    /// Whether each operation is a move that assigns a variable; what it moves may depend on whether it ran.
    pub(super) assigns: Vec<bool>,
    /// Of each branch: the first operation after those that its condition decides of.
    pub(super) untils: Vec<u32>,
    /// What each operation is to hardware.
    pub(super) works: Vec<Work>,
    /// Initial registers: constants in place, everything else zero.
    pub(super) registers: Vec<Word>,
    pub(super) builtins: Vec<(BuiltIn, Slot)>,
    /// Registers of the members of the `var<immediate>` struct, in order.
    pub(super) immediates: Vec<Slot>,
    pub(super) variables: Vec<Variable>,
    pub(super) buffers: Vec<Binding>,
    /// Size of workgroup memory in scalars, and in bytes on a device.
    pub(super) workgroup_scalars: u32,
    pub(super) workgroup_bytes: u32,
    pub(super) workgroup_size: [u32; 3],
}

/// Whether an operation waits for the other lanes of its subgroup.
pub fn gathers(op: &Op) -> bool {
    matches!(op, Op::Shuffle { .. } | Op::Collective { .. } | Op::Ballot { .. })
}

impl Program {
    /// Invocations per workgroup.
    pub fn invocations(&self) -> u32 {
        self.workgroup_size.iter().product()
    }

    /// Workgroup memory in bytes on a device.
    pub fn workgroup_bytes(&self) -> u32 {
        self.workgroup_bytes
    }

    /// Registers per invocation.
    pub fn scalars(&self) -> usize {
        self.registers.len()
    }

    /// Whether both execute the same operations in the same order; their sources may differ.
    pub fn is_same(&self, other: &Program) -> bool {
        // Functions print as addresses.
        let behaviour = |program: &Program| {
            let Program { code, registers, workgroup_scalars, workgroup_size, .. } = program;
            format!("{code:?} {registers:?} {workgroup_scalars} {workgroup_size:?}")
        };
        behaviour(self) == behaviour(other)
    }

    /// Whether the result depends on the subgroup size.
    pub fn has_subgroups(&self) -> bool {
        let tells =
            |&(builtin, _): &(BuiltIn, Slot)| matches!(builtin, BuiltIn::SubgroupSize | BuiltIn::SubgroupInvocationId);
        self.builtins.iter().any(tells) || self.code.iter().any(gathers)
    }

    /// The registers that builtins fill in an invocation, given by its index in its workgroup, and their values.
    pub(super) fn builtin_values(
        &self,
        workgroups: [u32; 3],
        workgroup: [u32; 3],
        index: u32,
        subgroup: u32,
    ) -> impl Iterator<Item = (Slot, u32)> {
        let [width, height, _] = self.workgroup_size;
        let local = [index % width, index / width % height, index / (width * height)];
        let global = [0, 1, 2].map(|axis| workgroup[axis] * self.workgroup_size[axis] + local[axis]);
        self.builtins.iter().flat_map(move |&(builtin, slot)| {
            let subgroups = self.invocations().div_ceil(subgroup);
            let (value, components) = match builtin {
                BuiltIn::GlobalInvocationId => (global, 3),
                BuiltIn::LocalInvocationId => (local, 3),
                BuiltIn::LocalInvocationIndex => ([index; 3], 1),
                BuiltIn::WorkGroupId => (workgroup, 3),
                BuiltIn::NumWorkGroups => (workgroups, 3),
                BuiltIn::SubgroupSize => ([subgroup; 3], 1),
                BuiltIn::SubgroupInvocationId => ([index % subgroup; 3], 1),
                BuiltIn::NumSubgroups => ([subgroups; 3], 1),
                BuiltIn::SubgroupId => ([index / subgroup; 3], 1),
                BuiltIn::WorkGroupSize => (self.workgroup_size, 3),
                other => unreachable!("builtin {other:?} is not lowered"),
            };
            (slot..).zip(value).take(components)
        })
    }

    /// Names the element that holds a scalar of shared memory.
    pub(super) fn element(&self, memory: Memory, scalar: u32) -> String {
        let holds = |v: &&Variable| {
            v.memory == memory && v.at <= scalar && (matches!(memory, Memory::Storage(_)) || scalar < v.at + v.scalars)
        };
        self.variables.iter().find(holds).map_or_else(|| format!("{memory:?} {scalar}"), |v| v.element(scalar))
    }
}
