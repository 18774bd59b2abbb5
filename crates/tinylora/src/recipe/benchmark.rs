//! The benchmarks that have names: for each, where its rows come from, which fields they have, and how it is asked and
//! scored in published tables. Names enter, plain data leaves; nothing is read or fetched here.

use serde::{Deserialize, Serialize};
use tinylora_verify::Scorer;

/// A benchmark with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Benchmark {
    /// Grade-school word problems (Cobbe et al. 2021).
    Gsm8k,
    /// Competition problems, 7,500 for training (Hendrycks et al. 2021).
    Math,
    /// 500 of MATH's test problems (Lightman et al. 2023).
    Math500,
    /// Undergraduate problems from open courseware (Lewkowycz et al. 2022).
    Minerva,
    /// China's university entrance examination of 2023, translated.
    Gaokao2023En,
    /// Olympiad problems, those of mathematics that need text alone (He et al. 2024).
    OlympiadBench,
    /// Textbook exercises (Tang et al. 2024).
    CollegeMath,
    /// American Invitational Mathematics Examination 2024.
    Aime24,
    /// American Mathematics Competitions 2023, part 12.
    Amc23,
}

/// One of a benchmark's two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// To be learned from.
    Train,
    /// To be measured on.
    Test,
}

impl Split {
    /// Its name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// A file of a data set on the Hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubFile {
    /// `org/name`
    pub repository: &'static str,
    /// Path in it.
    pub file: &'static str,
    /// Branch or commit.
    pub revision: &'static str,
}

/// Where a row's right answer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoldField {
    /// After the last `####` of a field.
    Hashes(&'static str),
    /// The first field if the row has it, else the last box of the second.
    AnswerOrBox(&'static str, &'static str),
    /// The first entry of a list.
    First(&'static str),
}

/// What one benchmark differs in.
#[derive(Debug)]
pub struct About {
    /// Its name on the command line and in recipes.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Names of its folder where the sets are kept together, as `FOLDER/test.jsonl`.
    pub folders: &'static [&'static str],
    /// Its training rows on the Hub.
    pub train: Option<HubFile>,
    /// Its test rows on the Hub.
    pub test: Option<HubFile>,
    /// Fields that may hold the question; the first that a row has counts.
    pub question: &'static [&'static str],
    /// Where the right answer stands.
    pub gold: GoldField,
    /// What results are broken down by: a name, and the field of that kind.
    pub groups: &'static [(&'static str, &'static str)],
    /// The scorer of published tables.
    pub published: Scorer,
    /// Further scorers that are always told.
    pub also: &'static [Scorer],
    /// Prompt format for models with a chat template.
    pub prompt_format: &'static str,
    /// Whether answers are asked for as `#### n` where the prompt format leaves it open; else in a box.
    pub hashes: bool,
    /// Worked examples for models without a chat template.
    pub shots: usize,
    /// Samples a problem; 0: greedy.
    pub samples: usize,
    /// Largest number of tokens of a completion.
    pub max_tokens: usize,
}

impl Benchmark {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Gsm8k,
        Self::Math,
        Self::Math500,
        Self::Minerva,
        Self::Gaokao2023En,
        Self::OlympiadBench,
        Self::CollegeMath,
        Self::Aime24,
        Self::Amc23,
    ];

    /// The benchmark of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|benchmark| benchmark.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.about().name
    }

    /// What it differs in.
    pub fn about(self) -> &'static About {
        match self {
            Self::Gsm8k => &GSM8K,
            Self::Math => &MATH,
            Self::Math500 => &MATH500,
            Self::Minerva => &MINERVA,
            Self::Gaokao2023En => &GAOKAO2023EN,
            Self::OlympiadBench => &OLYMPIADBENCH,
            Self::CollegeMath => &COLLEGEMATH,
            Self::Aime24 => &AIME24,
            Self::Amc23 => &AMC23,
        }
    }

    /// Its file of a split on the Hub.
    pub fn hub_file(self, split: Split) -> Option<HubFile> {
        match split {
            Split::Train => self.about().train,
            Split::Test => self.about().test,
        }
    }
}

/// Benchmarks whose mean is a known figure.
#[derive(Debug, PartialEq, Eq)]
pub struct Average {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// What it is the mean of.
    pub of: &'static [Benchmark],
}

/// The averages of "Learning to Reason in 13 Parameters".
pub const AVERAGES: [Average; 2] = [
    Average {
        name: "paper",
        title: "average of the six sets of the paper's Table 2",
        of: &[
            Benchmark::Gsm8k,
            Benchmark::Math500,
            Benchmark::Minerva,
            Benchmark::OlympiadBench,
            Benchmark::Aime24,
            Benchmark::Amc23,
        ],
    },
    Average {
        name: "paper-math",
        title: "average of the seven sets of the paper's MATH runs",
        of: &[
            Benchmark::Math500,
            Benchmark::Minerva,
            Benchmark::Gaokao2023En,
            Benchmark::OlympiadBench,
            Benchmark::CollegeMath,
            Benchmark::Aime24,
            Benchmark::Amc23,
        ],
    },
];

const fn hub(repository: &'static str, file: &'static str, revision: &'static str) -> Option<HubFile> {
    Some(HubFile { repository, file, revision })
}

const MAIN: &str = "main";

/// What most sets have in common.
const USUAL: About = About {
    name: "",
    title: "",
    folders: &[],
    train: None,
    test: None,
    question: &["question", "problem"],
    gold: GoldField::AnswerOrBox("answer", "solution"),
    groups: &[],
    published: Scorer::Qwen,
    also: &[Scorer::MathVerify],
    prompt_format: "qwen-boxed",
    hashes: false,
    shots: 4,
    samples: 0,
    max_tokens: 2048,
};

static GSM8K: About = About {
    name: "gsm8k",
    title: "GSM8K",
    folders: &["gsm8k"],
    train: hub("openai/gsm8k", "main/train-00000-of-00001.parquet", MAIN),
    test: hub("openai/gsm8k", "main/test-00000-of-00001.parquet", MAIN),
    gold: GoldField::Hashes("answer"),
    published: Scorer::Gsm8kFlexible,
    also: &[Scorer::Gsm8kStrict, Scorer::Qwen],
    prompt_format: "gsm8k",
    hashes: true,
    shots: 8,
    max_tokens: 1024,
    ..USUAL
};

static MATH: About = About {
    name: "math",
    title: "MATH",
    folders: &["math", "MATH"],
    train: hub("DigitalLearningGmbH/MATH-lighteval", "data/train-00000-of-00001.parquet", MAIN),
    test: hub("DigitalLearningGmbH/MATH-lighteval", "data/test-00000-of-00001.parquet", MAIN),
    groups: &[("subject", "type"), ("level", "level")],
    also: &[Scorer::MathVerify, Scorer::Math],
    ..USUAL
};

static MATH500: About = About {
    name: "math500",
    title: "MATH500",
    folders: &["math500", "MATH-500"],
    test: hub("HuggingFaceH4/MATH-500", "test.jsonl", MAIN),
    groups: &[("subject", "subject"), ("level", "level")],
    also: &[Scorer::MathVerify, Scorer::Math],
    ..USUAL
};

static MINERVA: About = About {
    name: "minerva",
    title: "Minerva Math",
    folders: &["minerva_math", "minerva"],
    groups: &[("course", "type")],
    published: Scorer::QwenUnits,
    ..USUAL
};

static GAOKAO2023EN: About =
    About { name: "gaokao2023en", title: "GAOKAO 2023 (English)", folders: &["gaokao2023en"], ..USUAL };

static OLYMPIADBENCH: About = About {
    name: "olympiadbench",
    title: "OlympiadBench",
    folders: &["olympiadbench"],
    test: hub("Hothan/OlympiadBench", "OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet", MAIN),
    gold: GoldField::First("final_answer"),
    groups: &[("field", "subfield"), ("answer", "answer_type")],
    ..USUAL
};

static COLLEGEMATH: About = About {
    name: "collegemath",
    title: "CollegeMath",
    folders: &["college_math", "collegemath"],
    groups: &[("topic", "data_topic")],
    ..USUAL
};

static AIME24: About = About {
    name: "aime24",
    title: "AIME 2024",
    folders: &["aime24"],
    test: hub("math-ai/aime24", "test-00000-of-00001.parquet", MAIN),
    samples: 32,
    ..USUAL
};

static AMC23: About = About {
    name: "amc23",
    title: "AMC 2023",
    folders: &["amc23"],
    test: hub("math-ai/amc23", "test-00000-of-00001.parquet", MAIN),
    samples: 32,
    ..USUAL
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_to_one_and_those_of_recipes() {
        for benchmark in Benchmark::ALL {
            assert_eq!(Benchmark::from_name(benchmark.name()), Some(benchmark));
            let written = serde_json::to_value(benchmark).unwrap();
            assert_eq!(written, benchmark.name());
            assert!(!benchmark.about().folders.is_empty() && !benchmark.about().title.is_empty());
            assert!(crate::recipe::prompt_format(benchmark.about().prompt_format).is_some());
            assert!(!benchmark.about().also.contains(&benchmark.about().published));
        }
        assert_eq!(Benchmark::from_name("gsm9k"), None);
        assert!(AVERAGES.iter().all(|average| Benchmark::from_name(average.name).is_none()));
    }
}
