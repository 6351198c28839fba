//! Who accessed a scalar of shared memory, as far as it takes to see every race.
//!
//! Invocations run in order: all of a workgroup up to a barrier, one after the other, then all of it up to the next, and
//! workgroups one after the other. So of the reads before a write only the very first can be another workgroup's when any
//! is, and only the first since the barrier another invocation's when any is. Of the writes before an access the last
//! suffices: had an earlier one been unordered with it, that write would have been a race already.

/// One access to a scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Access {
    pub workgroup: u32,
    pub invocation: u32,
    /// Barriers that the workgroup has passed which order this memory.
    pub epoch: u32,
    /// Index of the operation.
    pub operation: u32,
}

impl Access {
    /// Nothing orders accesses of different workgroups within a dispatch.
    fn is_unordered_with(&self, other: &Access) -> bool {
        self.workgroup != other.workgroup || (self.epoch == other.epoch && self.invocation != other.invocation)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Shadow {
    write: Option<Access>,
    /// The first read ever, and the first since the last barrier.
    reads: [Option<Access>; 2],
}

impl Shadow {
    pub fn is_written(&self) -> bool {
        self.write.is_some()
    }

    /// Notes a read; the write that it races with, if there is one.
    pub fn read(&mut self, access: Access) -> Option<Access> {
        let [first, recent] = &mut self.reads;
        first.get_or_insert(access);
        let is_stale = |read: Access| read.workgroup != access.workgroup || read.epoch != access.epoch;
        if recent.is_none_or(is_stale) {
            *recent = Some(access);
        }
        self.write.filter(|write| write.is_unordered_with(&access))
    }

    /// Notes a write; the access that it races with, if there is one.
    pub fn write(&mut self, access: Access) -> Option<Access> {
        let earlier = self.write.replace(access);
        earlier.into_iter().chain(self.reads.into_iter().flatten()).find(|earlier| earlier.is_unordered_with(&access))
    }
}
