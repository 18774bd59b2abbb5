//! Bytes of whole rows enter, f32 leave.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::blocks;
use crate::gguf::TensorType;

/// `bytes` must hold exactly `out.len()` numbers, whole blocks of them.
pub(crate) fn decode(dtype: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<(), String> {
    let blocks = out.len() / dtype.block_len();
    if !out.len().is_multiple_of(dtype.block_len()) || bytes.len() != blocks * dtype.block_bytes() {
        return Err(format!("{} bytes do not hold {} numbers", bytes.len(), out.len()));
    }
    let mut each = |decode: fn(&[u8], &mut [f32])| {
        let blocks = bytes.chunks_exact(dtype.block_bytes());
        blocks.zip(out.chunks_exact_mut(dtype.block_len())).for_each(|(block, out)| decode(block, out));
    };
    match dtype {
        TensorType::F32 => {
            let (words, _) = bytes.as_chunks::<4>();
            out.iter_mut().zip(words).for_each(|(x, &word)| *x = f32::from_le_bytes(word));
        }
        TensorType::BF16 => {
            let (words, _) = bytes.as_chunks::<2>();
            let wide = |word| f32::from_bits(u32::from(u16::from_le_bytes(word)) << 16);
            out.iter_mut().zip(words).for_each(|(x, &word)| *x = wide(word));
        }
        TensorType::F16 => {
            let mut buffer = [f16::ZERO; 256];
            for (out, bytes) in out.chunks_mut(buffer.len()).zip(bytes.chunks(2 * buffer.len())) {
                let (words, _) = bytes.as_chunks::<2>();
                buffer.iter_mut().zip(words).for_each(|(x, &word)| *x = f16::from_le_bytes(word));
                buffer[..out.len()].convert_to_f32_slice(out);
            }
        }
        TensorType::Q4_0 => each(blocks::q4_0),
        TensorType::Q4_1 => each(blocks::q4_1),
        TensorType::Q5_0 => each(blocks::q5_0),
        TensorType::Q5_1 => each(blocks::q5_1),
        TensorType::Q8_0 => each(blocks::q8_0),
        TensorType::Q2K => each(blocks::q2_k),
        TensorType::Q3K => each(blocks::q3_k),
        TensorType::Q4K => each(blocks::q4_k),
        TensorType::Q5K => each(blocks::q5_k),
        TensorType::Q6K => each(blocks::q6_k),
        TensorType::Q8K => each(blocks::q8_k),
    }
    Ok(())
}
