//! Values that go in and out on the device: from buffers of an application to feeds, and from slots and states to it.

use std::collections::hash_map::Entry;

use super::GpuError;
use super::executor::{Executor, Feed, Part, States, Transfer};
use crate::engine::plan::{Operand, Place};
use crate::engine::tape::Value;
use crate::engine::tensor::Shape;

/// Refuses what does not fit a value of this shape.
fn fits(
    name: &str,
    shape: &Shape,
    slice: wgpu::BufferSlice,
    usages: wgpu::BufferUsages,
    alignment: u64,
) -> Result<Part, GpuError> {
    let (buffer, offset, bytes) = (slice.buffer(), slice.offset(), slice.size());
    let missing: Vec<&str> = (usages - buffer.usage()).iter_names().map(|(name, _)| name).collect();
    let obstacles = [
        (bytes != shape.bytes(), format!("it has {bytes} bytes, and {shape:?} of f32 takes {}", shape.bytes())),
        (!missing.is_empty(), format!("it was made without the usage {}", missing.join(" and "))),
        (!offset.is_multiple_of(alignment), format!("it begins at byte {offset}, which is no multiple of {alignment}")),
    ];
    match obstacles.into_iter().find(|(stands, _)| *stands) {
        Some((_, reason)) => Err(GpuError::Buffer { name: name.to_owned(), reason }),
        None => Ok(Part { buffer: buffer.clone(), offset }),
    }
}

impl Executor {
    pub(super) fn own_feed(&self, name: &str) -> Result<&Feed, GpuError> {
        let feed = self.feeds.get(name).ok_or_else(|| GpuError::Unknown { kind: "feed", name: name.to_owned() })?;
        match feed.is_bound {
            true => {
                let reason = "the feed is bound to another buffer, so write to that or bind this one".to_owned();
                Err(GpuError::Buffer { name: name.to_owned(), reason })
            }
            false => Ok(feed),
        }
    }

    /// Sets a feed for the runs from now on by a copy on the device, which the next run begins with. It copies what the work
    /// that was submitted before that run has left in the slice; after the run was handed over the buffer may be written.
    ///
    /// The slice has exactly the bytes of the feed's shape, f32 in row-major order, and begins at a multiple of 4. The buffer
    /// is of the executor's device, which wgpu cannot check for one of another `wgpu::Instance`, and has the usage `COPY_SRC`. When
    /// the next run fails, the feed has to be set again.
    ///
    /// # Errors
    /// When the plan has no such feed, the slice is not as said, or the feed is [bound](Executor::bind_feed).
    pub fn feed_from(&mut self, name: &str, slice: wgpu::BufferSlice) -> Result<(), GpuError> {
        let feed = self.own_feed(name)?;
        let from = fits(name, &feed.shape, slice, wgpu::BufferUsages::COPY_SRC, wgpu::COPY_BUFFER_ALIGNMENT)?;
        let arrival = Transfer { from, to: feed.part.clone(), bytes: feed.shape.bytes() };
        let mut arrivals = self.arrivals.borrow_mut();
        arrivals.retain(|other| other.to != arrival.to);
        arrivals.push(arrival);
        drop(arrivals);
        self.unset.remove(name);
        Ok(())
    }

    /// Has the kernels read a feed where it lies, without a copy, in every run from now on: each sees what the work submitted
    /// before it has left in the slice. The executor holds the buffer until another one is bound or it is dropped; the buffer
    /// must be neither mapped nor destroyed when a run is handed over. Kernels only read it.
    ///
    /// The slice has exactly the bytes of the feed's shape, f32 in row-major order, and begins at a multiple of the device's
    /// `min_storage_buffer_offset_alignment`. The buffer is of the executor's device, as in [`feed_from`](Executor::feed_from),
    /// and has the usage `STORAGE`; where the plan fetches the feed itself or copies it to a state, `COPY_SRC` too. The
    /// dispatches that read the feed are bound anew, so this is done once rather than before each run.
    ///
    /// # Errors
    /// When the plan has no such feed, the slice is not as said, or the buffer is one that the dispatches write.
    pub fn bind_feed(&mut self, name: &str, slice: wgpu::BufferSlice) -> Result<(), GpuError> {
        let Some((key, feed)) = self.feeds.get_key_value(name) else {
            return Err(GpuError::Unknown { kind: "feed", name: name.to_owned() });
        };
        let (place, shape) = (Place::Feed(key.clone()), feed.shape.clone());
        let is_fed = |operand: &Operand| operand.place == place;
        let is_copied = self.plan.fetches.iter().any(is_fed) || self.plan.copies().any(|carry| is_fed(&carry.from));
        let copied = if is_copied { wgpu::BufferUsages::COPY_SRC } else { wgpu::BufferUsages::empty() };
        let alignment = u64::from(self.device.device.limits().min_storage_buffer_offset_alignment);
        let part = fits(name, &shape, slice, wgpu::BufferUsages::STORAGE | copied, alignment)?;
        if self.plan.steps.iter().any(|step| self.part(&step.output).buffer == part.buffer) {
            let reason = "it is one that a run writes; feed a copy of it".to_owned();
            return Err(GpuError::Buffer { name: name.to_owned(), reason });
        }

        let bound = Feed { part: part.clone(), shape, is_bound: true };
        let Entry::Occupied(mut entry) = self.feeds.entry(key.clone()) else { unreachable!("it was found") };
        let earlier = entry.insert(bound);
        let reads = self.plan.steps.iter().enumerate().filter(|(_, step)| step.inputs.iter().any(is_fed));
        let dispatches = reads.map(|(index, step)| Ok((index, self.bind(step)?))).collect::<Result<Vec<_>, GpuError>>();
        match dispatches {
            Ok(dispatches) => dispatches.into_iter().for_each(|(index, dispatch)| self.dispatches[index] = dispatch),
            Err(error) => {
                self.feeds.insert(name.into(), earlier);
                return Err(error);
            }
        }
        for (fetch, (from, _)) in self.plan.fetches.iter().zip(&mut self.fetches) {
            if is_fed(fetch) {
                *from = Part { offset: part.offset + fetch.offset, ..part.clone() };
            }
        }
        for (carry, copy) in self.plan.copies().zip(&mut self.copies) {
            if is_fed(&carry.from) {
                copy.from = Part { offset: part.offset + carry.from.offset, ..part.clone() };
            }
        }
        self.arrivals.borrow_mut().retain(|arrival| arrival.to != earlier.part);
        self.unset.remove(name);
        Ok(())
    }

    /// Where a value that the plan fetches lies on the device after a run: exactly its bytes, f32 in row-major order. What is
    /// submitted to the queue between a run and the next sees that run's value; the next run overwrites it, also in clones of
    /// the buffer. Work that reads it waits for nothing on the host, so whether the run was executed is told by
    /// [`wait`](Executor::wait).
    ///
    /// The buffer has the usages `STORAGE`, `COPY_SRC` and `COPY_DST`, unless it is one that was [bound](Executor::bind_feed).
    /// It is not to be written. It is the executor's, and shared with other values of the plan: bytes beyond the slice mean
    /// nothing.
    ///
    /// # Errors
    /// When the plan does not fetch the value, or it is a state that the run replaces at its end.
    pub fn output(&self, value: Value) -> Result<wgpu::BufferSlice<'_>, GpuError> {
        let position = self.position_of(value)?;
        let (fetch, (part, _)) = (&self.plan.fetches[position], &self.fetches[position]);
        if self.plan.copies().any(|carry| carry.state.place == fetch.place) {
            let reason =
                "the run replaces this state at its end; `States::buffer` is where the new one lies".to_owned();
            return Err(GpuError::Buffer { name: fetch.place.to_string(), reason });
        }
        Ok(part.buffer.slice(part.offset..part.offset + fetch.shape.bytes()))
    }
}

impl States {
    /// Where a state lies on the device: f32 in row-major order, in a buffer of its own with the usages `STORAGE`, `COPY_SRC`
    /// and `COPY_DST`. It stays there as long as the states or a plan that names it live. It may be written: runs that are
    /// handed over later see it.
    ///
    /// # Errors
    /// When there is no such state.
    pub fn buffer(&self, name: &str) -> Result<&wgpu::Buffer, GpuError> {
        self.find(name).map(|(buffer, _)| buffer)
    }
}
