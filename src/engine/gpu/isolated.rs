//! One dispatch on buffers of its own, each between guard words.
//!
//! Many drivers keep accesses within the bound range, whatever the kernel asks for. So the guard behind a value is bound
//! along with it, and accesses that go astray reach it; only where a kernel asks for its output's length is that exact.

use super::GpuError;
use super::device::Device;
use super::executor::{Dispatch, Part, encode, read_back};
use super::halves;
use crate::engine::kernel::Kernel;
use crate::engine::shaders::specialise;
use crate::engine::tensor::{Shape, Tensor};

/// A NaN that no arithmetic makes: before and behind every value.
pub(super) const GUARD: u32 = 0x7fc5_a5a5;
/// Another one, where the output is to be written.
const UNWRITTEN: u32 = 0x7fca_cafe;
/// The same of f16, twice in a word.
const UNWRITTEN_HALVES: u32 = 0x7dca_7dca;
/// Bytes of guard on either side, if the device's alignment does not ask for more: 65,536 elements, since what a wrong extent
/// leads astray goes far.
pub(super) const GUARD_BYTES: u64 = 1 << 18;

/// What a dispatch left behind.
#[derive(Clone, Debug)]
pub struct Isolated {
    pub output: Tensor,
    /// What it did beyond computing its output: words overwritten outside, elements left unwritten.
    pub damage: Option<String>,
}

impl Device {
    /// Runs `kernel` once. Each operand lies in a buffer of its own, between guard words, in f16 where the kernel has it so;
    /// the output is filled with NaN.
    ///
    /// # Errors
    /// When the device refuses or is lost.
    pub fn run_isolated(&self, kernel: &Kernel, inputs: &[Tensor], output: &Shape) -> Result<Isolated, GpuError> {
        let at = || format!("an isolated run of {}", kernel.name);
        let pipeline = self.pipeline(kernel, inputs.len(), &[])?;
        let guard = GUARD_BYTES.max(u64::from(self.device.limits().min_storage_buffer_offset_alignment));
        let guard_words = (guard / 4) as usize;
        let input = |(binding, tensor): (usize, &Tensor)| match kernel.is_half(binding) {
            true => halves::pack(tensor.data()),
            false => tensor.data().iter().map(|x| x.to_bits()).collect(),
        };
        let in_halves = kernel.is_half(inputs.len());
        let unwritten = match in_halves {
            true => vec![UNWRITTEN_HALVES; output.count() / 2],
            false => vec![UNWRITTEN; output.count()],
        };
        let contents: Vec<Vec<u32>> = inputs.iter().enumerate().map(input).chain([unwritten]).collect();

        let watch = self.watch();
        let mut buffers = Vec::new();
        for content in &contents {
            let buffer = self.buffer(kernel.name, 2 * guard + 4 * content.len() as u64)?;
            let edge = vec![GUARD; guard_words];
            self.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&[&edge, &content[..], &edge].concat()));
            buffers.push(buffer);
        }
        let asks_for_length = specialise(kernel)?.contains("arrayLength");
        let operands = buffers.iter().zip(&contents).enumerate().map(|(binding, (buffer, content))| {
            let behind = if asks_for_length && binding == inputs.len() { 0 } else { guard };
            let size = wgpu::BufferSize::new(4 * content.len() as u64 + behind);
            (binding, wgpu::BufferBinding { buffer, offset: guard, size })
        });
        let bindings = self.bind(kernel.name, &pipeline, operands);
        let dispatch = Dispatch::new(pipeline, bindings, kernel);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        encode(&mut pass, &[dispatch]);
        drop(pass);
        self.submit(encoder);
        watch.end(at, Ok(()))?;

        let mut damage = None;
        let mut result = Vec::new();
        for (binding, (buffer, content)) in buffers.iter().zip(&contents).enumerate() {
            let mut after: Vec<u32> =
                read_back(self, &Part::whole(buffer), 2 * guard + 4 * content.len() as u64, &at())?;
            let operand = if binding < inputs.len() { format!("input {binding}") } else { "the output".to_owned() };
            let is_output = binding == inputs.len();
            let before = |index: usize| match index.checked_sub(guard_words) {
                Some(element) if element < content.len() => content[element],
                _ => GUARD,
            };
            let is_inside = |index: &usize| (guard_words..guard_words + content.len()).contains(index);
            let changed =
                (0..after.len()).find(|index| after[*index] != before(*index) && !(is_output && is_inside(index)));
            if let Some(index) = changed {
                let place = index as i64 - guard_words as i64;
                damage.get_or_insert(format!("word {place} of {operand} (of {}) was overwritten", content.len()));
            }
            after.truncate(guard_words + content.len());
            result = after.split_off(guard_words);
        }
        let is_unwritten: Vec<bool> = match in_halves {
            true => halves::bits(&result).map(|bits| bits == UNWRITTEN_HALVES as u16).collect(),
            false => result.iter().map(|&bits| bits == UNWRITTEN).collect(),
        };
        if let Some(first) = is_unwritten.iter().position(|&it| it) {
            let (count, all) = (is_unwritten.iter().filter(|&&it| it).count(), output.count());
            let first = output.coordinates(first);
            damage.get_or_insert(format!(
                "{count} of {all} elements of the output were never written, the first at {first:?}"
            ));
        }
        let data = match in_halves {
            true => halves::unpack(&result),
            false => result.into_iter().map(f32::from_bits).collect(),
        };
        Ok(Isolated { output: Tensor::new(output.clone(), data), damage })
    }
}
