//! The accesses to a scalar of shared memory that suffice to detect every race.
//!
//! Invocations run in order: all of a workgroup up to a barrier, one after another, then up to the next; workgroups run
//! one after another. Of the reads before a write it therefore suffices to keep the very first, which is another
//! workgroup's if any read is, and the first since the barrier, which is another invocation's if any is. Of the writes
//! before an access the last suffices: an earlier unordered one would already have raced with that write.

/// One access to a scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Access {
    pub workgroup: u32,
    pub invocation: u32,
    /// Number of barriers ordering this memory that the workgroup has passed.
    pub epoch: u32,
    /// Index of the operation.
    pub operation: u32,
    /// Whether its address depends on contents that the sanitizer chose.
    pub assumed: bool,
}

impl Access {
    /// Nothing orders accesses of different workgroups in one dispatch.
    fn is_unordered_with(&self, other: &Access) -> bool {
        self.workgroup != other.workgroup || (self.epoch == other.epoch && self.invocation != other.invocation)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Shadow {
    write: Option<Access>,
    /// The very first read, and the first since the last barrier.
    reads: [Option<Access>; 2],
}

impl Shadow {
    pub fn is_written(&self) -> bool {
        self.write.is_some()
    }

    /// Records a read; returns the write that it races with, if any.
    pub fn read(&mut self, access: Access) -> Option<Access> {
        let [first, recent] = &mut self.reads;
        first.get_or_insert(access);
        let is_stale = |read: Access| read.workgroup != access.workgroup || read.epoch != access.epoch;
        if recent.is_none_or(is_stale) {
            *recent = Some(access);
        }
        self.write.filter(|write| write.is_unordered_with(&access))
    }

    /// Records an atomic write, which races with none: all accesses of an atomic are atomic.
    pub fn write_atomically(&mut self, access: Access) {
        self.write = Some(access);
    }

    /// Records a write; returns the access that it races with, if any.
    pub fn write(&mut self, access: Access) -> Option<Access> {
        let earlier = self.write.replace(access);
        earlier.into_iter().chain(self.reads.into_iter().flatten()).find(|earlier| earlier.is_unordered_with(&access))
    }
}
