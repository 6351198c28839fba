//! The form that a kernel is executed in: one flat list of operations on scalar registers.
//!
//! WGSL has no recursion, so every call is inlined and an invocation is nothing but its registers and a position. That is
//! what makes it resumable at barriers.

use naga::BuiltIn;

use super::word::{Map1, Map2, Map3, Word};

/// A register of an invocation. Function and private variables live in registers too.
pub type Slot = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Registers,
    Workgroup,
    /// The storage buffer of this index in [`Program::buffers`].
    Storage(u32),
}

/// How many elements an index may reach.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    Fixed(u32),
    /// What is left of a storage buffer from `first` on, in elements of the index' stride.
    Rest {
        buffer: u32,
        first: u32,
    },
}

/// What an index reads as when it was out of bounds; reads there give 0, writes there are dropped.
pub const OUTSIDE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
pub enum Op {
    Copy {
        to: Slot,
        from: Slot,
    },
    /// Consecutive registers to consecutive ones.
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
    /// Reports a divisor of zero.
    Divisor {
        a: Slot,
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
    /// One scalar, from `at` plus the register `offset`.
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
    /// A matrix of `side` rows, which registers hold row by row, from or to memory. Its rows, or its columns where it lies
    /// `transposed`, are as far apart as the register `stride` says.
    Matrix {
        access: MatrixAccess,
        registers: Slot,
        side: u32,
        memory: Memory,
        at: u32,
        offset: Option<Slot>,
        stride: Slot,
        transposed: bool,
        /// Of an element on a device.
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
    /// `subgroupShuffle`: the value that the register `from` has in lane `lane` of the subgroup. All its lanes meet here.
    Shuffle {
        to: Slot,
        from: Slot,
        lane: Slot,
    },
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixAccess {
    Load,
    Store,
}

/// A variable in memory that invocations share.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub memory: Memory,
    /// Its first scalar, and their number; a storage array is as long as its buffer.
    pub at: u32,
    pub scalars: u32,
    /// Scalars from one element to the next, array by array.
    pub strides: Vec<u32>,
}

impl Variable {
    /// The element that holds a scalar: `sums[3][17]`.
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

/// A storage buffer's place in the interface.
#[derive(Clone, Debug)]
pub struct Binding {
    pub binding: u32,
    pub writable: bool,
}

/// A kernel as the sanitizer executes it; [`lower`](super::lower) makes it from WGSL.
#[derive(Clone, Debug)]
pub struct Program {
    /// The path that reports name.
    pub(super) file: String,
    pub(super) code: Vec<Op>,
    /// The source line of each operation.
    pub(super) lines: Vec<u32>,
    /// The registers as an invocation finds them: constants in place, everything else zero.
    pub(super) registers: Vec<Word>,
    pub(super) builtins: Vec<(BuiltIn, Slot)>,
    /// Where the members of the `var<immediate>` struct go, in order.
    pub(super) immediates: Vec<Slot>,
    pub(super) variables: Vec<Variable>,
    pub(super) buffers: Vec<Binding>,
    /// Scalars of workgroup memory, and what they take on a device.
    pub(super) workgroup_scalars: u32,
    pub(super) workgroup_bytes: u32,
    pub(super) workgroup_size: [u32; 3],
}

impl Program {
    /// Invocations of a workgroup.
    pub fn invocations(&self) -> u32 {
        self.workgroup_size.iter().product()
    }

    /// Bytes of workgroup memory that it takes on a device.
    pub fn workgroup_bytes(&self) -> u32 {
        self.workgroup_bytes
    }

    /// Scalars that each invocation keeps.
    pub fn scalars(&self) -> usize {
        self.registers.len()
    }

    /// Whether both execute the same operations in the same order, whatever their sources look like.
    pub fn is_same(&self, other: &Program) -> bool {
        // Functions print as their addresses.
        let behaviour = |program: &Program| {
            let Program { code, registers, workgroup_scalars, workgroup_size, .. } = program;
            format!("{code:?} {registers:?} {workgroup_scalars} {workgroup_size:?}")
        };
        behaviour(self) == behaviour(other)
    }

    /// Whether it depends on how many lanes a subgroup has.
    pub fn has_subgroups(&self) -> bool {
        let tells =
            |&(builtin, _): &(BuiltIn, Slot)| matches!(builtin, BuiltIn::SubgroupSize | BuiltIn::SubgroupInvocationId);
        self.builtins.iter().any(tells) || self.code.iter().any(|op| matches!(op, Op::Shuffle { .. }))
    }

    /// The element that a scalar of shared memory belongs to.
    pub(super) fn element(&self, memory: Memory, scalar: u32) -> String {
        let holds = |v: &&Variable| {
            v.memory == memory && v.at <= scalar && (matches!(memory, Memory::Storage(_)) || scalar < v.at + v.scalars)
        };
        self.variables.iter().find(holds).map_or_else(|| format!("{memory:?} {scalar}"), |v| v.element(scalar))
    }
}
