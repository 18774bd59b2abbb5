//! Optimizers' steps on very many numbers on the GPU, to the bits of the host's: what would go wrong is looked for before anything
//! is changed.
//!
//! n numbers in f32; blocks of 65536 of them.

use super::device::{Argument, Device, Launch};
use super::error::CudaError;
use super::memory::DeviceBuffer;
use crate::optimizer_step::{NotFinite, Step};

/// Numbers whose squares are one chain of sums.
const BLOCK: usize = 1 << 16;

impl Step {
    fn words(&self, count: usize) -> [u64; 10] {
        let numbers = [self.learning_rate, self.factor, self.keep, self.betas.0, self.betas.1, self.epsilon];
        let mut words = [0; 10];
        words[0] = count as u64;
        let all = numbers.into_iter().chain([self.corrections.0, self.corrections.1]);
        words[1..].iter_mut().zip(all).for_each(|(word, x)| *word = x.to_bits());
        words[9] = u64::from(self.nesterov);
        words
    }
}

/// Waits; the sum of each block's squares, and the first number that is not finite.
pub fn sums_of_squares(
    device: &Device,
    gradient: &DeviceBuffer<f32>,
) -> Result<(Vec<f64>, NotFinite), CudaError> {
    let blocks = gradient.len().div_ceil(BLOCK);
    let sums = device.buffer::<u64>("sums of squares", 2 * blocks)?;
    let count = [gradient.len() as u64];
    let arguments = [gradient.argument(), Argument::Struct(&count), sums.argument()];
    let launch = Launch { blocks: [blocks.div_ceil(64) as u32, 1, 1], threads: 64, shared: 0 };
    // SAFETY: the arguments are the kernel's, with room for all blocks.
    unsafe { device.launch_some("gradient_sums", launch, &arguments)? };
    let sums = sums.to_vec()?;
    let bad = sums.chunks_exact(2).enumerate().find_map(|(block, sum)| not_finite(block, sum[1]));
    Ok((sums.chunks_exact(2).map(|sum| f64::from_bits(sum[0])).collect(), bad))
}

/// struct First of a block.
fn not_finite(block: usize, first: u64) -> NotFinite {
    let (at, value) = (first as u32 as i32, f32::from_bits((first >> 32) as u32));
    usize::try_from(at).ok().map(|at| (block * BLOCK + at, value))
}

/// One step of `parameters` (n) and of the optimizer's `state`, two lists (n) of AdamW or one of SGD: nothing is changed where a
/// number would not stay finite, which is told.
///
/// # Panics
/// If lengths differ, or the state has another number of lists.
pub fn step(
    device: &Device,
    step: &Step,
    gradient: &DeviceBuffer<f32>,
    state: &[DeviceBuffer<f32>],
    parameters: &DeviceBuffer<f32>,
) -> Result<NotFinite, CudaError> {
    let count = parameters.len();
    assert!(gradient.len() == count && state.iter().all(|list| list.len() == count), "lists of one length");
    let (look, change) = match state.len() {
        2 => ("adamw_look", "adamw_step"),
        1 => ("sgd_look", "sgd_step"),
        other => panic!("no optimizer has {other} lists"),
    };
    let words = step.words(count);
    let mut arguments: Vec<Argument<'_>> = vec![Argument::Struct(&words), gradient.argument()];
    arguments.extend(state.iter().map(|list| -> Argument<'_> { list.argument() }));
    arguments.push(parameters.argument());
    let blocks = count.div_ceil(BLOCK);
    let found = device.buffer::<u64>("numbers that are not finite", blocks)?;
    let launch = |blocks: usize| Launch { blocks: [blocks as u32, 1, 1], threads: 256, shared: 0 };
    let looking = [&arguments[..], &[found.argument()]].concat();
    // SAFETY: the arguments are the kernel's, with room as checked.
    unsafe { device.launch_some(look, launch(blocks), &looking)? };
    let found = found.to_vec()?;
    if let Some(bad) = found.iter().enumerate().find_map(|(block, &first)| not_finite(block, first)) {
        return Ok(Some(bad));
    }
    // SAFETY: as above.
    unsafe { device.launch_some(change, launch(count.div_ceil(256)), &arguments)? };
    Ok(None)
}
