//! Worked examples for prompts, written for this project: word problems for GSM8K, problems with formulas for the other
//! sets. They are in no data set.

use crate::recipe::Benchmark;

/// A question with a worked answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The question.
    pub question: String,
    /// The way to the answer.
    pub reasoning: String,
    /// The answer alone.
    pub answer: String,
}

/// The pool for a benchmark.
pub fn own_examples(benchmark: Benchmark) -> Vec<Example> {
    let pool = if benchmark.about().hashes { &WORDS } else { &FORMULAS };
    pool.iter()
        .map(|[question, reasoning, answer]| Example {
            question: (*question).into(),
            reasoning: (*reasoning).into(),
            answer: (*answer).into(),
        })
        .collect()
}

const WORDS: [[&str; 3]; 8] = [
    [
        "A florist ties 9 bunches of 12 tulips each. She sells 67 of the tulips before noon. How many tulips are left?",
        "She ties 9 * 12 = 108 tulips. After selling 67 of them, 108 - 67 = 41 are left.",
        "41",
    ],
    [
        "Mirko cycles 14 km to work and the same way back, on 5 days a week. How many kilometres is that in 4 weeks?",
        "A day has 14 + 14 = 28 km. A week has 28 * 5 = 140 km. Four weeks have 140 * 4 = 560 km.",
        "560",
    ],
    [
        "A jar holds 84 buttons. A quarter of them are red, a third of the rest are blue, and the others are white. \
         How many buttons are white?",
        "Red are 84 / 4 = 21, so 84 - 21 = 63 are not red. Blue are 63 / 3 = 21 of these. White are 63 - 21 = 42.",
        "42",
    ],
    [
        "A ticket to the aquarium costs $18, and children pay half. What do 2 adults and 3 children pay together?",
        "A child pays 18 / 2 = 9 dollars. Two adults pay 2 * 18 = 36 dollars, three children 3 * 9 = 27 dollars. \
         Together that is 36 + 27 = 63 dollars.",
        "63",
    ],
    [
        "Ines reads 24 pages on Monday, twice as many on Tuesday, and 10 fewer than on Tuesday on Wednesday. Her book has \
         180 pages. How many pages are still unread?",
        "On Tuesday she reads 2 * 24 = 48 pages and on Wednesday 48 - 10 = 38. So far that is 24 + 48 + 38 = 110 pages. \
         180 - 110 = 70 are unread.",
        "70",
    ],
    [
        "A pump fills a tank of 1,500 litres at 25 litres a minute. It was switched on with 300 litres already in the tank. \
         After how many minutes is the tank full?",
        "There is room for 1500 - 300 = 1200 litres. That takes 1200 / 25 = 48 minutes.",
        "48",
    ],
    [
        "Last year a club had 120 members. This year it has 15% more. Each member pays $20. How many dollars does the club \
         get this year?",
        "15% of 120 is 120 * 15 / 100 = 18, so there are 120 + 18 = 138 members. They pay 138 * 20 = 2760 dollars.",
        "2760",
    ],
    [
        "Tomás is 4 years older than twice his sister's age. In 3 years his sister will be 10. How old is Tomás now?",
        "His sister is 10 - 3 = 7 now. Twice her age is 2 * 7 = 14, and Tomás is 14 + 4 = 18.",
        "18",
    ],
];

const FORMULAS: [[&str; 3]; 8] = [
    [
        "Solve $3x - 7 = 2x + 5$.",
        "Taking $2x$ from both sides gives $x - 7 = 5$, and adding $7$ gives $x = 12$.",
        "12",
    ],
    [
        "A right triangle has legs of lengths $9$ and $40$. What is the length of its hypotenuse?",
        "By the Pythagorean theorem the hypotenuse is $\\sqrt{9^2 + 40^2} = \\sqrt{81 + 1600} = \\sqrt{1681} = 41$.",
        "41",
    ],
    [
        "Two fair dice are thrown. What is the probability that the sum is $5$? Give a reduced fraction.",
        "The sum is $5$ for $(1,4), (2,3), (3,2), (4,1)$: $4$ of $36$ equally likely outcomes. \
         $\\frac{4}{36} = \\frac{1}{9}$.",
        "\\frac{1}{9}",
    ],
    [
        "What is the remainder when $2^{10}$ is divided by $7$?",
        "Since $2^3 = 8$ leaves remainder $1$, so does $2^9$. Hence $2^{10} = 2^9 \\cdot 2$ leaves remainder $2$.",
        "2",
    ],
    [
        "Factor $x^2 - 5x - 14$.",
        "Two numbers with product $-14$ and sum $-5$ are $-7$ and $2$, so $x^2 - 5x - 14 = (x-7)(x+2)$.",
        "(x-7)(x+2)",
    ],
    [
        "Find the derivative of $x^2 e^{3x}$.",
        "By the product rule the derivative is $2x e^{3x} + x^2 \\cdot 3e^{3x} = (3x^2 + 2x)e^{3x}$.",
        "(3x^2+2x)e^{3x}",
    ],
    [
        "For which real numbers $x$ is $x^2 < 9$? Give an interval.",
        "$x^2 < 9$ means $|x| < 3$, that is $-3 < x < 3$.",
        "(-3,3)",
    ],
    [
        "The sum of the first $n$ odd positive integers is $196$. What is $n$?",
        "The sum of the first $n$ odd positive integers is $n^2$. From $n^2 = 196$ and $n > 0$ follows $n = 14$.",
        "14",
    ],
];

#[cfg(test)]
mod tests {
    use super::*;
    use tinylora_verify::{Gold, Prediction, Scorer, Verdict, verify};

    /// Each "a op b … = c" of the word problems is right, and the last c is the answer.
    #[test]
    fn word_problems_are_worked_correctly() {
        for example in own_examples(Benchmark::Gsm8k) {
            let words: Vec<&str> =
                example.reasoning.split_whitespace().map(|w| w.trim_end_matches(['.', ','])).collect();
            let (mut last, mut equations) = (String::new(), 0);
            for (at, _) in words.iter().enumerate().filter(|(_, word)| **word == "=") {
                let part =
                    |word: &&&str| word.parse::<f64>().is_ok() || matches!(**word, "+" | "-" | "*" | "/");
                let from = at - words[..at].iter().rev().take_while(part).count();
                let left = words[from..at].join(" ");
                let verdict =
                    verify(Scorer::Robust, Gold(words[at + 1]), Prediction(&format!("\\boxed{{{left}}}")));
                assert_eq!(verdict, Verdict::Equal, "{left} = {}", words[at + 1]);
                last = words[at + 1].to_owned();
                equations += 1;
            }
            assert!(equations >= 2, "{}", example.reasoning);
            assert_eq!(last, example.answer, "{}", example.question);
        }
    }

    /// What the last formula comes to is the answer.
    #[test]
    fn formulas_end_in_their_answers() {
        for example in own_examples(Benchmark::Math500) {
            let last = example.reasoning.split('$').rev().nth(1).unwrap();
            let side = last.rsplit(" = ").next().unwrap();
            let verdict =
                verify(Scorer::Robust, Gold(&example.answer), Prediction(&format!("\\boxed{{{side}}}")));
            assert_eq!(verdict, Verdict::Equal, "{side}: {}", example.reasoning);
        }
    }
}
