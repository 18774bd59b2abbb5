//! The factors of the low-rank side path on the GPU: A and B of the modules that share an input, side by side.

use super::load::GpuModel;
use super::weights::GpuWeightSums;
use crate::model::Gradients;
use crate::model::config::ModelConfig;
use crate::model::hidden::DeviceError;
use crate::model::side::{ModuleKind, ModuleRows, R};
use tinylora_compute::cuda::product::{Members, Side};
use tinylora_compute::cuda::{CudaError, Device, DeviceBuffer};

/// Factors of all adapted modules.
pub struct GpuFactors {
    pub(super) layers: Vec<[Option<GroupFactors>; 4]>,
    /// False after a replacement that failed: some are the old ones, some the new.
    whole: bool,
}

/// Adapted modules that share their input.
pub(super) struct GroupFactors {
    pub members: Members,
    /// All members' A (Σ r, in).
    project: DeviceBuffer<f32>,
    /// Bᵀ (r, all outputs): of modules without an adapter 0.
    expand: DeviceBuffer<f32>,
    /// First columns of the second and the third linear layer, and where each one's numbers begin.
    ends: [usize; 2],
    starts: [usize; 3],
    inputs: usize,
    pub reduce: Vec<MemberFactors>,
}

/// B of one of them, for the backward pass.
pub(super) struct MemberFactors {
    /// First of its outputs among those of the group, and how many there are.
    pub first: usize,
    pub outputs: usize,
    /// Bᵀ (r, outputs)
    pub turned: DeviceBuffer<f32>,
    /// Where its numbers (A, then Bᵀ) start among those of all modules.
    pub start: usize,
}

/// Sums of a backward pass on the GPU.
pub(super) enum Sums {
    /// ∂L/∂R of all adapters.
    R(DeviceBuffer<f64>),
    /// ∂L/∂A and ∂L/∂Bᵀ of all modules.
    Factors(DeviceBuffer<f32>),
    /// Those of all weights, which stay there from pass to pass.
    Weights(GpuWeightSums),
}

impl Sums {
    /// Zeros, as many as `sums` has; of all weights the sums themselves.
    ///
    /// # Panics
    /// If these are sums on the host.
    pub fn new(device: &Device, sums: &Gradients) -> Result<Self, CudaError> {
        Ok(match sums {
            Gradients::R(dr) => {
                Self::R(device.zeroed("gradients of R", dr.iter().map(Vec::len).sum::<usize>())?)
            }
            Gradients::Factors(numbers) => {
                Self::Factors(device.zeroed("gradients of A and B", numbers.len())?)
            }
            Gradients::GpuWeights(sums) => Self::Weights(sums.shared()),
            Gradients::Weights(_) => panic!("sums on the host of a model on a GPU"),
        })
    }

    /// Whether the inputs of linear layers are needed.
    pub fn want_inputs(&self) -> bool {
        match self {
            Self::R(_) => false,
            Self::Factors(_) | Self::Weights(_) => true,
        }
    }

    /// Those of all weights.
    pub fn weights(&self) -> Option<&GpuWeightSums> {
        match self {
            Self::Weights(sums) => Some(sums),
            Self::R(_) | Self::Factors(_) => None,
        }
    }

    /// Adds them to `sums`, for which they were made.
    pub fn add_to(&self, sums: &mut Gradients) -> Result<(), CudaError> {
        match (self, sums) {
            (Self::R(found), Gradients::R(dr)) => {
                dr.iter_mut().flatten().zip(found.to_vec()?).for_each(|(sum, x)| *sum += x);
            }
            (Self::Factors(found), Gradients::Factors(numbers)) => {
                numbers.iter_mut().zip(found.to_vec()?).for_each(|(sum, x)| *sum += x);
            }
            (Self::Weights(_), Gradients::GpuWeights(_)) => {}
            _ => panic!("sums of another kind"),
        }
        Ok(())
    }
}

/// The linear layers of each group, in the order of modules.
pub(super) const GROUPS: [&[ModuleKind]; 4] = {
    use ModuleKind::{Down, Gate, K, O, Q, Up, V};
    [&[Q, K, V], &[O], &[Gate, Up], &[Down]]
};

/// R of all adapters in one list, as the kernels read it.
pub(super) struct FlatR {
    pub numbers: Vec<f32>,
    /// Numbers of each adapter.
    pub length: usize,
    /// Whether these are multiples of the identity.
    pub multiples: bool,
}

impl FlatR {
    /// Where some are multiples and others matrices, matrices of all.
    pub fn new(all: &[R], modules: usize, rank: usize) -> Self {
        let multiples = all.iter().all(|r| matches!(r, R::Multiples(_)));
        let mut numbers = Vec::new();
        for r in all {
            match r {
                R::Multiples(r) if !multiples => {
                    for &r in r {
                        let diagonal = |at: usize| if at.is_multiple_of(rank + 1) { r } else { 0.0 };
                        numbers.extend((0..rank * rank).map(diagonal));
                    }
                }
                R::Matrices(r) | R::Multiples(r) => numbers.extend_from_slice(r),
            }
        }
        Self { numbers, length: if multiples { modules } else { modules * rank * rank }, multiples }
    }
}

impl GpuFactors {
    /// Factors of `modules`, in module order.
    pub(in crate::model) fn new(
        model: &GpuModel,
        config: &ModelConfig,
        rank: usize,
        modules: &[ModuleRows<'_>],
    ) -> Result<Self, DeviceError> {
        let mut layers = Vec::with_capacity(config.num_layers);
        for layer in 0..config.num_layers {
            let mut groups = [const { None }; 4];
            for (group, kinds) in groups.iter_mut().zip(GROUPS) {
                let numbers = GroupNumbers::of(config, rank, (layer, kinds), modules);
                *group = numbers.map(|numbers| numbers.place(&model.device)).transpose()?;
            }
            layers.push(groups);
        }
        Ok(Self { layers, whole: true })
    }

    /// Other factors of the same modules, in the same memory.
    pub(in crate::model) fn replace(
        &mut self,
        config: &ModelConfig,
        rank: usize,
        modules: &[ModuleRows<'_>],
    ) -> Result<(), DeviceError> {
        self.whole = false;
        for (layer, groups) in self.layers.iter().enumerate() {
            for (group, kinds) in groups.iter().zip(GROUPS) {
                let numbers = GroupNumbers::of(config, rank, (layer, kinds), modules);
                if let (Some(group), Some(numbers)) = (group, numbers) {
                    numbers.write(group)?;
                }
            }
        }
        self.whole = true;
        Ok(())
    }

    /// Where they lie.
    pub(super) fn addresses(&self) -> impl Iterator<Item = u64> + '_ {
        let groups = self.layers.iter().flatten().flatten();
        groups.flat_map(|group| [group.project.address(), group.expand.address()])
    }

    /// That they are not a mixture.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        if self.whole { Ok(()) } else { Err(DeviceError::Mixture) }
    }
}

/// Factors of the modules of a group, as they lie on the GPU.
struct GroupNumbers<'a> {
    members: Members,
    project: Vec<f32>,
    expand: Vec<f32>,
    ends: [usize; 2],
    starts: [usize; 3],
    inputs: usize,
    /// (first output, Bᵀ, start) of each member.
    reduce: Vec<(usize, &'a [f32], usize)>,
}

impl<'a> GroupNumbers<'a> {
    /// None where none of them is adapted.
    fn of(
        config: &ModelConfig,
        rank: usize,
        (layer, kinds): (usize, &[ModuleKind]),
        modules: &'a [ModuleRows<'_>],
    ) -> Option<Self> {
        let find = |kind| modules.iter().position(|module| module.layer == layer && module.kind == kind);
        let outputs: usize = kinds.iter().map(|kind| kind.shape(config).0).sum();
        let inputs = kinds[0].shape(config).1;
        let (mut project, mut expand) = (Vec::new(), vec![0f32; rank * outputs]);
        let (mut members, mut starts, mut ends) = (Vec::new(), [0; 3], [outputs; 2]);
        let (mut reduce, mut first) = (Vec::new(), 0);
        for (number, &kind) in kinds.iter().enumerate() {
            let (n, k) = kind.shape(config);
            if let Some(index) = find(kind) {
                let ModuleRows { a, b, start, .. } = &modules[index];
                assert!(a.len() == rank * k && b.len() == rank * n, "factors of {kind:?}");
                starts[number] = members.len() * rank;
                members.push(index);
                project.extend_from_slice(a);
                for (to, from) in expand.chunks_mut(outputs).zip(b.chunks(n)) {
                    to[first..first + n].copy_from_slice(from);
                }
                reduce.push((first, &b[..], *start));
            }
            first += n;
            if let Some(end) = ends.get_mut(number) {
                *end = first;
            }
        }
        let members = Members { rank, modules: members };
        let some = !members.modules.is_empty();
        some.then_some(Self { members, project, expand, ends, starts, inputs, reduce })
    }

    /// Puts them into new memory.
    fn place(self, device: &Device) -> Result<GroupFactors, CudaError> {
        let rank = self.members.rank;
        let member = |(first, b, start): (usize, &[f32], usize)| {
            let turned = device.upload("factors", b)?;
            Ok(MemberFactors { first, outputs: b.len() / rank, turned, start })
        };
        Ok(GroupFactors {
            project: device.upload("factors", &self.project)?,
            expand: device.upload("factors", &self.expand)?,
            reduce: self.reduce.into_iter().map(member).collect::<Result<_, CudaError>>()?,
            members: self.members,
            ends: self.ends,
            starts: self.starts,
            inputs: self.inputs,
        })
    }

    /// Puts them in the place of others of the same modules. Work that reads those comes before.
    fn write(&self, to: &GroupFactors) -> Result<(), CudaError> {
        to.project.write(&self.project)?;
        to.expand.write(&self.expand)?;
        self.reduce.iter().zip(&to.reduce).try_for_each(|((_, b, _), member)| member.turned.write(b))
    }
}

impl GroupFactors {
    /// A of all members.
    pub fn project(&self) -> &DeviceBuffer<f32> {
        &self.project
    }

    /// What the forward product adds: B z.
    pub fn forward(&self, z: &DeviceBuffer<f32>) -> Side {
        Side {
            z: z.clone(),
            panel: self.expand.clone(),
            stride: self.members.width(),
            rank: self.members.rank,
            ends: self.ends,
            starts: self.starts,
        }
    }

    /// What the backward product adds: Aᵀ z of all members.
    pub fn backward(&self, z: &DeviceBuffer<f32>) -> Side {
        let width = self.members.width();
        Side {
            z: z.clone(),
            panel: self.project.clone(),
            stride: width,
            rank: width,
            ends: [self.inputs; 2],
            starts: [0; 3],
        }
    }
}
