//! The smallest parts of an expression: numbers, symbols, brackets, functions, matrices, sums over a range.

use super::{Expr, Function, IBig, Kind, Parsed, Parser, RBig, Relation, times};

/// Letters that stand for a function where brackets follow.
const FUNCTIONS: [&str; 8] = ["f", "g", "h", "F", "G", "H", "W", "\u{3c6}"];
/// Arguments after which any letter before the brackets is a function.
const ARGUMENTS: [&str; 6] = ["t", "x", "n", "s", "z", "theta"];

impl Parser<'_> {
    pub(super) fn atom(&mut self) -> Parsed<Expr> {
        self.deeper(|p| p.atom_here())
    }

    fn atom_here(&mut self) -> Parsed<Expr> {
        match self.peek().cloned() {
            Some(Kind::Number(value, places, digits)) => {
                self.at += 1;
                if self.sign() == Some('_') {
                    return self.based(&digits);
                }
                Ok(Expr::Number(value, places))
            }
            Some(Kind::Letter(name)) => {
                self.at += 1;
                self.symbol(name)
            }
            Some(Kind::Text(text)) => {
                self.at += 1;
                Ok(Expr::Text(text))
            }
            Some(Kind::Name(name)) => {
                self.at += 1;
                self.named(&name)
            }
            Some(Kind::Begin(name)) => {
                self.at += 1;
                self.environment(&name)
            }
            Some(Kind::Sign(sign)) => self.bracketed(sign),
            _ => Err(self.unexpected()),
        }
    }

    /// `1023_4`: a number in another base.
    fn based(&mut self, digits: &str) -> Parsed<Expr> {
        self.at += 1;
        let base = self.atom()?;
        let base = match &base {
            Expr::Number(base, None) => u32::try_from(base.numerator().clone()).ok(),
            _ => None,
        };
        match base.filter(|base| (2..=36).contains(base)).map(|base| IBig::from_str_radix(digits, base)) {
            Some(Ok(value)) => Ok(Expr::Number(RBig::from(value), None)),
            _ => Err(self.unexpected()),
        }
    }

    fn symbol(&mut self, mut name: String) -> Parsed<Expr> {
        if self.sign() == Some('_') {
            self.at += 1;
            name = format!("{name}_{}", self.raw_group()?);
        }
        match name.as_str() {
            "pi" => return Ok(Expr::Pi),
            "e" => return Ok(Expr::E),
            "i" | "imath" => return Ok(Expr::I),
            _ => {}
        }
        while self.take('\'') {
            name.push('\'');
        }
        if self.sign() == Some('(') && self.calls(&name) {
            let Expr::List(items) = self.arguments('(', ')')? else { return Err(self.unexpected()) };
            return Ok(Expr::Call(name, items));
        }
        Ok(Expr::Symbol(name))
    }

    /// Whether a letter before brackets is a function.
    fn calls(&self, name: &str) -> bool {
        let letter = |kind: Option<&Kind>| matches!(kind, Some(Kind::Letter(l)) if ARGUMENTS.contains(&l.as_str()) && *l != name);
        let single = letter(self.kind(1)) && self.kind(2) == Some(&Kind::Sign(')'));
        let base = name.split(['_', '\'']).next().unwrap_or(name);
        let comma = base.chars().all(char::is_uppercase)
            && (1..40)
                .map_while(|k| self.kind(k))
                .take_while(|k| **k != Kind::Sign(')'))
                .any(|k| *k == Kind::Sign(','));
        FUNCTIONS.contains(&base) || single || comma
    }

    /// The tokens of a group, or of one token, written without blanks.
    fn raw_group(&mut self) -> Parsed<String> {
        let (mut text, mut depth) = (String::new(), 0);
        loop {
            match self.peek() {
                Some(Kind::Sign('{')) => depth += 1,
                Some(Kind::Sign('}')) => depth -= 1,
                Some(Kind::Number(_, _, digits)) => text.push_str(digits),
                Some(Kind::Letter(name) | Kind::Name(name) | Kind::Text(name)) => text.push_str(name),
                Some(Kind::Sign(sign)) => text.push(*sign),
                _ => return Err(self.unexpected()),
            }
            self.fuel.spend(1)?;
            self.at += 1;
            if depth <= 0 {
                return Ok(text);
            }
        }
    }

    /// A list in brackets, always as a list.
    fn arguments(&mut self, open: char, close: char) -> Parsed<Expr> {
        self.expect(open)?;
        let bars = std::mem::take(&mut self.bars);
        let list = self.list(false);
        self.bars = bars;
        let list = list?;
        self.expect(close)?;
        Ok(list)
    }

    fn bracketed(&mut self, sign: char) -> Parsed<Expr> {
        self.at += 1;
        let bars = std::mem::take(&mut self.bars);
        let value = match sign {
            '(' | '[' | '⟨' => self.group(sign),
            '{' => self.braces(),
            '⦃' => self.set(),
            '|' | '‖' => {
                self.bars = 1;
                let value = self.sum();
                self.bars = 0;
                value
                    .and_then(|value| self.expect(sign).map(|()| Expr::Apply(Function::Abs, Box::new(value))))
            }
            '⌊' => {
                self.sum().and_then(|x| self.expect('⌋').map(|()| Expr::Apply(Function::Floor, Box::new(x))))
            }
            '⌈' => {
                self.sum().and_then(|x| self.expect('⌉').map(|()| Expr::Apply(Function::Ceil, Box::new(x))))
            }
            '∞' => Ok(Expr::Infinity),
            '∅' => Ok(Expr::Set(Vec::new())),
            '…' => Ok(Expr::Symbol("…".into())),
            '°' => Ok(Expr::Symbol("°".into())),
            _ => {
                self.at -= 1;
                Err(self.unexpected())
            }
        };
        self.bars = bars;
        value
    }

    /// Round, square or angle brackets: a bracketed expression, a tuple or an interval.
    fn group(&mut self, open: char) -> Parsed<Expr> {
        let Expr::List(mut items) = self.list(false)? else { return Err(self.unexpected()) };
        let close = match self.sign() {
            Some(close @ (')' | ']' | '⟩')) => close,
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        let paired = matches!((open, close), ('(', ')') | ('[', ']') | ('⟨', '⟩'));
        Ok(if items.len() == 1 && paired { items.remove(0) } else { Expr::Group(open, items, close) })
    }

    /// Braces that only group; empty ones are the empty set.
    fn braces(&mut self) -> Parsed<Expr> {
        if self.take('}') {
            return if self.at >= self.tokens.len() { Err(self.unexpected()) } else { self.atom() };
        }
        let value = self.list(true)?;
        self.expect('}')?;
        Ok(value)
    }

    /// `\{…\}`: a set by its elements or by a condition.
    fn set(&mut self) -> Parsed<Expr> {
        if self.take('⦄') {
            return Ok(Expr::Set(Vec::new()));
        }
        self.bars = 1;
        let first = self.list(false);
        self.bars = 0;
        let Expr::List(mut items) = first? else { return Err(self.unexpected()) };
        if matches!(self.sign(), Some('|' | ':')) && items.len() == 1 {
            self.at += 1;
            let condition = self.list(true)?;
            self.expect('⦄')?;
            return Ok(Expr::Builder(Box::new(items.remove(0)), Box::new(condition)));
        }
        self.expect('⦄')?;
        Ok(Expr::Set(items))
    }

    fn named(&mut self, name: &str) -> Parsed<Expr> {
        match name {
            "frac" | "binom" => {
                let (up, down) = self.two_operands()?;
                return Ok(if name == "frac" {
                    Expr::Divide(Box::new(up), Box::new(down))
                } else {
                    Expr::Call("binom".into(), vec![up, down])
                });
            }
            "sqrt" => {
                let degree = if self.sign() == Some('[') {
                    self.at += 1;
                    let degree = self.sum()?;
                    self.expect(']')?;
                    degree
                } else {
                    Expr::int(2)
                };
                let radicand = self.operand()?;
                return Ok(Expr::Root(Box::new(radicand), Box::new(degree)));
            }
            "sum" | "prod" => return self.series(name == "sum"),
            "int" | "lim" => return self.opaque(name),
            _ => {}
        }
        let base = if self.take('_') { Some(self.operand()?) } else { None };
        let exponent = if self.take('^') { Some(self.operand_signed()?) } else { None };
        let base = if base.is_none() && self.take('_') { Some(self.operand()?) } else { base };
        let list = matches!(name, "max" | "min" | "gcd" | "lcm");
        if list {
            let items = match self.sign() {
                Some('(') => self.arguments('(', ')')?,
                Some('⦃') => self.arguments('⦃', '⦄')?,
                _ => return Err(self.unexpected()),
            };
            let Expr::List(items) = items else { return Err(self.unexpected()) };
            return Ok(Expr::Call(name.into(), items));
        }
        let argument = self.argument()?;
        apply(name, argument, base, exponent).ok_or_else(|| self.unexpected())
    }

    /// What a command takes: a group, a number or a letter.
    fn operand(&mut self) -> Parsed<Expr> {
        self.atom()
    }

    fn operand_signed(&mut self) -> Parsed<Expr> {
        if self.take('-') { Ok(Expr::Negate(Box::new(self.operand()?))) } else { self.operand() }
    }

    /// `\frac12` and `\frac1{2}`: one digit is the numerator, the next the denominator.
    fn two_operands(&mut self) -> Parsed<(Expr, Expr)> {
        let digit = |text: &str| Expr::Number(RBig::from(text.parse::<IBig>().unwrap_or_default()), None);
        if let Some(Kind::Number(_, None, digits)) = self.peek().cloned()
            && digits.len() > 1
        {
            self.at += 1;
            return Ok((digit(&digits[..1]), digit(&digits[1..])));
        }
        Ok((self.atom()?, self.atom()?))
    }

    /// A function's argument: brackets, or factors up to a sign or the next function.
    fn argument(&mut self) -> Parsed<Expr> {
        if matches!(self.sign(), Some('(' | '{' | '[')) {
            return self.atom();
        }
        let mut value = if self.take('-') { Expr::Negate(Box::new(self.power()?)) } else { self.power()? };
        loop {
            let follows = match self.peek() {
                Some(Kind::Letter(_)) => true,
                Some(Kind::Number(..)) => !matches!(value, Expr::Number(..)),
                Some(Kind::Name(name)) => name == "frac" || name == "sqrt",
                Some(Kind::Sign('/')) => matches!(self.kind(1), Some(Kind::Number(..) | Kind::Letter(_))),
                _ => false,
            };
            if !follows {
                return Ok(value);
            }
            if self.take('/') {
                value = Expr::Divide(Box::new(value), Box::new(self.power()?));
            } else {
                value = times(value, self.power()?);
            }
        }
    }

    /// Σ or Π with its range and body; the index becomes the symbol `#`.
    fn series(&mut self, sum: bool) -> Parsed<Expr> {
        let (mut lower, mut upper) = (None, None);
        for _ in 0..2 {
            if self.take('_') {
                lower = Some(self.operand_list()?);
            } else if self.take('^') {
                upper = Some(self.operand_signed()?);
            }
        }
        let body = self.deeper(Self::term)?;
        match (lower, upper) {
            (Some(Expr::Chain(sides, relations)), Some(upper)) if relations == [Relation::Equal] => {
                let Expr::Symbol(index) = &sides[0] else {
                    return Ok(Expr::Call("sum".into(), vec![sides[1].clone(), upper, body]));
                };
                let body = body.replaced(index, &Expr::Symbol("#".into()));
                Ok(Expr::Series(sum, Box::new(sides[1].clone()), Box::new(upper), Box::new(body)))
            }
            (lower, upper) => {
                let name = if sum { "sum" } else { "prod" };
                Ok(Expr::Call(name.into(), lower.into_iter().chain(upper).chain([body]).collect()))
            }
        }
    }

    fn operand_list(&mut self) -> Parsed<Expr> {
        if self.sign() == Some('{') { self.deeper(|p| p.bracketed('{')) } else { self.operand() }
    }

    /// Integrals and limits are kept as they are written.
    fn opaque(&mut self, name: &str) -> Parsed<Expr> {
        let mut parts = Vec::new();
        for _ in 0..2 {
            if self.take('_') {
                if name == "lim" {
                    parts.push(Expr::Symbol(self.raw_group()?));
                } else {
                    parts.push(self.operand_signed()?);
                }
            } else if self.take('^') {
                parts.push(self.operand_signed()?);
            }
        }
        parts.push(self.deeper(Self::term)?);
        Ok(Expr::Call(name.into(), parts))
    }

    fn environment(&mut self, name: &str) -> Parsed<Expr> {
        let (mut rows, mut row): (Vec<Vec<Expr>>, Vec<Expr>) = (Vec::new(), Vec::new());
        let bars = std::mem::take(&mut self.bars);
        loop {
            self.fuel.spend(1)?;
            match self.peek() {
                Some(Kind::End(_)) => {
                    self.at += 1;
                    break;
                }
                Some(Kind::Row) => {
                    self.at += 1;
                    if !row.is_empty() {
                        rows.push(std::mem::take(&mut row));
                    }
                }
                Some(Kind::Sign('&')) => self.at += 1,
                Some(Kind::Letter(line)) if line == "hline" => self.at += 1,
                Some(Kind::Sign(',' | '.' | ';')) => self.at += 1,
                Some(_) => row.push(self.element()?),
                None => return Err(self.unexpected()),
            }
        }
        self.bars = bars;
        if !row.is_empty() {
            rows.push(row);
        }
        if name == "vmatrix" {
            return Ok(Expr::Call("det".into(), vec![Expr::Matrix(rows)]));
        }
        if name.ends_with("matrix") || name == "array" {
            let width = rows.first().map_or(0, Vec::len);
            let whole = width > 0 && rows.iter().all(|row| row.len() == width);
            return if whole { Ok(Expr::Matrix(rows)) } else { Err(self.unexpected()) };
        }
        Ok(Expr::List(rows.into_iter().flatten().collect()))
    }
}

/// A function by its name, with the base and the exponent that were written at it.
fn apply(name: &str, argument: Expr, base: Option<Expr>, exponent: Option<Expr>) -> Option<Expr> {
    let minus_one = matches!(&exponent, Some(Expr::Negate(x)) if **x == Expr::int(1));
    let inverse = |usual, inverse| if minus_one { inverse } else { usual };
    let function = match name {
        "sin" => inverse(Function::Sin, Function::Asin),
        "cos" => inverse(Function::Cos, Function::Acos),
        "tan" => inverse(Function::Tan, Function::Atan),
        "cot" => inverse(Function::Cot, Function::Acot),
        "sec" => inverse(Function::Sec, Function::Asec),
        "csc" => inverse(Function::Csc, Function::Acsc),
        "arcsin" | "asin" => Function::Asin,
        "arccos" | "acos" => Function::Acos,
        "arctan" | "atan" => Function::Atan,
        "arccot" => Function::Acot,
        "arcsec" => Function::Asec,
        "arccsc" => Function::Acsc,
        "sinh" => inverse(Function::Sinh, Function::Asinh),
        "cosh" => inverse(Function::Cosh, Function::Acosh),
        "tanh" => inverse(Function::Tanh, Function::Atanh),
        "arcsinh" | "arsinh" => Function::Asinh,
        "arccosh" | "arcosh" => Function::Acosh,
        "arctanh" | "artanh" => Function::Atanh,
        "exp" => Function::Exp,
        "ln" => Function::Ln,
        "abs" => Function::Abs,
        "floor" => Function::Floor,
        "ceil" => Function::Ceil,
        "sgn" => Function::Sign,
        "Re" => Function::Re,
        "Im" => Function::Im,
        "conj" => Function::Conj,
        "arg" | "Arg" => Function::Arg,
        _ => return named(name, argument, base, exponent),
    };
    let value = Expr::Apply(function, Box::new(argument));
    let inverted = minus_one && !matches!(function, Function::Exp | Function::Ln | Function::Abs);
    Some(match exponent {
        Some(exponent) if !inverted => Expr::Power(Box::new(value), Box::new(exponent)),
        _ => value,
    })
}

fn named(name: &str, argument: Expr, base: Option<Expr>, exponent: Option<Expr>) -> Option<Expr> {
    let value = match name {
        "log" | "lg" => Expr::Log(Box::new(argument), Box::new(base.unwrap_or(Expr::int(10)))),
        "cis" => Expr::Apply(Function::Exp, Box::new(times(Expr::I, argument))),
        "sech" => {
            Expr::Divide(Box::new(Expr::int(1)), Box::new(Expr::Apply(Function::Cosh, Box::new(argument))))
        }
        "csch" => {
            Expr::Divide(Box::new(Expr::int(1)), Box::new(Expr::Apply(Function::Sinh, Box::new(argument))))
        }
        "det" | "tr" | "rank" | "dim" => Expr::Call(name.into(), vec![argument]),
        _ => return None,
    };
    Some(match exponent {
        Some(exponent) => Expr::Power(Box::new(value), Box::new(exponent)),
        None => value,
    })
}
