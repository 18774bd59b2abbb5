//! `[grpo]` and `[optimizer]`: how rewards become changes of the trained numbers.

use serde::{Deserialize, Serialize};

/// `[grpo]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpoSection {
    /// Which loss.
    pub loss: GrpoLoss,
    /// Divide advantages by the group's standard deviation. Left out: yes, but for Dr. GRPO.
    pub scale_advantages: bool,
    /// Clipping: the ratio stays above 1 − clip_low. Left out, it follows the loss.
    pub clip_low: f32,
    /// Clipping: the ratio stays below 1 + clip_high. Left out, it follows the loss.
    pub clip_high: f32,
    /// Optimizer updates on one batch of rollouts.
    pub updates_per_batch: usize,
    /// Coefficient of KL(policy ‖ base); 0: none.
    pub kl_coefficient: f32,
    /// How that KL is estimated.
    pub kl_estimator: KlEstimator,
    /// Coefficient of the policy's entropy, which is rewarded; 0: none.
    pub entropy_coefficient: f32,
    /// Leave completions that were cut at `rollout.max_tokens` out of the loss.
    pub mask_truncated: bool,
    /// What happens to tokens whose importance weight passes the cap.
    pub importance: ImportanceRule,
    /// Cap of the importance weight of tokens that another version of the policy sampled.
    pub importance_cap: f32,
}

/// Losses: what is clipped and how the tokens of a batch are averaged. N completions of c_i tokens, T in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrpoLoss {
    /// Clipped token ratios; mean over each completion's tokens, then over completions (Shao et al. 2024).
    #[serde(alias = "sequence")]
    Grpo,
    /// Clipped token ratios; sum over N · `rollout.max_tokens` (Liu et al. 2025, "Dr. GRPO").
    DrGrpo,
    /// Clipped token ratios; mean over all tokens of the batch (Yu et al. 2025).
    #[serde(alias = "token")]
    Dapo,
    /// Clipped token ratios; mean over each group's tokens, then over groups.
    Bnpo,
    /// One clipped ratio a completion, the geometric mean of its tokens' (Zheng et al. 2025).
    Gspo,
    /// Clipped token ratios as weights without gradient; mean over all tokens (MiniMax 2025).
    Cispo,
}

impl GrpoLoss {
    /// `clip_low` and `clip_high` where the recipe names none.
    pub fn default_clip(self) -> (f32, f32) {
        match self {
            Self::Grpo | Self::DrGrpo | Self::Dapo | Self::Bnpo => (0.2, 0.2),
            // A mean over many tokens strays far less than one token does (Zheng et al. 2025, section 5.1).
            Self::Gspo => (3e-4, 4e-4),
            // Weights are bounded from above alone.
            Self::Cispo => (1.0, 4.0),
        }
    }
}

/// Estimators of KL(policy ‖ base) from a token that the policy sampled (Schulman 2020), d = ln π_base − ln π.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlEstimator {
    /// −d
    K1,
    /// d² / 2
    K2,
    /// e^d − d − 1
    K3,
}

/// What happens to tokens with w = π/π_sampler beyond the cap c.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImportanceRule {
    /// Nothing is weighted.
    Off,
    /// min(w, c)
    Truncate,
    /// w where 1/c ≤ w ≤ c, else 0.
    Mask,
}

impl Default for GrpoSection {
    fn default() -> Self {
        Self {
            loss: GrpoLoss::Dapo,
            scale_advantages: true,
            clip_low: 0.2,
            clip_high: 0.2,
            updates_per_batch: 1,
            kl_coefficient: 0.0,
            kl_estimator: KlEstimator::K3,
            entropy_coefficient: 0.0,
            mask_truncated: false,
            importance: ImportanceRule::Truncate,
            importance_cap: 2.0,
        }
    }
}

/// `[optimizer]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSection {
    /// Which optimizer.
    pub kind: OptimizerKind,
    /// Peak learning rate.
    pub learning_rate: f32,
    /// AdamW β₁, or SGD's momentum.
    pub beta1: f32,
    /// AdamW β₂.
    pub beta2: f32,
    /// AdamW ε.
    pub epsilon: f32,
    /// SGD looks ahead by one more step of its momentum.
    pub nesterov: bool,
    /// Natural gradient: what is added to the Fisher matrix's diagonal, as a fraction of the diagonal's mean.
    pub damping: f32,
    /// Natural gradient: largest ½ δᵀFδ of a step, the change of the policy in nats a token.
    pub kl_bound: f32,
    /// Natural gradient: what the Fisher matrix is made of.
    pub fisher: FisherScores,
    /// Natural gradient: completions a prompt that the Fisher matrix is made of; 0: all.
    pub fisher_samples: usize,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Largest gradient norm; 0: no clipping. Left out: 1, but for the natural gradient 0.
    pub max_grad_norm: f32,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: usize,
    /// What the learning rate does after warm-up.
    pub schedule: Schedule,
}

/// How the adapter learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learner {
    /// Reinforcement learning with a verifiable reward.
    #[default]
    Grpo,
    /// Supervised finetuning: next-token loss on the data's own solutions.
    Sft,
}

/// `[sft]`: supervised finetuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftSection {
    /// Examples a step.
    pub examples_per_step: usize,
    /// Which tokens the loss is over.
    pub loss_on: LossTokens,
    /// What happens to examples that are longer than `rollout.max_tokens`.
    pub too_long: TooLong,
    /// A file or data set with the examples; empty: the task's own solutions.
    pub data: String,
    /// What a row of it is.
    pub format: ExampleFormat,
    /// Field with a conversation.
    pub messages_field: String,
    /// Field with a prompt.
    pub prompt_field: String,
    /// Field with its completion.
    pub completion_field: String,
    /// Field with a question, which is put as the task puts its own.
    pub question_field: String,
    /// Field with its answer.
    pub answer_field: String,
}

/// Which tokens of an example a supervised loss is over; the mean is over all of a step's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossTokens {
    /// The solution's, its end token included; in a conversation those of every turn of the assistant.
    Completion,
    /// In a conversation those of the assistant's last turn alone.
    Last,
    /// The prompt's as well, but for its first.
    All,
}

/// What happens to an example whose tokens behind the prompt are more than `rollout.max_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// The run does not start.
    Error,
    /// It is left out; how many are is told.
    Skip,
}

/// What a row of `sft.data` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExampleFormat {
    /// What the fields of the first row say.
    Auto,
    /// A conversation whose assistant is learned from.
    Messages,
    /// A prompt as it stands, or as messages, and its completion.
    PromptCompletion,
    /// A question, put as the task puts its own, and its answer.
    QuestionAnswer,
}

impl Default for SftSection {
    fn default() -> Self {
        Self {
            examples_per_step: 64,
            loss_on: LossTokens::Completion,
            too_long: TooLong::Error,
            data: String::new(),
            format: ExampleFormat::Auto,
            messages_field: "messages".into(),
            prompt_field: "prompt".into(),
            completion_field: "completion".into(),
            question_field: "question".into(),
            answer_field: "answer".into(),
        }
    }
}

/// Optimizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW (Loshchilov and Hutter 2019).
    Adamw,
    /// SGD with momentum β₁.
    Sgd,
    /// Natural gradient with damping and a trust region (Amari 1998; Schulman et al. 2015).
    Natural,
}

/// Scores of which the Fisher matrix is the mean outer product. Both have the same expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FisherScores {
    /// One a completion: ∂ ln p(completion) / ∂v.
    Sequence,
    /// One a token: ∂ ln p(token) / ∂v. Less noise, and a backward pass a token.
    Token,
}

/// Learning-rate schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Stays at the peak.
    Constant,
    /// Falls on a line to 0 at the last step.
    Linear,
    /// Falls on half a cosine to 0 at the last step.
    Cosine,
}

impl Default for OptimizerSection {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            nesterov: false,
            damping: 0.1,
            kl_bound: 0.005,
            fisher: FisherScores::Sequence,
            fisher_samples: 0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            warmup_steps: 0,
            schedule: Schedule::Constant,
        }
    }
}
