//! Whether a submit was executed.
//!
//! wgpu cannot be asked: on Metal a command buffer that the system has ended counts as done like any other (wgpu-hal 30,
//! `Fence::get_latest`), and the host would read what an earlier one has left. So each submit ends with a copy of a number
//! that the host has never used before to where the host reads, and the host looks whether it has arrived.

use super::GpuError;

/// A number on the device, each time another.
#[derive(Debug)]
pub(super) struct Number {
    buffer: wgpu::Buffer,
    value: u64,
}

impl Number {
    pub const BYTES: u64 = size_of::<u64>() as u64;

    /// 0, until it is renewed.
    pub fn new(device: &wgpu::Device) -> Number {
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let descriptor =
            wgpu::BufferDescriptor { label: Some("number"), size: Number::BYTES, usage, mapped_at_creation: false };
        Number { buffer: device.create_buffer(&descriptor), value: 0 }
    }

    pub fn value(&self) -> u64 {
        self.value
    }

    /// Takes the next value, for submits from now on.
    pub fn renew(&mut self, queue: &wgpu::Queue) {
        self.value += 1;
        queue.write_buffer(&self.buffer, 0, &self.value.to_le_bytes());
    }

    /// Has the number lie at `offset` of `to` when what was recorded so far is done.
    pub fn follow(&self, encoder: &mut wgpu::CommandEncoder, to: &wgpu::Buffer, offset: u64) {
        encoder.copy_buffer_to_buffer(&self.buffer, 0, to, offset, Number::BYTES);
    }
}

/// Which of the numbers that lie one after another in `bytes` is not `value`, if any.
pub(super) fn first_missing(bytes: &[u8], value: u64) -> Option<usize> {
    bytes.chunks_exact(Number::BYTES as usize).position(|number| number != value.to_le_bytes())
}

/// The error of a submit whose number has not arrived.
pub(super) fn unexecuted(at: String) -> GpuError {
    let reason = "its driver told of the work as done, but did not execute it; most often it took too long".to_owned();
    GpuError::Lost { at, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_of_an_earlier_run_is_found() {
        let bytes: Vec<u8> = [7u64, 7, 6, 0].iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(first_missing(&bytes, 7), Some(2));
        assert_eq!(first_missing(&bytes[..16], 7), None);
        assert_eq!(first_missing(&[], 7), None);
    }
}
