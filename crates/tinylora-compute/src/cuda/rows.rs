//! Operations on rows on the GPU: embedding, norms, gated activations, heads with rope, gathering and scattering.
//!
//! M rows, D width. f32 rows lie one after the other; bf16 rows are [`Rows`].

use super::device::{Argument, Device, Launch};
use super::error::CudaError;
use super::memory::DeviceBuffer;
use super::product::{Matrix, Rows, int, pair};

/// One block of 256 threads a row.
fn a_row(rows: usize) -> Launch {
    Launch { blocks: [rows as u32, 1, 1], threads: 256, shared: 0 }
}

/// out (M, D) = `table[token] · scale`.
///
/// # Panics
/// If sizes don't fit.
pub fn embed(
    device: &Device,
    table: &Matrix,
    tokens: &DeviceBuffer<u32>,
    scale: f32,
    out: &DeviceBuffer<f32>,
) -> Result<(), CudaError> {
    assert!(out.len() >= tokens.len() * table.columns, "room for embeddings");
    let arguments = [
        table.data.argument(),
        int(table.stride()),
        tokens.argument(),
        Argument::Float(scale),
        int(table.columns),
        out.argument(),
    ];
    // SAFETY: the arguments are the kernel's, with room as checked; tokens are below the table's rows.
    unsafe { device.launch_some("embed", a_row(tokens.len()), &arguments) }
}

/// `tokens[i] = choices[sources[i]]`, of choices with [`super::head::CHOICE`] numbers; a source below 0 leaves the token.
///
/// # Panics
/// If sizes don't fit.
pub fn next_tokens(
    device: &Device,
    sources: &DeviceBuffer<i32>,
    choices: &DeviceBuffer<u32>,
    tokens: &DeviceBuffer<u32>,
) -> Result<(), CudaError> {
    assert_eq!(sources.len(), tokens.len(), "a source for each token");
    let arguments = [sources.argument(), choices.argument(), int(sources.len()), tokens.argument()];
    let launch = Launch { blocks: [sources.len().div_ceil(256) as u32, 1, 1], threads: 256, shared: 0 };
    // SAFETY: the arguments are the kernel's; sources are rows of the choices.
    unsafe { device.launch_some("next_tokens", launch, &arguments) }
}

/// `x[i] = begun[joins[i]]`, where that is not below 0.
///
/// # Panics
/// If sizes don't fit.
pub fn join(device: &Device, begun: &Rows, joins: &DeviceBuffer<i32>, x: &Rows) -> Result<(), CudaError> {
    assert!(joins.len() == x.rows && begun.width == x.width, "a number for each row");
    let arguments = [begun.data.argument(), int(begun.stride), joins.argument(), int(x.width)];
    let arguments = [&arguments[..], &[x.data.argument(), int(x.stride)]].concat();
    let launch = Launch { blocks: [x.rows as u32, 1, 1], threads: 256, shared: 0 };
    // SAFETY: the arguments are the kernel's; numbers are of rows that there are.
    unsafe { device.launch_some("join_rows", launch, &arguments) }
}

/// `out[i] = x[rows[i]]`, rows of `width`.
///
/// # Panics
/// If sizes don't fit.
pub fn gather(
    device: &Device,
    x: &DeviceBuffer<f32>,
    rows: &DeviceBuffer<u32>,
    width: usize,
    out: &DeviceBuffer<f32>,
) -> Result<(), CudaError> {
    assert!(out.len() >= rows.len() * width, "room for gathered rows");
    let arguments = [x.argument(), rows.argument(), int(width), out.argument()];
    // SAFETY: as above.
    unsafe { device.launch_some("gather_rows", a_row(rows.len()), &arguments) }
}

/// Which rows are added to which: `out[rows[b]] += x[sources[begins[b]]] + …` in order.
pub struct Scatter {
    rows: DeviceBuffer<u32>,
    begins: DeviceBuffer<u32>,
    sources: DeviceBuffer<u32>,
}

impl Scatter {
    /// Row i of x goes to row `to[i]`; several may go to the same.
    pub fn new(device: &Device, to: &[u32]) -> Result<Self, CudaError> {
        let mut order: Vec<u32> = (0..to.len() as u32).collect();
        order.sort_by_key(|&i| (to[i as usize], i));
        let (mut rows, mut begins) = (Vec::new(), Vec::new());
        for (at, &i) in order.iter().enumerate() {
            if rows.last() != Some(&to[i as usize]) {
                rows.push(to[i as usize]);
                begins.push(at as u32);
            }
        }
        begins.push(to.len() as u32);
        let what = "rows to scatter";
        Ok(Self {
            rows: device.upload(what, &rows)?,
            begins: device.upload(what, &begins)?,
            sources: device.upload(what, &order)?,
        })
    }

    /// Adds the rows of x to `out`, rows of `width`.
    pub fn add(
        &self,
        device: &Device,
        x: &DeviceBuffer<f32>,
        width: usize,
        out: &DeviceBuffer<f32>,
    ) -> Result<(), CudaError> {
        assert!(x.len() >= self.sources.len() * width, "rows to scatter");
        let (rows, begins, sources) = (self.rows.argument(), self.begins.argument(), self.sources.argument());
        let arguments = [x.argument(), rows, begins, sources, int(width), out.argument()];
        // SAFETY: as above.
        unsafe { device.launch_some("scatter_rows", a_row(self.rows.len()), &arguments) }
    }
}

/// x, rounded.
///
/// # Panics
/// If sizes don't fit.
pub fn round(device: &Device, x: &DeviceBuffer<f32>, out: &Rows) -> Result<(), CudaError> {
    assert!(x.len() >= out.rows * out.width, "rows to round");
    let arguments = [x.argument(), int(out.width), out.data.argument(), int(out.stride)];
    // SAFETY: as above.
    unsafe { device.launch_some("round_rows", a_row(out.rows), &arguments) }
}

/// `x[row] *= factors[row]`, rows of `width`.
///
/// # Panics
/// If sizes don't fit.
pub fn scale(
    device: &Device,
    x: &DeviceBuffer<f32>,
    factors: &DeviceBuffer<f32>,
    width: usize,
) -> Result<(), CudaError> {
    assert!(x.len() >= factors.len() * width, "rows to scale");
    let arguments = [x.argument(), factors.argument(), int(width)];
    // SAFETY: as above.
    unsafe { device.launch_some("scale_rows", a_row(factors.len()), &arguments) }
}

/// An RMS norm: its weight (D), with 1 added where the family does so, and ε.
#[derive(Clone)]
pub struct Norm {
    /// (D)
    pub weight: DeviceBuffer<f32>,
    /// ε
    pub epsilon: f32,
}

impl Norm {
    fn arguments(&self, x: &DeviceBuffer<f32>) -> [Argument<'static>; 4] {
        let width = self.weight.len();
        [x.argument(), self.weight.argument(), Argument::Float(self.epsilon), int(width)]
    }

    /// out = norm(x), rounded.
    ///
    /// # Panics
    /// If sizes don't fit.
    pub fn forward(&self, device: &Device, x: &DeviceBuffer<f32>, out: &Rows) -> Result<(), CudaError> {
        assert!(x.len() >= out.rows * out.width && out.width == self.weight.len(), "rows to normalise");
        let [a, b, c, d] = self.arguments(x);
        let arguments = [a, b, c, d, out.data.argument(), int(out.stride)];
        // SAFETY: the arguments are the kernel's, with room as checked.
        unsafe { device.launch_some("rms_norm", a_row(out.rows), &arguments) }
    }

    /// out += norm(x) for `rows` rows.
    ///
    /// # Panics
    /// If sizes don't fit.
    pub fn add(
        &self,
        device: &Device,
        rows: usize,
        x: &DeviceBuffer<f32>,
        out: &DeviceBuffer<f32>,
    ) -> Result<(), CudaError> {
        let len = rows * self.weight.len();
        assert!(x.len() >= len && out.len() >= len, "rows to normalise");
        let [a, b, c, d] = self.arguments(x);
        // SAFETY: as above.
        unsafe { device.launch_some("rms_norm_add", a_row(rows), &[a, b, c, d, out.argument()]) }
    }

    /// dx = ∂L/∂x, rounded, of x and dy.
    ///
    /// # Panics
    /// If sizes don't fit.
    pub fn backward(
        &self,
        device: &Device,
        x: &DeviceBuffer<f32>,
        dy: &DeviceBuffer<f32>,
        dx: &Rows,
    ) -> Result<(), CudaError> {
        assert!(x.len().min(dy.len()) >= dx.rows * dx.width && dx.width == self.weight.len());
        let [a, b, c, d] = self.arguments(x);
        let arguments = [a, b, c, d, dy.argument(), dx.data.argument(), int(dx.stride)];
        // SAFETY: as above.
        unsafe { device.launch_some("rms_norm_backward", a_row(dx.rows), &arguments) }
    }

    /// dx += ∂L/∂x for `rows` rows.
    ///
    /// # Panics
    /// If sizes don't fit.
    pub fn backward_add(
        &self,
        device: &Device,
        rows: usize,
        x: &DeviceBuffer<f32>,
        dy: &DeviceBuffer<f32>,
        dx: &DeviceBuffer<f32>,
    ) -> Result<(), CudaError> {
        assert!(x.len().min(dy.len()).min(dx.len()) >= rows * self.weight.len());
        let [a, b, c, d] = self.arguments(x);
        let arguments = [a, b, c, d, dy.argument(), dx.argument()];
        // SAFETY: as above.
        unsafe { device.launch_some("rms_norm_backward_add", a_row(rows), &arguments) }
    }
}

/// Gate activations, as the kernels number them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// x·sigmoid(x)
    Silu = 0,
    /// tanh approximation of GELU
    GeluTanh = 1,
}

fn gate_launch(rows: usize, width: usize) -> Launch {
    Launch { blocks: [width.div_ceil(256) as u32, rows as u32, 1], threads: 256, shared: 0 }
}

/// out = act(gate) · up; a row of `gate_up` holds gate (F), then up (F).
///
/// # Panics
/// If sizes don't fit.
pub fn gated(device: &Device, kind: Gate, gate_up: &Rows, out: &Rows) -> Result<(), CudaError> {
    assert!(gate_up.width == 2 * out.width && gate_up.rows == out.rows, "gate and up");
    let arguments = [
        int(kind as usize),
        gate_up.data.argument(),
        int(gate_up.stride),
        int(out.rows),
        int(out.width),
        out.data.argument(),
        int(out.stride),
    ];
    // SAFETY: as above.
    unsafe { device.launch_some("gated", gate_launch(out.rows, out.width), &arguments) }
}

/// Turns gate and up in place into their gradients, given that of h.
///
/// # Panics
/// If sizes don't fit.
pub fn gated_backward(device: &Device, kind: Gate, gate_up: &Rows, gradient: &Rows) -> Result<(), CudaError> {
    assert!(gate_up.width == 2 * gradient.width && gate_up.rows == gradient.rows, "gate and up");
    let arguments = [
        int(kind as usize),
        gate_up.data.argument(),
        int(gate_up.stride),
        int(gradient.rows),
        int(gradient.width),
        gradient.data.argument(),
        int(gradient.stride),
    ];
    // SAFETY: as above.
    unsafe { device.launch_some("gated_backward", gate_launch(gradient.rows, gradient.width), &arguments) }
}

/// What stands between the product of q, k and v and attention: norms of heads, where a family has them, and rope.
#[derive(Clone)]
pub struct HeadTurn {
    /// Query heads, key heads, d.
    pub shape: (usize, usize, usize),
    /// Norms of q and k heads.
    pub norms: Option<(DeviceBuffer<f32>, DeviceBuffer<f32>)>,
    /// ε of the norms.
    pub epsilon: f32,
    /// (positions, d/2) pairs of cosine and sine.
    pub turns: DeviceBuffer<f32>,
}

impl HeadTurn {
    fn begin(&self, qkv: &Rows, positions: &DeviceBuffer<u32>) -> ([u64; 3], Launch) {
        let (queries, keys, size) = self.shape;
        let heads = queries + 2 * keys;
        assert!(qkv.width == heads * size && positions.len() == qkv.rows, "heads of all rows");
        let words = [pair(queries, keys), pair(size, qkv.stride), pair(qkv.rows, 0)];
        let blocks = [(qkv.rows * heads).div_ceil(4) as u32, 1, 1];
        (words, Launch { blocks, threads: 128, shared: 0 })
    }

    fn norms(&self) -> [Argument<'static>; 3] {
        let (q, k) = match &self.norms {
            None => (Argument::Buffer(0), Argument::Buffer(0)),
            Some((q, k)) => (q.argument(), k.argument()),
        };
        [q, k, Argument::Float(self.epsilon)]
    }

    /// q goes to its rows, keys and values to their places in the cache (slots, K, d).
    ///
    /// # Panics
    /// If sizes don't fit.
    pub fn forward(
        &self,
        device: &Device,
        qkv: &Rows,
        (positions, places): (&DeviceBuffer<u32>, &DeviceBuffer<u32>),
        q: &Rows,
        (keys, values): (&DeviceBuffer<u16>, &DeviceBuffer<u16>),
    ) -> Result<(), CudaError> {
        let (words, launch) = self.begin(qkv, positions);
        assert!(q.width == self.shape.0 * self.shape.2 && q.rows == qkv.rows && places.len() == qkv.rows);
        let [q_norm, k_norm, epsilon] = self.norms();
        let arguments = [
            Argument::Struct(&words),
            qkv.data.argument(),
            positions.argument(),
            places.argument(),
            self.turns.argument(),
            q_norm,
            k_norm,
            epsilon,
            q.data.argument(),
            int(q.stride),
            keys.argument(),
            values.argument(),
        ];
        // SAFETY: as above; positions and places lie in the table and the cache.
        unsafe { device.launch_some("heads_forward", launch, &arguments) }
    }

    /// From dq (M, H · d), dk and dv (M, K · d) to the gradient of `qkv`.
    ///
    /// # Panics
    /// If sizes don't fit.
    pub fn backward(
        &self,
        device: &Device,
        qkv: &Rows,
        positions: &DeviceBuffer<u32>,
        (dq, dk, dv): (&DeviceBuffer<f32>, &DeviceBuffer<f32>, &DeviceBuffer<f32>),
        d_qkv: &Rows,
    ) -> Result<(), CudaError> {
        let (words, launch) = self.begin(qkv, positions);
        assert!(d_qkv.stride == qkv.stride && d_qkv.rows == qkv.rows, "the gradient is like what it is of");
        let [q_norm, k_norm, epsilon] = self.norms();
        let arguments = [
            Argument::Struct(&words),
            qkv.data.argument(),
            positions.argument(),
            self.turns.argument(),
            q_norm,
            k_norm,
            epsilon,
            dq.argument(),
            dk.argument(),
            dv.argument(),
            d_qkv.data.argument(),
        ];
        // SAFETY: as above.
        unsafe { device.launch_some("heads_backward", launch, &arguments) }
    }
}
