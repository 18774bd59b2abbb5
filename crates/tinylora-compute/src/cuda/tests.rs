//! The device layer on the emulated driver, which the C++ compiler makes of `emulated/` and the kernels; skipped, with a
//! message, where there is no such compiler.

use super::driver::Driver;
use super::images::{Unit, architecture};
use super::*;
use crate::testing::numbers;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the emulated driver with the norm's kernels; None where that can't be done here.
fn emulated(folder: &Path) -> Option<PathBuf> {
    emulated_with(folder, &["norm"])
}

fn emulated_with(folder: &Path, kernels: &[&str]) -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda");
    let library = folder.join("driver.so");
    let mut command = Command::new("g++");
    command.args(["-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-DEMULATED", "-w"]);
    command.args(cfg!(target_arch = "x86_64").then_some("-mtls-dialect=gnu2"));
    command.arg("-I").arg(here.join("emulated")).arg("-I").arg(here.join("kernels")).args(["-x", "c++"]);
    command.args(["emulate", "hopper", "driver"].map(|name| here.join(format!("emulated/{name}.cpp"))));
    command.args(kernels.iter().map(|name| here.join(format!("kernels/{name}.cu"))));
    match command.arg("-o").arg(&library).status() {
        Ok(status) => {
            assert!(status.success(), "the emulated driver compiles");
            Some(library)
        }
        Err(error) => {
            eprintln!("skipped: no g++ here ({error})");
            None
        }
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tinylora-cuda-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

/// Images that the emulated driver takes for machine code.
fn images(folder: &Path) -> Images {
    let images = Images { folder: folder.to_owned(), compile: false };
    if let Err(CudaError::Image { file, .. }) = images.read(&Unit { name: "norm", head: None }, "sm_80") {
        std::fs::write(file, b"emulated").expect("writable");
    }
    images
}

#[test]
fn without_a_driver_the_error_says_so() {
    let images = Images { folder: PathBuf::new(), compile: false };
    let nowhere = Path::new("no-such-folder/libcuda.so.1");
    let error = Device::open(0, Some(1 << 20), images, Some(nowhere)).err().expect("no driver");
    assert!(matches!(error, CudaError::NoDriver { .. }), "{error}");
    assert!(error.to_string().contains("use the cpu device"), "{error}");
}

#[test]
fn a_library_without_the_functions_is_an_old_driver() {
    if cfg!(target_os = "linux") {
        let error = Driver::load(Some(Path::new("libc.so.6"))).err().expect("libc is no driver");
        assert!(matches!(error, CudaError::OldDriver { .. }), "{error}");
    }
}

#[test]
fn a_kernel_runs_and_memory_keeps_to_the_budget() {
    let folder = folder("run");
    let Some(driver) = emulated(&folder) else { return };
    let device =
        Device::open(0, Some(10_000), images(&folder), Some(&driver)).expect("the emulated device opens");
    let (rows, width) = (3, 70);
    let (x, weight) = (numbers(1, rows * width), numbers(2, width));
    let mut expected = numbers(3, rows * width);
    let out = device.upload("out", &expected).expect("in the budget");
    for (row, out) in x.chunks(width).zip(expected.chunks_mut(width)) {
        let squares: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
        let scale = 1.0 / (squares / width as f64 + 1e-5).sqrt();
        for ((out, &x), &w) in out.iter_mut().zip(row).zip(&weight) {
            *out = (f64::from(*out) + f64::from(x) * scale * f64::from(w)) as f32;
        }
    }
    let (x, weight) =
        (device.upload("x", &x).expect("fits"), device.upload("weight", &weight).expect("fits"));
    let launch = Launch { blocks: [rows as u32, 1, 1], threads: 256, shared: 0 };
    let width = Argument::Int(width as i32);
    let arguments = [x.argument(), weight.argument(), Argument::Float(1e-5), width, out.argument()];
    // SAFETY: these are the arguments of the kernel, with buffers of rows · width and width numbers.
    unsafe { device.launch("rms_norm_add", launch, &arguments) }.expect("it runs");
    device.synchronize().expect("nothing failed");
    let mut found = vec![0.0; expected.len()];
    out.read(&mut found).expect("readable");
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
    // SAFETY: nothing is launched, as there is no such kernel.
    let error = unsafe { device.launch("rms_norm_mul", launch, &arguments) }.expect_err("no such kernel");
    assert!(matches!(error, CudaError::NoKernel { .. }), "{error}");

    let used = device.used();
    assert_eq!(used, (2 * 3 * 70 + 70) * 4);
    let error = device.buffer::<f32>("keys and values", 3000).err().expect("over the budget");
    assert!(error.to_string().contains("keys and values needs 12000 bytes"), "{error}");
    assert!(matches!(device.buffer::<u32>("all", usize::MAX), Err(CudaError::OutOfBudget { .. })));
    drop(x);
    assert_eq!(device.used(), used - 3 * 70 * 4);
    let no_image = Images { folder: folder.join("empty"), compile: false };
    let other = Device::open(0, Some(10_000), no_image, Some(&driver)).expect("opens");
    // SAFETY: nothing is launched, as there is no machine code.
    let error = unsafe { other.launch("rms_norm_add", launch, &arguments) }.expect_err("no machine code");
    assert!(matches!(error, CudaError::Image { .. }), "{error}");
    let error = Device::open(3, Some(0), images(&folder), Some(&driver)).err().expect("there are three");
    assert!(matches!(error, CudaError::NoSuchDevice { number: 3, count: 3 }), "{error}");
    assert!(!device.has_wgmma());
    let error = device.with_wgmma(true).err().expect("not its instruction");
    assert!(error.to_string().contains("TINYLORA_CUDA_PRODUCTS=wgmma: emulated has no such"), "{error}");
    std::fs::remove_dir_all(folder).expect("removable");
}

/// Many small buffers through a ring that is far smaller: what came there.
fn through_a_small_ring(device: &Device, careless: bool) -> bool {
    let mut ring = super::queue::Ring::of(64);
    ring.careless = careless;
    let mut before = std::mem::replace(&mut *device.inner().ring.lock().expect("no panic"), ring);
    let numbers: Vec<Vec<u32>> = (0..40).map(|i| (0..25 + i).map(|j| 1000 * i + j).collect()).collect();
    let buffers: Vec<_> =
        numbers.iter().map(|numbers| device.upload("numbers", numbers).expect("fits")).collect();
    let right =
        numbers.iter().zip(&buffers).all(|(numbers, buffer)| buffer.to_vec().expect("readable") == *numbers);
    std::mem::swap(&mut *device.inner().ring.lock().expect("no panic"), &mut before);
    before.free(device.inner().enter().expect("the device"));
    right
}

#[test]
fn nothing_is_waited_for_but_what_must_be_and_a_missing_wait_is_found() {
    let folder = folder("queue");
    let Some(driver) = emulated(&folder) else { return };
    let device = Device::open(0, None, images(&folder), Some(&driver)).expect("the emulated device opens");
    assert!(through_a_small_ring(&device, false), "numbers go through the ring as they are");
    assert!(!through_a_small_ring(&device, true), "a ring that doesn't wait must be found out");

    // Results are those of the place in the queue where they were fetched.
    let buffer = device.upload("numbers", &[1u32; 100]).expect("fits");
    let first = buffer.fetch().expect("queued");
    buffer.write(&[2; 100]).expect("queued");
    drop(buffer.fetch().expect("queued"));
    buffer.write(&[3; 100]).expect("queued");
    let last = buffer.fetch().expect("queued");
    assert_eq!(first.wait().expect("there"), [1; 100]);
    assert_eq!(last.wait().expect("there"), [3; 100]);
    drop((buffer, device));
    std::fs::remove_dir_all(folder).expect("removable");
}

#[test]
fn a_graph_keeps_its_arguments_and_its_memory() {
    let folder = folder("graph");
    let Some(driver) = emulated(&folder) else { return };
    let device = Device::open(0, None, images(&folder), Some(&driver)).expect("the emulated device opens");
    let width = 70;
    let weight = device.upload("weight", &vec![1f32; width]).expect("fits");
    let x = device.upload("x", &vec![1f32; width]).expect("fits");
    let out = device.zeroed::<f32>("out", width).expect("fits");
    let add = || -> Result<(), CudaError> {
        let launch = Launch { blocks: [1, 1, 1], threads: 256, shared: 0 };
        let between = device.buffer::<f32>("between", width)?;
        between.copy_from(&x)?;
        let (epsilon, width) = (Argument::Float(0.0), Argument::Int(width as i32));
        let arguments = [between.argument(), weight.argument(), epsilon, width, out.argument()];
        // SAFETY: these are the arguments of the kernel, with buffers of `width` numbers.
        unsafe { device.launch("rms_norm_add", launch, &arguments) }
    };
    add().expect("it runs");
    let graph = device.record(add).expect("recorded");
    let used = device.used();
    let mean = |out: &DeviceBuffer<f32>| out.to_vec().expect("readable").iter().sum::<f32>() / width as f32;
    assert_eq!(mean(&out), 1.0, "what is recorded does not run");
    graph.launch().expect("queued");
    x.write(&vec![-1.0; width]).expect("queued");
    (0..3).for_each(|_| graph.launch().expect("queued"));
    assert_eq!((mean(&out), device.graph_launches()), (-1.0, 4));
    // Memory that only the graph has is not given to others.
    let (x_there, out_there) = (x.clone(), out.clone());
    drop((x, weight, out));
    assert_eq!(device.used(), used);
    x_there.write(&vec![2.0; width]).expect("queued");
    graph.launch().expect("queued");
    assert_eq!(mean(&out_there), 0.0);
    drop((x_there, out_there));
    assert_eq!(device.used(), used);
    drop(graph);
    assert_eq!(device.used(), 0);
    // A recording that fails leaves nothing behind.
    let failed = device.record(|| Err(CudaError::NoDevice)).err().expect("it failed");
    assert!(matches!(failed, CudaError::NoDevice), "{failed}");
    device.upload("after", &[1u32]).expect("nothing is recorded any more");
    drop(device);
    std::fs::remove_dir_all(folder).expect("removable");
}

/// bf16 numbers as rows on the GPU, and what they are. What fills rows up is NaN, which must never be read.
fn bf16_rows(device: &Device, seed: u32, rows: usize, width: usize) -> (product::Rows, Vec<f64>) {
    let bits: Vec<u16> = numbers(seed, rows * width).iter().map(|x| (x.to_bits() >> 16) as u16).collect();
    let stride = product::padded(width);
    let mut padded = vec![0x7fff_u16; rows * stride];
    for (padded, row) in padded.chunks_mut(stride).zip(bits.chunks(width)) {
        padded[..width].copy_from_slice(row);
    }
    let values = bits.iter().map(|&x| f64::from(f32::from_bits(u32::from(x) << 16))).collect();
    let data = device.upload("rows", &padded).expect("fits");
    (product::Rows::new(&data, rows, width), values)
}

/// A product's operands on the GPU, and Σ x W with and without bias and side path.
struct Product {
    x: product::Rows,
    w: product::Matrix,
    bias: Option<DeviceBuffer<f32>>,
    side: product::Side,
    plain: Vec<f64>,
    full: Vec<f64>,
}

impl Product {
    /// (M, N, K); `back`: x is dy, and W is (K, N).
    fn new(device: &Device, (m, n, k): (usize, usize, usize), back: bool) -> Self {
        let rank = 3;
        let (x, xs) = bf16_rows(device, 1, m, k);
        let (w, ws) = if back { bf16_rows(device, 2, k, n) } else { bf16_rows(device, 2, n, k) };
        let w = product::Matrix { data: w.data, rows: w.rows, columns: w.width };
        let (bias, z, panel) = (numbers(3, n), numbers(4, m * 2 * rank), numbers(5, rank * n));
        let (mut plain, mut full) = (Vec::new(), Vec::new());
        for (row, z) in xs.chunks(k).zip(z.chunks(2 * rank)) {
            for column in 0..n {
                let w = |i: usize| if back { ws[i * n + column] } else { ws[column * k + i] };
                let sum: f64 = row.iter().enumerate().map(|(i, x)| x * w(i)).sum();
                let at = if column < n / 3 { rank } else { 0 };
                let added: f64 =
                    (0..rank).map(|s| f64::from(z[at + s]) * f64::from(panel[s * n + column])).sum();
                plain.push(sum);
                full.push(sum + added + if back { 0.0 } else { f64::from(bias[column]) });
            }
        }
        let upload = |values: &[f32]| device.upload("numbers", values).expect("fits");
        let (z, panel) = (upload(&z), upload(&panel));
        let side = product::Side { z, panel, stride: 2 * rank, rank, ends: [n / 3, n], starts: [rank, 0, 0] };
        Self { x, w, bias: (!back).then(|| upload(&bias)), side, plain, full }
    }

    fn run(&self, device: &Device, x: &product::Rows, full: bool, out: product::Out<'_>) {
        let side = full.then_some(&self.side);
        match &self.bias {
            Some(bias) => product::forward(device, x, &self.w, full.then_some(bias), side, out),
            None => product::backward(device, x, &self.w, side, out),
        }
        .expect("queued");
    }

    /// Unrounded, of some of the rows; their z goes along.
    fn of_rows(&self, device: &Device, first: usize, rows: usize) -> Vec<f32> {
        let n = self.plain.len() / self.x.rows;
        let out = device.buffer("out", rows * n).expect("fits");
        let side = product::Side { z: self.side.z.part(first * 6, rows * 6), ..self.side.clone() };
        let part = Self { side, bias: self.bias.clone(), ..self.without_numbers() };
        part.run(device, &self.x.range(first, rows), true, product::Out::F32(&out));
        out.to_vec().expect("readable")
    }

    fn without_numbers(&self) -> Self {
        let (x, w, side) = (self.x.clone(), self.w.clone(), self.side.clone());
        Self { x, w, bias: None, side, plain: Vec::new(), full: Vec::new() }
    }
}

fn largest_difference<T: Copy + Into<f64>>(found: &[T], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(&a, b)| (a.into() - b).abs()).fold(0.0, f64::max)
}

#[test]
fn products_of_odd_sizes_are_right_by_either_instruction() {
    let folder = folder("products");
    let Some(driver) = emulated_with(&folder, &["product", "wgmma"]) else { return };
    for name in Images::file_names("sm_90a") {
        std::fs::write(folder.join(name), b"emulated").expect("writable");
    }
    let open = |wgmma: bool| {
        let device =
            Device::open(2, None, images(&folder), Some(&driver)).expect("the emulated Hopper opens");
        device.with_wgmma(wgmma).expect("it has it")
    };
    let devices = [open(false), open(true)];
    for back in [false, true] {
        for sizes @ (m, n, _) in [(1, 5, 36), (7, 70, 100), (33, 136, 72), (100, 9, 130), (300, 140, 65)] {
            for device in &devices {
                let what = format!("{sizes:?}, back: {back}, wgmma: {}", device.has_wgmma());
                let given = Product::new(device, sizes, back);
                let numbers = vec![0.5f32; m * n];
                let out = device.upload("out", &numbers).expect("fits");
                given.run(device, &given.x, false, product::Out::F32(&out));
                let off = largest_difference(&out.to_vec().expect("readable"), &given.plain);
                assert!(off < 1e-4, "{what}: off by {off}");
                given.run(device, &given.x, true, product::Out::F32(&out));
                let off = largest_difference(&out.to_vec().expect("readable"), &given.full);
                assert!(off < 1e-4, "{what} with bias and side path: off by {off}");
                out.write(&numbers).expect("queued");
                given.run(device, &given.x, true, product::Out::Add(&out));
                let added: Vec<f64> = given.full.iter().map(|x| x + 0.5).collect();
                let off = largest_difference(&out.to_vec().expect("readable"), &added);
                assert!(off < 1e-4, "{what}, added: off by {off}");
                let data = device.zeroed("rows", m * product::padded(n)).expect("fits");
                let rows = product::Rows::new(&data, m, n);
                given.run(device, &given.x, true, product::Out::Bf16(&rows));
                let all = data.to_vec().expect("readable");
                let found: Vec<f32> = all
                    .chunks(rows.stride)
                    .flat_map(|row| row[..n].iter().map(|&x| f32::from_bits(u32::from(x) << 16)))
                    .collect();
                let off = largest_difference(&found, &given.full);
                assert!(off < 0.1, "{what}, rounded: off by {off}");
                assert!(
                    all.chunks(rows.stride).all(|row| row[n..].iter().all(|&x| x == 0)),
                    "{what}: beyond"
                );
            }
        }
        // A row's bits are those that it has in any other batch.
        for device in &devices {
            let given = Product::new(device, (200, 136, 200), back);
            let whole = given.of_rows(device, 0, 200);
            for (first, rows) in [(0, 1), (199, 1), (30, 7), (100, 64), (71, 129)] {
                let found = given.of_rows(device, first, rows);
                let same = found.iter().zip(&whole[first * 136..]).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "back: {back}, wgmma: {}: rows {first} + {rows}", device.has_wgmma());
            }
        }
    }
    drop(devices);
    std::fs::remove_dir_all(folder).expect("removable");
}

#[test]
fn every_kernel_with_a_ceiling_is_in_a_file() {
    let ceilings = include_str!("../../../../xtask/kernels/ceilings.json");
    let names: Vec<&str> = ceilings.split('"').skip(1).step_by(2).collect();
    assert!(names.len() > 60, "{}", names.len());
    for name in names {
        assert!(Unit::of(name).is_some(), "{name}");
    }
    assert!(Unit::of("attention_forward_48").is_none() && Unit::of("nothing").is_none());
}

/// With `TINYLORA_CUDA_IMAGES` naming the folder that `cargo xtask kernels --few` has just filled.
#[test]
fn machine_code_is_found_by_the_names_that_the_compiler_gave() {
    let Some(folder) = std::env::var_os("TINYLORA_CUDA_IMAGES") else {
        eprintln!("skipped: TINYLORA_CUDA_IMAGES names no folder of machine code");
        return;
    };
    let images = Images { folder: folder.into(), compile: false };
    for architecture in ["sm_80", "sm_90a"] {
        for kernel in ["product_few_add", "head_pick", "attention_forward_128", "thin_join", "wgmma_8_add"] {
            if kernel.starts_with("wgmma") && architecture != "sm_90a" {
                continue;
            }
            let unit = Unit::of(kernel).expect("a kernel");
            let image = images.read(&unit, architecture).expect("machine code of that name");
            assert!(image.starts_with(b"\x7fELF"), "{kernel} for {architecture}");
        }
    }
}

#[test]
fn gpus_and_head_sizes_that_are_served() {
    assert_eq!(architecture(9, 0), Some("sm_90a"));
    assert_eq!((architecture(8, 6), architecture(7, 5), architecture(10, 0)), (Some("sm_80"), None, None));
    assert_eq!((padded_head(24), padded_head(128), padded_head(257)), (Some(32), Some(128), None));
}

/// With NVRTC at hand (`TINYLORA_NVRTC` or where it is looked for): what isn't compiled yet is, and kept.
#[test]
fn machine_code_is_compiled_once_and_kept() {
    let folder = folder("compile");
    let images = Images { folder: folder.clone(), compile: true };
    let unit = Unit::of("embed").expect("a kernel");
    match images.read(&unit, "sm_80") {
        Err(error @ CudaError::NoCompiler { .. }) => eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}"),
        Ok(image) => {
            assert!(image.starts_with(b"\x7fELF"), "machine code");
            let kept = Images { folder: folder.clone(), compile: false }.read(&unit, "sm_80").expect("kept");
            assert_eq!(image, kept);
            assert!(Images::file_names("sm_80").iter().any(|name| folder.join(name).is_file()));
        }
    }
    std::fs::remove_dir_all(folder).expect("removable");
}

#[test]
fn without_a_compiler_the_error_says_what_to_install() {
    let places = super::nvrtc::places();
    assert!(!places.is_empty());
    let error = CudaError::NoCompiler { searched: "a, b".into(), reasons: String::new() }.to_string();
    assert!(error.contains("pip install") && error.contains("a, b"), "{error}");
}
