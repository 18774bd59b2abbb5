//! Tokens enter, a tree leaves, or the reason why they are none. Nesting is limited, so that no input can exhaust the
//! stack. Juxtaposition binds tighter than `/`, as in 1/2x = 1/(2x).

use crate::expr::{Expr, Relation};
use crate::fuel::{Fuel, OutOfFuel};
use crate::function::Function;
use crate::token::{Kind, Token, tokens};
use dashu_int::IBig;
use dashu_ratio::RBig;

mod atom;

/// Nested deeper than this is no answer.
const DEPTH: usize = 48;

/// Why text is no expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// Too long, or nested too deeply.
    #[error("it is too long or nested too deeply")]
    TooLarge,
    /// A token that cannot stand where it stands.
    #[error("it is not understood at token {0}")]
    Unexpected(usize),
    /// The steps ran out.
    #[error(transparent)]
    Fuel(#[from] OutOfFuel),
}

type Parsed<T> = Result<T, ParseError>;

/// Reads an answer.
pub fn parse(text: &str, fuel: &mut Fuel) -> Parsed<Expr> {
    let tokens = tokens(text).map_err(|_| ParseError::TooLarge)?;
    if tokens.is_empty() {
        return Err(ParseError::Empty);
    }
    let mut parser = Parser { tokens: &tokens, at: 0, depth: 0, bars: 0, fuel };
    let value = parser.list(true)?;
    parser.skip_stops();
    if parser.at < parser.tokens.len() {
        return Err(parser.unexpected());
    }
    Ok(value)
}

/// Reads an answer that ends without a full stop or comma.
pub fn parse_exactly(text: &str, fuel: &mut Fuel) -> Parsed<Expr> {
    if text.trim_end().ends_with(['.', ',', ';']) {
        return Err(ParseError::Unexpected(text.len()));
    }
    parse(text, fuel)
}

/// Reads what a text begins with, up to the first thing that is not understood, as parsers without an end mark do.
pub fn parse_begin(text: &str, fuel: &mut Fuel) -> Parsed<Expr> {
    let tokens = tokens(text).map_err(|_| ParseError::TooLarge)?;
    if tokens.is_empty() {
        return Err(ParseError::Empty);
    }
    let mut parser = Parser { tokens: &tokens, at: 0, depth: 0, bars: 0, fuel };
    let value = parser.element()?;
    // What follows may be no formula, but it has to consist of signs that formulas have.
    let foreign =
        |token: &Token| matches!(token.kind, Kind::Sign(c) if c.is_alphanumeric() || "\"@#?\\".contains(c));
    if tokens[parser.at..].iter().any(foreign) { Err(parser.unexpected()) } else { Ok(value) }
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    bars: usize,
    fuel: &'a mut Fuel,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn kind(&self, ahead: usize) -> Option<&Kind> {
        self.tokens.get(self.at + ahead).map(|token| &token.kind)
    }

    fn sign(&self) -> Option<char> {
        match self.peek() {
            Some(Kind::Sign(sign)) => Some(*sign),
            _ => None,
        }
    }

    fn take(&mut self, sign: char) -> bool {
        let found = self.sign() == Some(sign);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: char) -> Parsed<()> {
        if self.take(sign) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn unexpected(&self) -> ParseError {
        ParseError::Unexpected(self.at + 1)
    }

    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.fuel.spend(1)?;
        if self.depth >= DEPTH {
            return Err(ParseError::TooLarge);
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    /// Full stops, and commas at the end.
    fn skip_stops(&mut self) {
        while matches!(self.sign(), Some('.' | ',' | ';')) {
            self.at += 1;
        }
    }

    /// Elements between commas; between semicolons, groups of such. `open`: without brackets around it.
    fn list(&mut self, open: bool) -> Parsed<Expr> {
        let (mut groups, mut items) = (Vec::new(), Vec::new());
        loop {
            items.push(self.element()?);
            let separator = self.sign();
            match separator {
                Some(',' | ';') => {
                    while matches!(self.sign(), Some(',' | ';')) {
                        self.at += 1;
                    }
                    if separator == Some(';') {
                        groups.push(std::mem::take(&mut items));
                    }
                    if self.at >= self.tokens.len() || self.closes() {
                        break;
                    }
                }
                _ => break,
            }
        }
        if !items.is_empty() {
            groups.push(items);
        }
        let single = groups.iter().all(|group| group.len() == 1);
        if groups.len() == 1 || single {
            let mut items: Vec<Expr> = groups.into_iter().flatten().collect();
            return Ok(match items.len() {
                1 if open => items.remove(0),
                _ => Expr::List(items),
            });
        }
        let one = |mut group: Vec<Expr>| if group.len() == 1 { group.remove(0) } else { Expr::List(group) };
        Ok(Expr::List(groups.into_iter().map(one).collect()))
    }

    fn closes(&self) -> bool {
        matches!(self.sign(), Some(')' | ']' | '}' | '⦄' | '⟩')) || matches!(self.peek(), Some(Kind::End(_)))
    }

    /// Sides with relations between them.
    fn element(&mut self) -> Parsed<Expr> {
        self.deeper(|p| {
            let mut sides = vec![p.union()?];
            let mut relations = Vec::new();
            while let Some(relation) = p.relation() {
                p.at += 1;
                relations.push(relation);
                sides.push(p.union()?);
            }
            Ok(if relations.is_empty() { sides.remove(0) } else { Expr::Chain(sides, relations) })
        })
    }

    fn relation(&self) -> Option<Relation> {
        Some(match self.sign()? {
            '=' | '≈' => Relation::Equal,
            '≠' => Relation::NotEqual,
            '<' => Relation::Less,
            '≤' => Relation::LessEqual,
            '>' => Relation::Greater,
            '≥' => Relation::GreaterEqual,
            '∈' => Relation::In,
            _ => return None,
        })
    }

    fn union(&mut self) -> Parsed<Expr> {
        let mut items = vec![self.sum()?];
        let mut operation = None;
        while let Some(sign @ ('∪' | '∩' | '∖')) = self.sign() {
            if operation.is_some_and(|operation| operation != sign) {
                return Err(self.unexpected());
            }
            operation = Some(sign);
            self.at += 1;
            items.push(self.sum()?);
        }
        Ok(match operation {
            None => items.remove(0),
            Some('∪') => Expr::Union(items),
            Some(sign) => Expr::SetOperation(sign, items),
        })
    }

    fn sum(&mut self) -> Parsed<Expr> {
        let mut terms = vec![self.term()?];
        while let Some(sign @ ('+' | '-' | '±' | '∓')) = self.sign() {
            self.at += 1;
            let term = self.term()?;
            terms.push(match sign {
                '+' => term,
                '-' => Expr::Negate(Box::new(term)),
                sign => Expr::PlusMinus(Box::new(term), sign == '∓'),
            });
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Expr::Add(terms) })
    }

    /// Signs before a term, then factors joined by `*` and `/`.
    fn term(&mut self) -> Parsed<Expr> {
        let (mut negative, mut both) = (false, None);
        while let Some(sign @ ('+' | '-' | '±' | '∓')) = self.sign() {
            self.at += 1;
            match sign {
                '-' => negative = !negative,
                '+' => {}
                sign => both = Some(sign == '∓'),
            }
        }
        let mut value = self.product()?;
        loop {
            if self.take('*') {
                let right = self.signed_product()?;
                value = times(value, right);
            } else if self.take('/') || self.ratio() {
                let right = self.signed_product()?;
                value = Expr::Divide(Box::new(value), Box::new(right));
            } else if matches!(self.peek(), Some(Kind::Name(name)) if name == "mod") {
                self.at += 1;
                let right = self.signed_product()?;
                value = Expr::Call("mod".into(), vec![value, right]);
            } else {
                break;
            }
        }
        if negative {
            value = match value {
                Expr::Quantity(amount, unit) => Expr::Quantity(Box::new(Expr::Negate(amount)), unit),
                value => Expr::Negate(Box::new(value)),
            };
        }
        Ok(both.map_or(value.clone(), |other| Expr::PlusMinus(Box::new(value), other)))
    }

    /// `3:4` between numbers is a quotient.
    fn ratio(&mut self) -> bool {
        let number = |kind: Option<&Kind>| matches!(kind, Some(Kind::Number(..) | Kind::Letter(_)));
        let before = self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map(|token| &token.kind);
        let is = self.sign() == Some(':') && number(before) && number(self.kind(1));
        self.at += usize::from(is);
        is
    }

    fn signed_product(&mut self) -> Parsed<Expr> {
        let mut negative = false;
        while let Some(sign @ ('+' | '-')) = self.sign() {
            self.at += 1;
            negative ^= sign == '-';
        }
        let value = self.product()?;
        Ok(if negative { Expr::Negate(Box::new(value)) } else { value })
    }

    /// Factors side by side.
    fn product(&mut self) -> Parsed<Expr> {
        let mut value = self.power()?;
        while let Some(kind) = self.peek() {
            let follows = match kind {
                Kind::Letter(_) | Kind::Begin(_) => true,
                Kind::Name(name) => name != "mod",
                Kind::Number(..) => !matches!(value, Expr::Number(..)) || self.fraction_follows(),
                Kind::Text(_) => {
                    value = self.united(value)?;
                    continue;
                }
                Kind::Sign(sign) => {
                    matches!(sign, '(' | '{' | '[' | '⌊' | '⌈' | '√' | '∞' | '⟨')
                        || *sign == '|' && self.bars == 0
                }
                _ => false,
            };
            if !follows {
                break;
            }
            let mixed = matches!(&value, Expr::Number(_, None)) && self.mixed_follows();
            let plain = mixed && self.fraction_follows();
            let mut right = self.power()?;
            if plain {
                self.expect('/')?;
                right = Expr::Divide(Box::new(right), Box::new(self.power()?));
            }
            value = match right {
                // 6¼% is all of it in per cent.
                Expr::Percent(part) if mixed => Expr::Percent(Box::new(Expr::Add(vec![value, *part]))),
                right if mixed => Expr::Add(vec![value, right]),
                right => times(value, right),
            };
        }
        Ok(value)
    }

    /// `2 1/2`: a blank, then whole numbers with `/` between.
    fn fraction_follows(&self) -> bool {
        let whole = |kind: Option<&Kind>| matches!(kind, Some(Kind::Number(_, None, _)));
        let spaced = self.tokens.get(self.at).is_some_and(|token| token.spaced);
        spaced && whole(self.kind(0)) && self.kind(1) == Some(&Kind::Sign('/')) && whole(self.kind(2))
    }

    /// A fraction of whole numbers follows, as in `2\frac{1}{2}`.
    fn mixed_follows(&self) -> bool {
        if self.fraction_follows() {
            return true;
        }
        if !matches!(self.peek(), Some(Kind::Name(name)) if name == "frac") {
            return false;
        }
        let mut at = 1;
        for _ in 0..2 {
            match (self.kind(at), self.kind(at + 1), self.kind(at + 2)) {
                (Some(Kind::Sign('{')), Some(Kind::Number(_, None, _)), Some(Kind::Sign('}'))) => at += 3,
                (Some(Kind::Number(_, None, digits)), ..) if digits.len() <= 2 => at += 1,
                _ => return false,
            }
        }
        true
    }

    /// Words after a value: a unit; after words: more words.
    fn united(&mut self, value: Expr) -> Parsed<Expr> {
        let Some(Kind::Text(text)) = self.peek() else { return Err(self.unexpected()) };
        let text = text.clone();
        self.at += 1;
        if self.take('^') {
            let power = self.atom()?;
            if let Expr::Number(n, None) = power {
                return Ok(Expr::Quantity(Box::new(value), format!("{text}^{n}")));
            }
        }
        Ok(match value {
            Expr::Text(before) => Expr::Text(format!("{before} {text}")),
            Expr::Quantity(amount, unit) => Expr::Quantity(amount, format!("{unit} {text}")),
            value => Expr::Quantity(Box::new(value), text),
        })
    }

    /// An atom with exponents and what may follow them.
    fn power(&mut self) -> Parsed<Expr> {
        self.deeper(|p| {
            let mut value = p.atom()?;
            loop {
                match p.sign() {
                    Some('!') => {
                        p.at += 1;
                        value = Expr::Apply(Function::Factorial, Box::new(value));
                    }
                    Some('%') => {
                        p.at += 1;
                        value = Expr::Percent(Box::new(value));
                    }
                    Some('°') => {
                        p.at += 1;
                        value = Expr::Degrees(Box::new(value));
                    }
                    Some('\'') => {
                        p.at += 1;
                        value = match value {
                            Expr::Symbol(name) => Expr::Symbol(format!("{name}'")),
                            value => Expr::Call("'".into(), vec![value]),
                        };
                    }
                    Some('^') => {
                        p.at += 1;
                        value = p.raised(value)?;
                    }
                    _ => return Ok(value),
                }
            }
        })
    }

    fn raised(&mut self, base: Expr) -> Parsed<Expr> {
        let braced = self.sign() == Some('{');
        let inside = usize::from(braced);
        match self.kind(inside) {
            Some(Kind::Sign('°')) => {
                self.at += inside + 1;
                if braced {
                    self.expect('}')?;
                }
                return Ok(Expr::Degrees(Box::new(base)));
            }
            Some(Kind::Sign('\'')) => {
                self.at += inside;
                let mut primes = String::new();
                while self.take('\'') {
                    primes.push('\'');
                }
                if braced {
                    self.expect('}')?;
                }
                return Ok(match base {
                    Expr::Symbol(name) => Expr::Symbol(format!("{name}{primes}")),
                    base => Expr::Call(primes, vec![base]),
                });
            }
            _ => {}
        }
        let exponent = if self.take('-') {
            Expr::Negate(Box::new(self.power()?))
        } else if braced {
            self.atom()?
        } else if let Some(Kind::Number(_, None, digits)) = self.peek() {
            let exponent = Expr::Number(RBig::from(digits.parse::<IBig>().unwrap_or_default()), None);
            self.at += 1;
            exponent
        } else {
            self.power()?
        };
        Ok(match base {
            // sin^2 x is read with its name; here e and symbols keep their powers.
            Expr::Text(text) => Expr::Text(text),
            base => Expr::Power(Box::new(base), Box::new(exponent)),
        })
    }
}

/// a · b, flat.
fn times(a: Expr, b: Expr) -> Expr {
    match a {
        Expr::Multiply(mut items) => {
            items.push(b);
            Expr::Multiply(items)
        }
        a => Expr::Multiply(vec![a, b]),
    }
}

#[cfg(test)]
mod tests;
