//! Text in LaTeX, plain notation or a mixture enters, tokens leave. Layout commands go; Unicode signs become those of
//! one alphabet.

use dashu_int::IBig;
use dashu_ratio::RBig;

/// More characters than this are no answer.
const CHARACTERS: usize = 20_000;
/// Numbers have at most so many digits.
const DIGITS: usize = 4_000;
/// Formulas in `\mathrm` are shorter than this.
const FORMULA: usize = 200;
/// Exponents of scientific notation are at most this.
const EXPONENT: i64 = 4_000;

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A number, its decimal places (none for a whole number), and its digits as they were written.
    Number(RBig, Option<u32>, String),
    /// A variable or constant: a letter, or a command's name.
    Letter(String),
    /// A function or construction: `frac`, `sin`, …
    Name(String),
    /// Words in `\text{…}` and its like.
    Text(String),
    /// A sign.
    Sign(char),
    /// Begin of an environment.
    Begin(String),
    /// End of an environment.
    End(String),
    /// `\\`
    Row,
}

/// A token and whether blanks stand before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Blanks stand before it.
    pub spaced: bool,
}

/// What makes text no tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

const FUNCTIONS: [&str; 56] = [
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc",
    "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "arsinh", "arcosh", "artanh", "asin", "acos",
    "atan", "log", "ln", "lg", "exp", "sqrt", "max", "min", "gcd", "lcm", "det", "lim", "sum", "prod", "int",
    "arg", "Re", "Im", "abs", "floor", "ceil", "frac", "binom", "mod", "tr", "rank", "dim", "sgn", "conj",
    "cis", "Arg", "sech", "csch",
];

const GREEK: [&str; 20] = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu",
    "rho", "sigma", "tau", "phi", "chi", "psi", "omega", "pi",
];

/// Splits text into tokens.
pub fn tokens(text: &str) -> Result<Vec<Token>, TooLong> {
    let chars: Vec<char> = text.chars().take(CHARACTERS + 1).collect();
    if chars.len() > CHARACTERS {
        return Err(TooLong);
    }
    let mut lexer = Lexer { chars, at: 0, out: Vec::new(), spaced: false, environment: false };
    lexer.run()?;
    Ok(lexer.out)
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    out: Vec<Token>,
    spaced: bool,
    /// An environment has begun, in which `\\` ends a row.
    environment: bool,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn push(&mut self, kind: Kind) {
        self.out.push(Token { kind, spaced: std::mem::take(&mut self.spaced) });
    }

    fn sign(&mut self, sign: char) {
        self.push(Kind::Sign(sign));
    }

    fn run(&mut self) -> Result<(), TooLong> {
        while let Some(c) = self.peek(0) {
            match c {
                '\\' => self.command()?,
                '0'..='9' => self.number()?,
                '.' if self.peek(1).is_some_and(|c| c.is_ascii_digit()) => self.number()?,
                'a'..='z' | 'A'..='Z' => self.word(),
                _ => {
                    self.at += 1;
                    self.character(c);
                }
            }
        }
        Ok(())
    }

    fn character(&mut self, c: char) {
        match c {
            '$' | '"' | '`' | '~' | '\u{200b}' => self.spaced = true,
            c if c.is_whitespace() => self.spaced = true,
            '−' | '–' | '—' => self.sign('-'),
            '*' if self.peek(0) == Some('*') => {
                self.at += 1;
                self.sign('^');
            }
            '×' | '·' | '⋅' | '∙' => self.sign('*'),
            '÷' => self.sign('/'),
            '<' | '>' | '!' if self.peek(0) == Some('=') => {
                self.at += 1;
                self.sign(match c {
                    '<' => '≤',
                    '>' => '≥',
                    _ => '≠',
                });
            }
            '⩽' => self.sign('≤'),
            '⩾' => self.sign('≥'),
            '²' | '³' | '⁴' => {
                self.sign('^');
                let digit = if c == '⁴' { 4 } else { 2 + i64::from(c == '³') };
                self.push(Kind::Number(RBig::from(digit), None, digit.to_string()));
            }
            'π' => self.push(Kind::Letter("pi".into())),
            '√' => self.push(Kind::Name("sqrt".into())),
            '’' | '′' => self.sign('\''),
            '∣' => self.sign('|'),
            '€' | '£' | '¥' | '₹' => self.spaced = true,
            c if c.is_alphabetic() => self.push(Kind::Letter(c.to_string())),
            c => self.sign(c),
        }
    }

    /// Digits with thousands separators, decimals, a repeating part or a power of ten.
    fn number(&mut self) -> Result<(), TooLong> {
        let mut whole = self.digits();
        if !whole.is_empty() && whole.len() <= 3 && !whole.starts_with('0') {
            while let Some(group) = self.thousands() {
                whole.push_str(&group);
            }
        }
        let mut fraction = None;
        if self.peek(0) == Some('.') && self.peek(1).is_none_or(|c| c != '.') {
            let next: String = self.chars[self.at + 1..].iter().take(10).collect();
            let repeats = ["\\overline{", "\\bar{", "\\dot{"].iter().any(|mark| next.starts_with(mark));
            let digits_follow = repeats || self.peek(1).is_some_and(|c| c.is_ascii_digit());
            // A full stop at the end is punctuation.
            if digits_follow || (self.peek(1).is_some() && !self.ends_here(1)) {
                self.at += 1;
                fraction = Some(self.digits());
            }
        }
        if whole.len() + fraction.as_ref().map_or(0, String::len) > DIGITS {
            return Err(TooLong);
        }
        let text = format!("{whole}{}", fraction.as_ref().map_or(String::new(), |f| format!(".{f}")));
        let digits = format!("{whole}{}", fraction.as_deref().unwrap_or_default());
        let places = fraction.as_ref().map(|f| f.len() as u32);
        let mut value = RBig::from(digits.parse::<IBig>().unwrap_or_default());
        value /= RBig::from(10).pow(places.unwrap_or(0) as isize);
        if let Some(repeat) = fraction.as_ref().and_then(|_| self.repeating()) {
            let nines = IBig::from(10).pow(repeat.len()) - 1;
            let part = RBig::from(repeat.parse::<IBig>().unwrap_or_default()) / RBig::from(nines);
            value += part / RBig::from(10).pow(places.unwrap_or(0) as isize);
            self.push(Kind::Number(value, None, text));
            return Ok(());
        }
        if let Some(exponent) = self.exponent() {
            value *= RBig::from(10).pow(exponent as isize);
        }
        self.push(Kind::Number(value, places, text));
        Ok(())
    }

    fn digits(&mut self) -> String {
        let start = self.at;
        while self.peek(0).is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    /// Whether the text ends or goes on with a blank or a closing sign after `ahead` characters.
    fn ends_here(&self, ahead: usize) -> bool {
        self.peek(ahead).is_none_or(|c| c.is_whitespace() || "$)]},;\\".contains(c))
    }

    /// `,123`, `{,}123`, `\,123` or `,\!123` after up to three digits.
    fn thousands(&mut self) -> Option<String> {
        let rest: String = self.chars[self.at..(self.at + 8).min(self.chars.len())].iter().collect();
        let mark = [",\\!", "{,}", "\\,", "\\!", ","].into_iter().find(|mark| rest.starts_with(mark))?;
        let group: String =
            rest.chars().skip(mark.chars().count()).take_while(char::is_ascii_digit).collect();
        let more = self.peek(mark.chars().count() + 3).is_some_and(|c| c.is_ascii_digit());
        if group.len() < 3 || more {
            return None;
        }
        self.at += mark.chars().count() + 3;
        Some(group.chars().take(3).collect())
    }

    /// `\overline{3}` after decimals.
    fn repeating(&mut self) -> Option<String> {
        let rest: String = self.chars[self.at..(self.at + 40).min(self.chars.len())].iter().collect();
        let mark = ["\\overline{", "\\bar{", "\\dot{"].into_iter().find(|mark| rest.starts_with(mark))?;
        let content = rest[mark.len()..].split_once('}')?.0.to_string();
        let digits = !content.is_empty() && content.chars().all(|c| c.is_ascii_digit());
        digits.then(|| {
            self.at += mark.chars().count() + content.len() + 1;
            content
        })
    }

    /// `e-5` directly after a number, where a digit follows and no letter ends it.
    fn exponent(&mut self) -> Option<i64> {
        if !matches!(self.peek(0), Some('e' | 'E')) {
            return None;
        }
        let signed = matches!(self.peek(1), Some('-' | '+'));
        let start = 1 + usize::from(signed);
        let digits: String =
            (start..start + 5).map_while(|i| self.peek(i)).take_while(char::is_ascii_digit).collect();
        let value = digits.parse::<i64>().ok().filter(|value| *value <= EXPONENT)?;
        let after = self.peek(start + digits.len());
        if after.is_some_and(|c| c.is_ascii_alphanumeric() || c == '^') {
            return None;
        }
        self.at += start + digits.len();
        Some(if self.chars[self.at - digits.len() - 1] == '-' { -value } else { value })
    }

    /// Letters without a backslash: a function's or Greek letter's name, a joining word, or one variable a letter.
    fn word(&mut self) {
        let start = self.at;
        while self.peek(0).is_some_and(|c| c.is_ascii_alphabetic()) {
            self.at += 1;
        }
        let word: String = self.chars[start..self.at].iter().collect();
        self.named(&word);
    }

    fn named(&mut self, word: &str) {
        match word {
            "and" | "or" => self.sign(','),
            "infinity" | "infty" | "inf" | "oo" => self.sign('∞'),
            "percent" | "percentage" | "pct" => self.sign('%'),
            "U" if self.spaced
                && self.out.last().is_some_and(|t| matches!(t.kind, Kind::Sign(')' | ']'))) =>
            {
                self.sign('∪');
            }
            _ if FUNCTIONS.contains(&word) => self.push(Kind::Name(word.into())),
            _ if GREEK.contains(&word) => self.push(Kind::Letter(word.into())),
            _ => {
                // `sqrt3x` and the like: a function's name at the begin.
                for name in ["sqrt", "arcsin", "arctan", "arccos", "sin", "cos", "tan", "log", "ln", "pi"] {
                    if let Some(rest) = word.strip_prefix(name).filter(|rest| rest.len() == 1) {
                        self.named(name);
                        self.push(Kind::Letter(rest.into()));
                        return;
                    }
                }
                for c in word.chars() {
                    self.push(Kind::Letter(c.to_string()));
                }
            }
        }
    }

    fn command(&mut self) -> Result<(), TooLong> {
        self.at += 1;
        let Some(c) = self.peek(0) else { return Ok(()) };
        if !c.is_ascii_alphabetic() {
            self.at += 1;
            match c {
                '\\' => self.double_backslash(),
                '{' => self.sign('⦃'),
                '}' => self.sign('⦄'),
                '|' => self.sign('‖'),
                '%' => self.sign('%'),
                '(' | ')' | '[' | ']' => self.spaced = true,
                ',' | ';' | ':' | '!' | ' ' | '$' | '/' | '>' | '\n' | '"' => self.spaced = true,
                _ => self.sign(c),
            }
            return Ok(());
        }
        let start = self.at;
        while self.peek(0).is_some_and(|c| c.is_ascii_alphabetic()) {
            self.at += 1;
        }
        let name: String = self.chars[start..self.at].iter().collect();
        self.known(&name);
        Ok(())
    }

    /// `\\frac` written in a string with doubled backslashes is a command; else a new row.
    fn double_backslash(&mut self) {
        let rest: String = self.chars[self.at..].iter().take_while(|c| c.is_ascii_alphabetic()).collect();
        let doubled = !self.environment || ["frac", "dfrac", "sqrt", "pi"].contains(&rest.as_str());
        if doubled && rest.len() > 1 {
            self.at += rest.len();
            self.known(&rest);
        } else {
            self.push(Kind::Row);
        }
    }

    fn known(&mut self, name: &str) {
        let sign = match name {
            "times" | "cdot" | "ast" => '*',
            "div" => '/',
            "pm" => '±',
            "mp" => '∓',
            "le" | "leq" | "leqslant" => '≤',
            "ge" | "geq" | "geqslant" => '≥',
            "lt" => '<',
            "gt" => '>',
            "ne" | "neq" => '≠',
            "in" => '∈',
            "cup" | "bigcup" => '∪',
            "cap" | "bigcap" => '∩',
            "setminus" | "backslash" => '∖',
            "to" | "rightarrow" | "longrightarrow" => '→',
            "infty" => '∞',
            "mid" | "vert" | "lvert" | "rvert" => '|',
            "Vert" | "lVert" | "rVert" => '‖',
            "lfloor" => '⌊',
            "rfloor" => '⌋',
            "lceil" => '⌈',
            "rceil" => '⌉',
            "langle" => '⟨',
            "rangle" => '⟩',
            "lbrace" => '⦃',
            "rbrace" => '⦄',
            "lbrack" => '[',
            "rbrack" => ']',
            "circ" | "degree" => '°',
            "prime" => '\'',
            "approx" | "simeq" => '≈',
            "equiv" => '=',
            "ldots" | "cdots" | "dots" => '…',
            "colon" => ':',
            "varnothing" | "emptyset" => '∅',
            _ => return self.construction(name),
        };
        self.sign(sign);
    }

    fn construction(&mut self, name: &str) {
        match name {
            "left" | "right" => {
                if self.peek(0) == Some('.') {
                    self.at += 1;
                }
                self.spaced = true;
            }
            "big" | "Big" | "bigg" | "Bigg" | "bigl" | "bigr" | "Bigl" | "Bigr" | "displaystyle"
            | "textstyle" | "quad" | "qquad" | "limits" | "nolimits" | "boxed" | "fbox" | "rm" | "bf"
            | "it" | "nonumber" | "thinspace" | "space" | "middle" => self.spaced = true,
            "frac" | "dfrac" | "tfrac" | "cfrac" => self.push(Kind::Name("frac".into())),
            "binom" | "dbinom" | "tbinom" => self.push(Kind::Name("binom".into())),
            "bmod" | "pmod" | "mod" => self.push(Kind::Name("mod".into())),
            "text" | "mbox" | "textbf" | "textit" | "textrm" | "hbox" | "textnormal" | "textsf"
            | "texttt" => {
                self.words(true);
            }
            "mathrm" | "mathbf" | "mathit" | "mathsf" | "operatorname" | "boldsymbol" | "mathcal" | "bm"
            | "mathnormal" => self.words(false),
            "mathbb" | "overline" | "bar" | "hat" | "widehat" | "tilde" | "widetilde" | "vec"
            | "overrightarrow" | "dot" | "ddot" | "underline" | "overparen" | "widearc" | "overset"
            | "underset" => {
                let accent = match name {
                    "overrightarrow" => "vec",
                    "bar" => "overline",
                    "widehat" => "hat",
                    "widetilde" => "tilde",
                    other => other,
                };
                let content = self.braced();
                self.push(Kind::Letter(format!("{accent}({})", content.replace(' ', ""))));
            }
            "hspace" | "vspace" | "phantom" | "label" | "tag" | "color" => {
                self.braced();
                self.spaced = true;
            }
            "begin" => {
                let name = self.braced().trim_end_matches('*').to_string();
                if name == "array" || name == "tabular" {
                    self.braced();
                }
                self.environment = true;
                self.push(Kind::Begin(name));
            }
            "end" => {
                let name = self.braced().trim_end_matches('*').to_string();
                self.push(Kind::End(name));
            }
            _ if FUNCTIONS.contains(&name) => self.push(Kind::Name(name.into())),
            "varphi" => self.push(Kind::Letter("phi".into())),
            "varepsilon" => self.push(Kind::Letter("epsilon".into())),
            _ => self.push(Kind::Letter(name.into())),
        }
    }

    /// The content of the braces that follow, or the next character.
    fn braced(&mut self) -> String {
        while self.peek(0) == Some(' ') {
            self.at += 1;
        }
        if self.peek(0) != Some('{') {
            let one = self.peek(0).filter(char::is_ascii_alphanumeric);
            self.at += usize::from(one.is_some());
            return one.map(String::from).unwrap_or_default();
        }
        let (start, mut depth) = (self.at + 1, 0);
        while let Some(c) = self.peek(0) {
            self.at += 1;
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth == 0 {
                return self.chars[start..self.at - 1].iter().collect();
            }
        }
        self.chars[start.min(self.chars.len())..].iter().collect()
    }

    /// `\text{…}` (`prose`) or `\mathrm{…}`: words, a function's name, or letters.
    fn words(&mut self, prose: bool) {
        let content = self.braced().replace(['~', '$'], " ");
        let content = content.trim().trim_matches(|c| c == '(' || c == ')').trim();
        let letters = content.chars().all(|c| c.is_ascii_alphabetic());
        if content.is_empty() {
            self.spaced = true;
        } else if FUNCTIONS.contains(&content) {
            self.push(Kind::Name(content.into()));
        } else if matches!(content, "and" | "or" | "and," | "or,") {
            self.sign(',');
        } else if matches!(content, "percent" | "%" | "percentage" | "pct" | "\\%") {
            self.sign('%');
        } else if letters && content.len() == 1 {
            self.push(Kind::Letter(content.into()));
        } else if !prose && !letters && content.len() < FORMULA {
            // Formulas in \mathrm or \boldsymbol are formulas.
            let inner = tokens(content).unwrap_or_default();
            self.out.extend(inner);
        } else if content.chars().all(|c| c.is_ascii_digit() || ".,".contains(c)) {
            self.out.extend(tokens(content).unwrap_or_default());
        } else {
            self.push(Kind::Text(content.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let one = |token: &Token| match &token.kind {
            Kind::Number(value, places, _) => format!("{value}{}", places.map_or("", |_| "d")),
            Kind::Letter(name) => name.clone(),
            Kind::Name(name) => format!("@{name}"),
            Kind::Text(text) => format!("<{text}>"),
            Kind::Sign(sign) => sign.to_string(),
            Kind::Begin(name) => format!("begin:{name}"),
            Kind::End(name) => format!("end:{name}"),
            Kind::Row => "row".into(),
        };
        tokens(text).unwrap().iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn numbers_in_all_spellings() {
        for (text, expected) in [
            ("1,234,567", "1234567"),
            ("14{,}916 12,\\!000,\\!003", "14916 12000003"),
            ("1,22", "1 , 22"),
            ("32, 349", "32 , 349"),
            (".5 5.", "1/2d 5 ."),
            ("-1./3", "- 1d / 3"),
            ("4.6e-24", "23/5000000000000000000000000d"),
            ("2e3 2e^x", "2000 2 e ^ x"),
            ("0.\\overline{36}", "4/11"),
            ("1,2345", "1 , 2345"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn commands_and_words() {
        assert_eq!(shown("\\dfrac12 \\left[\\text{ cm}\\right)"), "@frac 12 [ <cm> )");
        assert_eq!(shown("x \\leq 3 \\text{ or } x>=\\mathrm{e}"), "x ≤ 3 , x ≥ e");
        assert_eq!(shown("sqrt(2)pi xy"), "@sqrt ( 2 ) pi x y");
        assert_eq!(shown("\\overrightarrow{A B}"), "vec(AB)");
    }

    #[test]
    fn what_is_too_long_is_refused() {
        assert_eq!(tokens(&"{".repeat(1_000_000)), Err(TooLong));
        assert_eq!(tokens(&"7".repeat(10_000)), Err(TooLong));
    }
}
