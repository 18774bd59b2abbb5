//! AMX by inline assembly: its intrinsics are not in stable Rust. Tiles 0 to 3 are sums, 4 and 5 the left-hand
//! operand, 6 and 7 the right-hand one; all have sixteen rows of 64 bytes.

use super::TileUnit;
use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// The calling thread's tile registers.
pub struct AmxTiles;

/// Whether the processor has AMX with bf16 and the system lets this process use it. Asked once: the system gives each
/// process the tiles' memory only on request.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_amx() && system_allows())
}

fn has_amx() -> bool {
    const TILES: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    const OSXSAVE: u32 = 1 << 27;
    // Parts of a thread's state that the system saves: the tiles' shape and contents.
    const SAVED: u32 = 1 << 17 | 1 << 18;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    if features & (TILES | BF16) != TILES | BF16 {
        return false;
    }
    let saved: u32;
    // SAFETY: `xgetbv` is there where the system uses it (OSXSAVE).
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") saved, out("edx") _, options(nomem, nostack)) };
    saved & SAVED == SAVED
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
fn system_allows() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: a system call that takes two numbers and changes nothing but this permission.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
    result == 0
}

/// Palette 1; bytes a row of tiles 0 to 7 from byte 16 on, rows from byte 48 on.
#[repr(C, align(64))]
struct Shape([u8; 64]);

static SHAPE: Shape = {
    let mut shape = [0; 64];
    shape[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        shape[16 + 2 * tile] = 64;
        shape[48 + tile] = 16;
        tile += 1;
    }
    Shape(shape)
};

macro_rules! for_tile {
    ($tile:expr, $instruction:literal, $pointer:expr, $stride:expr) => {
        match $tile {
            0 => asm!($instruction, tile = const 0, at = in(reg) $pointer, stride = in(reg) $stride, options(nostack)),
            1 => asm!($instruction, tile = const 1, at = in(reg) $pointer, stride = in(reg) $stride, options(nostack)),
            2 => asm!($instruction, tile = const 2, at = in(reg) $pointer, stride = in(reg) $stride, options(nostack)),
            _ => asm!($instruction, tile = const 3, at = in(reg) $pointer, stride = in(reg) $stride, options(nostack)),
        }
    };
}

// SAFETY (of every block below): the trait's caller vouches for the unit and the pointers. No code between these
// blocks touches tiles: the compiler knows no such registers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl TileUnit for AmxTiles {
    const PRESENT: bool = true;

    #[inline(always)]
    unsafe fn begin() -> Self {
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPE, options(nostack, readonly)) };
        Self
    }

    #[inline(always)]
    unsafe fn zero(&mut self, tile: usize) {
        unsafe {
            match tile {
                0 => asm!("tilezero tmm0", options(nostack, nomem)),
                1 => asm!("tilezero tmm1", options(nostack, nomem)),
                2 => asm!("tilezero tmm2", options(nostack, nomem)),
                _ => asm!("tilezero tmm3", options(nostack, nomem)),
            }
        }
    }

    #[inline(always)]
    unsafe fn load(&mut self, tile: usize, from: *const f32, stride: usize) {
        unsafe { for_tile!(tile, "tileloadd tmm{tile}, [{at} + {stride}*4]", from, stride) }
    }

    #[inline(always)]
    unsafe fn store(&mut self, tile: usize, to: *mut f32, stride: usize) {
        unsafe { for_tile!(tile, "tilestored [{at} + {stride}*4], tmm{tile}", to, stride) }
    }

    #[inline(always)]
    unsafe fn step<const R: usize, const P: usize>(&mut self, a: [*const u32; 2], b: [*const u32; 2]) {
        /// Bytes of a row of either operand.
        const ROW: usize = 64;
        unsafe {
            match (R, P) {
                (1, 1) => asm!(
                    "tileloadd tmm6, [{b0} + {row}]",
                    "tileloadd tmm4, [{a0} + {row}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    a0 = in(reg) a[0], b0 = in(reg) b[0], row = in(reg) ROW, options(nostack, readonly)
                ),
                (1, 2) => asm!(
                    "tileloadd tmm6, [{b0} + {row}]",
                    "tileloadd tmm4, [{a0} + {row}]",
                    "tileloadd tmm7, [{b1} + {row}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    a0 = in(reg) a[0], b0 = in(reg) b[0], b1 = in(reg) b[1], row = in(reg) ROW,
                    options(nostack, readonly)
                ),
                (2, 1) => asm!(
                    "tileloadd tmm6, [{b0} + {row}]",
                    "tileloadd tmm4, [{a0} + {row}]",
                    "tileloadd tmm5, [{a1} + {row}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    a0 = in(reg) a[0], a1 = in(reg) a[1], b0 = in(reg) b[0], row = in(reg) ROW,
                    options(nostack, readonly)
                ),
                _ => asm!(
                    "tileloadd tmm6, [{b0} + {row}]",
                    "tileloadd tmm4, [{a0} + {row}]",
                    "tileloadd tmm7, [{b1} + {row}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{a1} + {row}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    a0 = in(reg) a[0], a1 = in(reg) a[1], b0 = in(reg) b[0], b1 = in(reg) b[1], row = in(reg) ROW,
                    options(nostack, readonly)
                ),
            }
        }
    }

    #[inline(always)]
    unsafe fn idle_step(&mut self) {
        unsafe {
            asm!(
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                options(nostack, nomem)
            );
        }
    }
}

impl Drop for AmxTiles {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: there is a value only after `begin`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
