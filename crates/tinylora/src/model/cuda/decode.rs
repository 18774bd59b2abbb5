//! Decode steps on the GPU: lists and draws of a step enter, chosen tokens are queued to come back. A step's tokens may be
//! those that the step before chose, which the host need not know yet. The launches of a step are one function of the number
//! of rows, which is rounded up, and of what lies in the GPU's memory, so that they can be recorded as a graph.
//!
//! Rows behind the batch's own are empty: they see one token in a block that no sequence has. Since no row's result depends
//! on others, the bits of the rest are those without them. A sequence that begins has such a row, too, which gets the hidden
//! state of its prompt before the head reads it.

use super::book::{Book, Next, Shape, rows_of_launches};
use super::kept::{GpuCache, GpuKept, Grown, Keys};
use super::load::GpuModel;
use super::pass::{Pass, PassSide};
use crate::model::batch::Batch;
use crate::model::config::ModelConfig;
use crate::model::decode::Decode;
use crate::model::hidden::{DeviceError, Hidden};
use crate::model::pass::Adapters;
use tinylora_compute::attention::{BLOCK_TOKENS, Group, Member, Span};
use tinylora_compute::cuda::attention::{DecodeLists, Plan};
use tinylora_compute::cuda::head::{CHOICE, Choice, Draw, HeadRows};
use tinylora_compute::cuda::product::Rows;
use tinylora_compute::cuda::rows;
use tinylora_compute::cuda::{CudaError, Device, DeviceBuffer, Fetched, Graph};

/// What decoding keeps from step to step.
#[derive(Default)]
pub(super) struct GpuDecode {
    kept: GpuKept,
    words: Grown<u32>,
    /// Hidden states of prompts (rows, D), for sequences that begin.
    begun: Grown<u16>,
    /// What the last step chose.
    choices: Option<DeviceBuffer<u32>>,
    book: Book<Bound, Graph>,
}

/// What recorded launches depend on besides the shape: addresses, which stay those of the same memory as long as a graph that
/// uses it is there, and how R is laid out.
#[derive(PartialEq)]
struct Bound {
    addresses: Vec<u64>,
    length: usize,
    multiples: bool,
}

/// Tokens that are on their way to the host.
pub struct GpuQueued {
    choices: Fetched<u32>,
}

impl GpuQueued {
    /// (token, log-prob, entropy) of each row, when they are there.
    pub fn wait(self) -> Result<Vec<(u32, f32, f32)>, DeviceError> {
        let choices = Choice::of(&self.choices.wait()?);
        Ok(choices.into_iter().map(|choice| (choice.token, choice.logprob, choice.entropy)).collect())
    }
}

/// The list that goes to the GPU in each step: of every row draws (8 words), and then a word each. Lists of who sees what follow.
mod at {
    pub const SOURCES: usize = 8;
    pub const TOKENS: usize = 9;
    pub const POSITIONS: usize = 10;
    pub const PLACES: usize = 11;
    pub const ADAPTERS: usize = 12;
    pub const TEMPERATURES: usize = 13;
    pub const JOINS: usize = 14;
    pub const LISTS: usize = 15;
}

/// Queues a decode step.
///
/// # Panics
/// If a source is not a row of the step before, or lengths don't fit.
pub fn queue(
    gpu: &GpuModel,
    config: &ModelConfig,
    adapters: Adapters<'_>,
    step: &Decode<'_>,
    cache: &mut GpuCache,
    kept: &mut GpuKept,
) -> Result<GpuQueued, DeviceError> {
    gpu.check()?;
    let device = &*gpu.device;
    let GpuDecode { kept, words, begun, choices, book } = &mut **kept.decode.get_or_insert_default();
    let own = step.batch.rows() + step.joins.len();
    let rows = rows_of_launches(own);
    assert!(
        step.sources.len() == step.batch.rows() && step.draws.len() == own,
        "a source and a draw for each row"
    );
    let heads = &gpu.layers[0].heads;
    let lists = DecodeLists::new(heads, rows, &with_empty_rows(step.batch, rows, cache.blocks()));
    let shape = Shape { rows, parts: lists.parts() };
    let numbers = list_of_step(step, rows, cache.blocks(), &lists);
    // Room for what the next steps add.
    let words = words.take(device, numbers.len().next_power_of_two())?;
    words.part(0, numbers.len()).write(&numbers)?;
    let choices = room_for_choices(device, choices, step, rows)?;
    let begun = begun.rows(device, rows, config.hidden_size)?;
    for (row, hidden) in step.joins.iter().enumerate() {
        let Hidden::Gpu(hidden) = hidden else { panic!("hidden states on the host") };
        begun.range(row, 1).data.copy_from(hidden.single())?;
    }
    let of_rows = |at: usize| words.part(at * rows, rows);
    let side = PassSide::new(gpu, adapters, of_rows(at::ADAPTERS), (&mut kept.r, &mut kept.r_there))?;
    let keys = cache.layers(device, config)?;
    let first = at::LISTS * rows;
    let pass = Pass {
        device,
        model: gpu,
        rows,
        width: config.hidden_size,
        positions: of_rows(at::POSITIONS),
        places: of_rows(at::PLACES),
        plan: Plan::over(heads, rows, shape.parts, &words.part(first, words.len() - first)),
        side,
    };
    let bound = bound(&pass, &words, &begun, &choices, keys, kept);
    let mut launches = || launch(&pass, config, &words, &begun, keys, kept, &choices);
    let next = if device.has_graphs() { book.next(shape, bound) } else { Next::Launches };
    match next {
        Next::Launches => launches()?,
        Next::Replay(graph) => graph.launch()?,
        Next::Record => match device.record(&mut launches) {
            Ok(graph) => {
                graph.launch()?;
                book.keep(shape, graph);
            }
            Err(error) => {
                book.give_up();
                device.report(&format!("decoding goes on without CUDA graphs: {error}"));
                launches()?;
            }
        },
    }
    Ok(GpuQueued { choices: choices.part(0, CHOICE * own).fetch()? })
}

/// The groups of a batch and one of empty rows behind it, which see themselves in a block of their own.
fn with_empty_rows(batch: &Batch, rows: usize, empty_block: usize) -> Vec<Group> {
    let mut groups = batch.groups.clone();
    let own = || vec![Span { block: empty_block as u32, count: 1 }];
    let member = |first_row| Member { first_row, rows: 1, own: own() };
    groups.push(Group { shared: Vec::new(), members: (batch.rows()..rows).map(member).collect() });
    groups
}

fn list_of_step(step: &Decode<'_>, rows: usize, empty_block: usize, lists: &DecodeLists) -> Vec<u32> {
    let batch = step.batch;
    let mut words = Vec::with_capacity(2 * at::LISTS * rows);
    for &(stream, counter) in step.draws {
        let draw = Draw { key: stream.parts(), counter, greedy: step.greedy };
        words.extend(draw.words().into_iter().flat_map(|word| [word as u32, (word >> 32) as u32]));
    }
    let nothing = Draw { key: [0; 4], counter: 0, greedy: true }.words();
    for _ in step.draws.len()..rows {
        words.extend(nothing.into_iter().flat_map(|word| [word as u32, (word >> 32) as u32]));
    }
    let mut column = |values: &mut dyn Iterator<Item = u32>, empty: u32| {
        let end = words.len() + rows;
        words.extend(values);
        words.resize(end, empty);
    };
    let place = |block: u32, offset: u32| block * BLOCK_TOKENS as u32 + offset;
    let none = u32::MAX;
    column(&mut step.sources.iter().map(|source| source.unwrap_or(none)), none);
    column(&mut batch.tokens.iter().copied(), 0);
    column(&mut batch.positions.iter().copied(), 0);
    column(
        &mut batch.places.iter().map(|&(block, offset)| place(block, offset)),
        place(empty_block as u32, 0),
    );
    column(&mut batch.adapters.iter().copied(), 0);
    column(&mut std::iter::empty(), step.inverse_temperature.to_bits());
    let joins = 0..step.joins.len() as u32;
    column(&mut batch.tokens.iter().map(|_| none).chain(joins), none);
    words.extend(lists.words());
    words
}

/// Where choices go; those of the step before are kept.
fn room_for_choices(
    device: &Device,
    choices: &mut Option<DeviceBuffer<u32>>,
    step: &Decode<'_>,
    rows: usize,
) -> Result<DeviceBuffer<u32>, CudaError> {
    let there = choices.as_ref().map_or(0, |choices| choices.len() / CHOICE);
    let known = step.sources.iter().flatten().all(|&source| (source as usize) < there);
    assert!(known, "sources are rows of the step before");
    if there < rows {
        let more = device.zeroed("choices", CHOICE * rows)?;
        if let Some(old) = choices {
            more.part(0, old.len()).copy_from(old)?;
        }
        *choices = Some(more);
    }
    Ok(choices.as_ref().expect("made above").clone())
}

fn bound(
    pass: &Pass<'_>,
    words: &DeviceBuffer<u32>,
    begun: &Rows,
    choices: &DeviceBuffer<u32>,
    keys: &[Keys],
    kept: &GpuKept,
) -> Bound {
    let weights = pass.model.embedding.data.address();
    let mut addresses = vec![weights, words.address(), choices.address(), keys[0].0.address()];
    addresses.push(begun.data.address());
    addresses.extend(kept.addresses());
    if let Some(side) = &pass.side {
        addresses.push(side.r.address());
        addresses.extend(side.factors.addresses());
    }
    let side = pass.side.as_ref();
    Bound {
        addresses,
        length: side.map_or(0, |side| side.length),
        multiples: side.is_some_and(|side| side.multiples),
    }
}

/// Everything that a step does on the GPU once its lists are there.
fn launch(
    pass: &Pass<'_>,
    config: &ModelConfig,
    words: &DeviceBuffer<u32>,
    begun: &Rows,
    keys: &[Keys],
    kept: &mut GpuKept,
    choices: &DeviceBuffer<u32>,
) -> Result<(), CudaError> {
    let (device, model, rows) = (pass.device, pass.model, pass.rows);
    let of_rows = |at: usize| words.part(at * rows, rows);
    let tokens = of_rows(at::TOKENS);
    rows::next_tokens(device, &of_rows(at::SOURCES).cast(), choices, &tokens)?;
    let stream = kept.stream.take(device, rows * pass.width)?;
    rows::embed(device, &model.embedding, &tokens, config.embedding_scale, &stream)?;
    kept.layers.resize_with(1.max(kept.layers.len()), Default::default);
    for (index, keys) in keys.iter().enumerate() {
        pass.layer(index, &stream, keys, &mut kept.layers[0], &mut kept.scratch, false)?;
    }
    let x: Rows = kept.scratch.normed.rows(device, rows, pass.width)?;
    model.final_norm.forward(device, &stream, &x)?;
    rows::join(device, begun, &of_rows(at::JOINS).cast(), &x)?;
    let inverse_temperature = of_rows(at::TEMPERATURES).cast();
    let rows_of_head = HeadRows { head: model.head(), x: &x, inverse_temperature };
    let statistics = rows_of_head.statistics(device, None)?;
    rows_of_head.choose_to(device, &statistics, &words.part(0, at::SOURCES * rows).cast(), choices)
}
