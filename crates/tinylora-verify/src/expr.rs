//! What an answer says, as a tree. Parsing makes it, evaluation and comparison read it. Its depth is limited by the
//! parser, so that walking it by recursion is safe.

use crate::function::Function;
use dashu_ratio::RBig;
use std::collections::BTreeSet;

/// A relation between two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// =, also ≈ and ≡
    Equal,
    /// ≠
    NotEqual,
    /// <
    Less,
    /// ≤
    LessEqual,
    /// >
    Greater,
    /// ≥
    GreaterEqual,
    /// ∈
    In,
}

/// A mathematical expression, or another kind of answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// A number; how many decimal places it was written with, none for a whole number.
    Number(RBig, Option<u32>),
    /// A variable.
    Symbol(String),
    /// π
    Pi,
    /// e
    E,
    /// i
    I,
    /// ∞
    Infinity,
    /// Sum.
    Add(Vec<Expr>),
    /// Product.
    Multiply(Vec<Expr>),
    /// Quotient.
    Divide(Box<Expr>, Box<Expr>),
    /// Power.
    Power(Box<Expr>, Box<Expr>),
    /// A root: radicand and degree.
    Root(Box<Expr>, Box<Expr>),
    /// Negation.
    Negate(Box<Expr>),
    /// ±: both signs, or with ∓ the other one where it is true.
    PlusMinus(Box<Expr>, bool),
    /// A known function.
    Apply(Function, Box<Expr>),
    /// A logarithm: argument and base.
    Log(Box<Expr>, Box<Expr>),
    /// A function of several numbers: gcd, lcm, max, min, binom, mod; or one that is not known, by its name.
    Call(String, Vec<Expr>),
    /// Sum or product over a range: whether a sum, lower and upper end, body; the index is the symbol `#`.
    Series(bool, Box<Expr>, Box<Expr>, Box<Expr>),
    /// So many per cent.
    Percent(Box<Expr>),
    /// So many degrees.
    Degrees(Box<Expr>),
    /// An amount with a unit.
    Quantity(Box<Expr>, String),
    /// Words.
    Text(String),
    /// A matrix, by rows.
    Matrix(Vec<Vec<Expr>>),
    /// What stands in a pair of brackets, with at least two items or brackets that differ.
    Group(char, Vec<Expr>, char),
    /// A finite set, or several values without brackets around them.
    Set(Vec<Expr>),
    /// Values without brackets around them, separated by commas.
    List(Vec<Expr>),
    /// {x | condition}
    Builder(Box<Expr>, Box<Expr>),
    /// A ∪ B ∪ …
    Union(Vec<Expr>),
    /// A ∩ B, A ∖ B and other set operations, by their sign.
    SetOperation(char, Vec<Expr>),
    /// a < b ≤ c: sides, and the relations between neighbours.
    Chain(Vec<Expr>, Vec<Relation>),
}

impl Expr {
    /// A whole number.
    pub fn int(n: i64) -> Self {
        Self::Number(RBig::from(n), None)
    }

    /// The parts that it consists of.
    pub fn children(&self) -> Vec<&Expr> {
        match self {
            Self::Number(..)
            | Self::Symbol(_)
            | Self::Pi
            | Self::E
            | Self::I
            | Self::Infinity
            | Self::Text(_) => Vec::new(),
            Self::Add(items)
            | Self::Multiply(items)
            | Self::Call(_, items)
            | Self::Group(_, items, _)
            | Self::Set(items)
            | Self::List(items)
            | Self::Union(items)
            | Self::SetOperation(_, items)
            | Self::Chain(items, _) => items.iter().collect(),
            Self::Divide(a, b)
            | Self::Power(a, b)
            | Self::Root(a, b)
            | Self::Log(a, b)
            | Self::Builder(a, b) => {
                vec![a, b]
            }
            Self::Negate(a)
            | Self::PlusMinus(a, _)
            | Self::Apply(_, a)
            | Self::Percent(a)
            | Self::Degrees(a)
            | Self::Quantity(a, _) => vec![a],
            Self::Series(_, low, high, body) => vec![low, high, body],
            Self::Matrix(rows) => rows.iter().flatten().collect(),
        }
    }

    /// The same tree with each part replaced.
    pub fn map(&self, f: &mut impl FnMut(&Expr) -> Expr) -> Self {
        let mut all = |items: &[Expr]| items.iter().map(&mut *f).collect::<Vec<_>>();
        match self {
            Self::Number(..)
            | Self::Symbol(_)
            | Self::Pi
            | Self::E
            | Self::I
            | Self::Infinity
            | Self::Text(_) => self.clone(),
            Self::Add(items) => Self::Add(all(items)),
            Self::Multiply(items) => Self::Multiply(all(items)),
            Self::Call(name, items) => Self::Call(name.clone(), all(items)),
            Self::Group(open, items, close) => Self::Group(*open, all(items), *close),
            Self::Set(items) => Self::Set(all(items)),
            Self::List(items) => Self::List(all(items)),
            Self::Union(items) => Self::Union(all(items)),
            Self::SetOperation(sign, items) => Self::SetOperation(*sign, all(items)),
            Self::Chain(items, relations) => Self::Chain(all(items), relations.clone()),
            Self::Divide(a, b) => Self::Divide(Box::new(f(a)), Box::new(f(b))),
            Self::Power(a, b) => Self::Power(Box::new(f(a)), Box::new(f(b))),
            Self::Root(a, b) => Self::Root(Box::new(f(a)), Box::new(f(b))),
            Self::Log(a, b) => Self::Log(Box::new(f(a)), Box::new(f(b))),
            Self::Builder(a, b) => Self::Builder(Box::new(f(a)), Box::new(f(b))),
            Self::Negate(a) => Self::Negate(Box::new(f(a))),
            Self::PlusMinus(a, other) => Self::PlusMinus(Box::new(f(a)), *other),
            Self::Apply(function, a) => Self::Apply(*function, Box::new(f(a))),
            Self::Percent(a) => Self::Percent(Box::new(f(a))),
            Self::Degrees(a) => Self::Degrees(Box::new(f(a))),
            Self::Quantity(a, unit) => Self::Quantity(Box::new(f(a)), unit.clone()),
            Self::Series(sum, low, high, body) => {
                Self::Series(*sum, Box::new(f(low)), Box::new(f(high)), Box::new(f(body)))
            }
            Self::Matrix(rows) => Self::Matrix(rows.iter().map(|row| all(row)).collect()),
        }
    }

    /// Whether this or a part of it is so.
    pub fn any(&self, is: &impl Fn(&Expr) -> bool) -> bool {
        is(self) || self.children().into_iter().any(|child| child.any(is))
    }

    /// The variables in it, by name.
    pub fn symbols(&self) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        self.collect_symbols(&mut found);
        found
    }

    fn collect_symbols<'a>(&'a self, found: &mut BTreeSet<&'a str>) {
        if let Self::Symbol(name) = self {
            found.insert(name);
        }
        for child in self.children() {
            child.collect_symbols(found);
        }
    }

    /// The same with one variable replaced.
    pub fn replaced(&self, name: &str, by: &Expr) -> Expr {
        match self {
            Self::Symbol(own) if own == name => by.clone(),
            _ => self.map(&mut |child| child.replaced(name, by)),
        }
    }

    /// Whether it is one value, not several, not words and not a relation.
    pub fn is_scalar(&self) -> bool {
        !self.any(&|part| {
            matches!(
                part,
                Self::Text(_)
                    | Self::Group(..)
                    | Self::Set(_)
                    | Self::List(_)
                    | Self::Builder(..)
                    | Self::Union(_)
                    | Self::SetOperation(..)
                    | Self::Chain(..)
                    | Self::Matrix(_)
                    | Self::Quantity(..)
            )
        })
    }
}
