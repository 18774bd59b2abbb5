//! Bytes of whole rows enter, f32 leave. Quantised blocks are decoded by candle-core.

use std::borrow::Cow;

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::gguf::TensorType;

/// Numbers decoded at a time, so that temporary buffers stay in the cache.
const CHUNK: usize = 1 << 14;

/// `bytes` must hold exactly `out.len()` numbers, whole blocks of them.
pub(crate) fn decode(dtype: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<(), String> {
    let blocks = out.len() / dtype.block_len();
    if !out.len().is_multiple_of(dtype.block_len()) || bytes.len() != blocks * dtype.block_bytes() {
        return Err(format!("{} bytes do not hold {} numbers", bytes.len(), out.len()));
    }
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
        TensorType::Q4_0 => quantised(GgmlDType::Q4_0, bytes, out)?,
        TensorType::Q4_1 => quantised(GgmlDType::Q4_1, bytes, out)?,
        TensorType::Q5_0 => quantised(GgmlDType::Q5_0, bytes, out)?,
        TensorType::Q5_1 => quantised(GgmlDType::Q5_1, bytes, out)?,
        TensorType::Q8_0 => quantised(GgmlDType::Q8_0, bytes, out)?,
        TensorType::Q2K => quantised(GgmlDType::Q2K, bytes, out)?,
        TensorType::Q3K => quantised(GgmlDType::Q3K, bytes, out)?,
        TensorType::Q4K => quantised(GgmlDType::Q4K, bytes, out)?,
        TensorType::Q5K => quantised(GgmlDType::Q5K, bytes, out)?,
        TensorType::Q6K => quantised(GgmlDType::Q6K, bytes, out)?,
        TensorType::Q8K => quantised(GgmlDType::Q8K, bytes, out)?,
    }
    Ok(())
}

fn quantised(dtype: GgmlDType, bytes: &[u8], out: &mut [f32]) -> Result<(), String> {
    // candle panics on misaligned blocks. Mapped GGUF tensors begin at multiples of 8 and blocks have even sizes
    // (Q8_K, the only one with a word in it, a multiple of 4), so this holds for every file that opens.
    if !bytes.as_ptr().addr().is_multiple_of(if dtype == GgmlDType::Q8K { 4 } else { 2 }) {
        return Err("the data are not aligned".into());
    }
    let chunk_bytes = CHUNK / dtype.block_size() * dtype.type_size();
    for (out, bytes) in out.chunks_mut(CHUNK).zip(bytes.chunks(chunk_bytes)) {
        let blocks = dtype.from_data(Cow::Borrowed(bytes));
        match blocks.dequantize(out.len()).map_err(|error| error.to_string())? {
            CpuStorage::F32(values) => out.copy_from_slice(&values),
            other => {
                return Err(format!(
                    "candle gave {:?} instead of f32",
                    candle_core::backend::BackendStorage::dtype(&other)
                ));
            }
        }
    }
    Ok(())
}
