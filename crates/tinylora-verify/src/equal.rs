//! Two answers enter, whether they say the same leaves, with the rule that decided. What they are decides how they are
//! compared: numbers by value, sets without order, tuples in order, equations up to a factor, words as words.

use crate::compare::{proportional, same, within};
use crate::expr::{Expr, Relation};
use crate::fuel::Fuel;
use crate::interval::{Span, spans};
use crate::matrix::folded;
use crate::number::{Outcome, Stop};
use crate::words;
use dashu_ratio::RBig;

/// Collections have at most so many items.
const ITEMS: usize = 200;
/// A rounded gold has at least so many significant digits, a rounded prediction so many.
const GOLD_DIGITS: usize = 3;
const PREDICTION_DIGITS: usize = 6;
/// Decimals of so many significant digits come from floats.
const FLOAT_DIGITS: usize = 16;

/// Compares answers and remembers the rule that found them equal.
#[derive(Debug)]
pub struct Judge<'a> {
    /// Steps that are left.
    pub fuel: &'a mut Fuel,
    /// The rule that decided last.
    pub rule: &'static str,
}

impl Judge<'_> {
    fn by(&mut self, equal: bool, rule: &'static str) -> Outcome<bool> {
        if equal {
            self.rule = rule;
        }
        Ok(equal)
    }

    /// Whether the prediction is the gold answer.
    pub fn equal(&mut self, gold: &Expr, prediction: &Expr) -> Outcome<bool> {
        let (gold, prediction) = (prepared(gold), prepared(prediction));
        self.compare(&gold, &prediction)
    }

    fn compare(&mut self, gold: &Expr, prediction: &Expr) -> Outcome<bool> {
        self.fuel.spend(5)?;
        if gold == prediction {
            return self.by(true, "the same expression");
        }
        match (gold, prediction) {
            (Expr::Chain(a, r), Expr::Chain(b, s)) => self.relations((a, r), (b, s)),
            (Expr::Chain(sides, relations), other) if is_definition(sides, relations) => {
                self.compare(&sides[1], other)
            }
            (other, Expr::Chain(sides, relations))
                if is_definition(sides, relations)
                    || (relations == &[Relation::Equal]
                        && sides[0].symbols().is_empty()
                        && !has_set(&sides[0])) =>
            {
                let holds = is_definition(sides, relations) || self.compare(&sides[0], &sides[1])?;
                Ok(holds && self.compare(other, &sides[1])?)
            }
            (Expr::Text(a), Expr::Text(b)) => self.by(words::same(a, b), "the same words"),
            (Expr::Text(text), other) | (other, Expr::Text(text)) => {
                let spelled = spelled(other);
                self.by(spelled.is_some_and(|spelled| words::letters(text) == spelled), "the same letters")
            }
            (Expr::Matrix(a), Expr::Matrix(b)) => {
                let shaped = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.len() == b.len());
                let flat = |rows: &[Vec<Expr>]| rows.iter().flatten().cloned().collect::<Vec<_>>();
                let equal = shaped && self.in_order(&flat(a), &flat(b))?;
                self.by(equal, "entry by entry")
            }
            (Expr::Matrix(rows), Expr::Group('(' | '⟨', items, _))
            | (Expr::Group('(' | '⟨', items, _), Expr::Matrix(rows)) => {
                let vector = rows.len() == 1 || rows.iter().all(|row| row.len() == 1);
                let flat: Vec<Expr> = rows.iter().flatten().cloned().collect();
                Ok(vector && self.in_order(&flat, items)?)
            }
            (Expr::Group(o, a, c), Expr::Group(p, b, d)) => {
                let equal = o == p && c == d && self.in_order(a, b)?;
                self.by(equal, "item by item, the same brackets")
            }
            (Expr::List(a) | Expr::Set(a), Expr::List(b) | Expr::Set(b)) => {
                let equal = self.in_any_order(a, b)?;
                if !equal && let (Some(a), Some(b)) = (spans(gold, self.fuel), spans(prediction, self.fuel)) {
                    return self.same_spans(&a, &b);
                }
                self.by(equal, "item by item, in any order")
            }
            (Expr::Group('(' | '⟨', a, ')' | '⟩'), Expr::List(b))
            | (Expr::List(a), Expr::Group('(' | '⟨', b, ')' | '⟩'))
                if !infinite(a) && !infinite(b) =>
            {
                let equal = self.in_order(a, b)?;
                self.by(equal, "item by item, brackets left out")
            }
            (Expr::Set(items) | Expr::List(items), other) | (other, Expr::Set(items) | Expr::List(items))
                if items.len() == 1 =>
            {
                if let [item] = items.as_slice() {
                    self.compare(item, other)
                } else {
                    Ok(false)
                }
            }
            (Expr::SetOperation(a, x), Expr::SetOperation(b, y)) => {
                let equal = a == b && self.in_order(x, y)?;
                self.by(equal, "the same operation of sets")
            }
            _ if is_set(gold) || is_set(prediction) => self.sets(gold, prediction),
            _ => self.scalars(gold, prediction),
        }
    }

    fn sets(&mut self, gold: &Expr, prediction: &Expr) -> Outcome<bool> {
        match (spans(gold, self.fuel), spans(prediction, self.fuel)) {
            (Some(a), Some(b)) => self.same_spans(&a, &b),
            _ => Ok(false),
        }
    }

    fn same_spans(&mut self, a: &[Span], b: &[Span]) -> Outcome<bool> {
        if a.len() != b.len() || a.len() > ITEMS {
            return Ok(false);
        }
        let mut free = vec![true; b.len()];
        for x in a {
            let mut found = None;
            for (k, y) in b.iter().enumerate().filter(|(k, _)| free[*k]) {
                let closed = x.low_closed == y.low_closed && x.high_closed == y.high_closed;
                if closed && self.scalars(&x.low, &y.low)? && self.scalars(&x.high, &y.high)? {
                    found = Some(k);
                    break;
                }
            }
            match found {
                Some(k) => free[k] = false,
                None => return Ok(false),
            }
        }
        self.by(true, "the same set of numbers")
    }

    fn in_order(&mut self, a: &[Expr], b: &[Expr]) -> Outcome<bool> {
        if a.len() != b.len() || a.len() > ITEMS {
            return Ok(false);
        }
        for (a, b) in a.iter().zip(b) {
            if !self.compare(a, b)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn in_any_order(&mut self, a: &[Expr], b: &[Expr]) -> Outcome<bool> {
        if a.len() != b.len() || a.len() > ITEMS {
            return Ok(false);
        }
        let mut free = vec![true; b.len()];
        for (j, x) in a.iter().enumerate() {
            // The item at the same place first: most lists are in the same order.
            let order = std::iter::once(j).chain((0..b.len()).filter(|k| *k != j));
            let mut found = None;
            for k in order {
                if free[k] && self.compare(x, &b[k])? {
                    found = Some(k);
                    break;
                }
            }
            match found {
                Some(k) => free[k] = false,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn relations(
        &mut self,
        gold: (&[Expr], &[Relation]),
        prediction: (&[Expr], &[Relation]),
    ) -> Outcome<bool> {
        if let ([Relation::Equal], [Relation::Equal]) = (gold.1, prediction.1) {
            return self.equations(gold.0, prediction.0);
        }
        let (a, b) = (inequalities(gold.0, gold.1), inequalities(prediction.0, prediction.1));
        if let (Some(a), Some(b)) = (a, b)
            && a.len() == b.len()
            && self.all_match(&a, &b)?
        {
            return self.by(true, "the same inequalities up to positive factors");
        }
        let chain =
            |(sides, relations): (&[Expr], &[Relation])| Expr::Chain(sides.to_vec(), relations.to_vec());
        self.sets(&chain(gold), &chain(prediction))
    }

    fn all_match(&mut self, a: &[Inequality], b: &[Inequality]) -> Outcome<bool> {
        let mut free = vec![true; b.len()];
        'next: for x in a {
            for k in 0..b.len() {
                let positive = x.relation != Relation::NotEqual;
                if free[k]
                    && x.relation == b[k].relation
                    && proportional(&x.difference, &b[k].difference, positive, self.fuel)?
                {
                    free[k] = false;
                    continue 'next;
                }
            }
            return Ok(false);
        }
        Ok(true)
    }

    fn equations(&mut self, gold: &[Expr], prediction: &[Expr]) -> Outcome<bool> {
        if let (Expr::Call(f, x), Expr::Call(g, y)) = (&gold[0], &prediction[0])
            && f == g
            && let ([Expr::Symbol(x)], [Expr::Symbol(y)]) = (x.as_slice(), y.as_slice())
        {
            let right = prediction[1].replaced(y, &Expr::Symbol(x.clone()));
            return self.compare(&gold[1], &right);
        }
        if gold[0] == prediction[0] && self.compare(&gold[1], &prediction[1])? {
            return Ok(true);
        }
        if matches!((&gold[0], &prediction[0]), (Expr::Group(..), Expr::Group(..))) {
            return Ok(self.compare(&gold[0], &prediction[0])? && self.compare(&gold[1], &prediction[1])?);
        }
        if gold.iter().chain(prediction).all(|side| side.symbols().is_empty()) {
            return Ok(self.compare(&gold[0], &prediction[0])? && self.compare(&gold[1], &prediction[1])?);
        }
        let difference = |sides: &[Expr]| minus(&sides[0], &sides[1]);
        let (a, b) = (difference(gold), difference(prediction));
        if proportional(&a, &b, false, self.fuel)? {
            return self.by(true, "the same equation up to a factor");
        }
        let solves = self.solves(gold, &b)? || self.solves(prediction, &a)?;
        self.by(solves, "one equation solves the other")
    }

    /// `y = f` makes the other equation true, which is linear in y and so has no other solution.
    fn solves(&mut self, definition: &[Expr], other: &Expr) -> Outcome<bool> {
        let Expr::Symbol(name) = &definition[0] else { return Ok(false) };
        if definition[1].symbols().contains(name.as_str())
            || !other.symbols().contains(name.as_str())
            || !other.is_scalar()
        {
            return Ok(false);
        }
        let at = |k: i64| other.replaced(name, &Expr::int(k));
        let step = |k: i64| minus(&at(k + 1), &at(k));
        let linear = same(&step(0), &step(1), self.fuel)? && same(&step(0), &step(4), self.fuel)?;
        let flat = same(&step(0), &Expr::int(0), self.fuel)?;
        Ok(linear && !flat && same(&other.replaced(name, &definition[1]), &Expr::int(0), self.fuel)?)
    }

    fn scalars(&mut self, gold: &Expr, prediction: &Expr) -> Outcome<bool> {
        match (gold, prediction) {
            (Expr::Quantity(a, u), Expr::Quantity(b, v)) => {
                let equal = words::same_unit(u, v) && self.compare(a, b)?;
                return self.by(equal, "the same amount of the same unit");
            }
            (Expr::Quantity(a, _), b) | (b, Expr::Quantity(a, _)) => {
                let (a, b) = if matches!(gold, Expr::Quantity(..)) { (&**a, b) } else { (b, &**a) };
                let equal = self.compare(a, b)?;
                return self.by(equal, "the same amount, the unit left out");
            }
            _ => {}
        }
        let infinity = |x: &Expr| match x {
            Expr::Infinity => Some(true),
            Expr::Negate(x) if **x == Expr::Infinity => Some(false),
            _ => None,
        };
        match (infinity(gold), infinity(prediction)) {
            (None, None) => {}
            (a, b) => return self.by(a == b, "infinite"),
        }
        if same(gold, prediction, self.fuel)? {
            return self.by(true, "the same value");
        }
        if self.marked(gold, prediction)? {
            return self.by(true, "the same value, its mark left out");
        }
        if self.rounded(gold, prediction)? {
            return self.by(true, "the value, rounded");
        }
        if let (Some(a), Some(b)) = (spelled(gold), spelled(prediction)) {
            return self.by(a == b && a.len() > 1, "the same letters");
        }
        Ok(false)
    }

    /// 28% and 28, 90° and 90: per cent or degrees on one side only.
    fn marked(&mut self, gold: &Expr, prediction: &Expr) -> Outcome<bool> {
        match (gold, prediction) {
            (Expr::Percent(_), Expr::Percent(_)) | (Expr::Degrees(_), Expr::Degrees(_)) => Ok(false),
            (Expr::Percent(a) | Expr::Degrees(a), b) | (b, Expr::Percent(a) | Expr::Degrees(a)) => {
                same(a, b, self.fuel)
            }
            _ => Ok(false),
        }
    }

    /// One side is a decimal that the other, no decimal itself, rounds to.
    fn rounded(&mut self, gold: &Expr, prediction: &Expr) -> Outcome<bool> {
        let (decimal, exact, least) = match (decimal(gold), decimal(prediction)) {
            (Some(decimal), None) => (decimal, prediction, GOLD_DIGITS),
            (None, Some(decimal)) => (decimal, gold, PREDICTION_DIGITS),
            _ => return Ok(false),
        };
        if !exact.is_scalar() || !exact.symbols().is_empty() || digits(&decimal.0, decimal.1) < least {
            return Ok(false);
        }
        let half = RBig::from_parts(1.into(), 2u8.into()) / RBig::from(10).pow(decimal.1 as isize);
        // So many digits are a float that was printed: its last one is not to be relied on.
        let printed = digits(&decimal.0, decimal.1) >= FLOAT_DIGITS;
        let half = if printed { half * RBig::from(20) } else { half };
        match within(exact, &Expr::Number(decimal.0, None), &half, self.fuel) {
            Err(Stop::Undefined | Stop::TooLarge) => Ok(false),
            other => other,
        }
    }
}

/// Value and places of a decimal.
fn decimal(expr: &Expr) -> Option<(RBig, u32)> {
    match expr {
        Expr::Number(value, Some(places)) if *places > 0 && !value.is_zero() => {
            Some((value.clone(), *places))
        }
        Expr::Negate(x) => decimal(x).map(|(value, places)| (-value, places)),
        _ => None,
    }
}

/// Significant digits.
fn digits(value: &RBig, places: u32) -> usize {
    let scaled = value.clone() * RBig::from(10).pow(places as isize);
    scaled.trunc().to_string().trim_start_matches('-').len()
}

fn minus(a: &Expr, b: &Expr) -> Expr {
    Expr::Add(vec![a.clone(), Expr::Negate(Box::new(b.clone()))])
}

/// d < 0, d ≤ 0 or d ≠ 0.
struct Inequality {
    difference: Expr,
    relation: Relation,
}

fn inequalities(sides: &[Expr], relations: &[Relation]) -> Option<Vec<Inequality>> {
    let one = |(pair, relation): (&[Expr], &Relation)| {
        let (a, b) = (&pair[0], &pair[1]);
        Some(match relation {
            Relation::Less | Relation::LessEqual | Relation::NotEqual => {
                Inequality { difference: minus(a, b), relation: *relation }
            }
            Relation::Greater => Inequality { difference: minus(b, a), relation: Relation::Less },
            Relation::GreaterEqual => Inequality { difference: minus(b, a), relation: Relation::LessEqual },
            Relation::Equal | Relation::In => return None,
        })
    };
    sides.windows(2).zip(relations).map(one).collect()
}

/// `name = value`: what stands before the sign only names the value.
fn is_definition(sides: &[Expr], relations: &[Relation]) -> bool {
    relations == [Relation::Equal] && names(&sides[0])
}

fn names(expr: &Expr) -> bool {
    match expr {
        Expr::Symbol(_) | Expr::Call(..) | Expr::E | Expr::I => true,
        Expr::Multiply(items) | Expr::Group(_, items, _) => items.iter().all(names),
        Expr::Apply(crate::function::Function::Abs, x) => names(x),
        _ => false,
    }
}

fn has_set(expr: &Expr) -> bool {
    !expr.is_scalar()
}

fn infinite(items: &[Expr]) -> bool {
    items.iter().any(|item| item.any(&|part| *part == Expr::Infinity))
}

fn is_set(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Group(..)
            | Expr::Set(_)
            | Expr::List(_)
            | Expr::Union(_)
            | Expr::Builder(..)
            | Expr::Chain(..)
            | Expr::SetOperation(..)
    )
}

/// The letters of a product of letters, as a word.
fn spelled(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Symbol(name) if name.chars().count() == 1 => Some(name.to_lowercase()),
        Expr::E => Some("e".into()),
        Expr::I => Some("i".into()),
        Expr::Multiply(items) => items.iter().map(spelled).collect(),
        _ => None,
    }
}

/// Matrix arithmetic is done, ± becomes two values, chains of = keep their ends, `x ∈ S` is S.
pub fn prepared(expr: &Expr) -> Expr {
    let expr = folded(expr);
    match expr {
        Expr::List(items) => list(items),
        Expr::Set(items) => Expr::Set(unique(items.iter().flat_map(both_signs).collect())),
        Expr::Group(open, items, close) => Expr::Group(open, items.iter().map(prepared).collect(), close),
        Expr::Chain(sides, relations) => chain(sides, relations),
        other => {
            let mut values = both_signs(&other);
            if values.len() == 1 { values.remove(0) } else { Expr::List(values) }
        }
    }
}

fn list(items: Vec<Expr>) -> Expr {
    let pairs = plus_minus(&items);
    let flat = items.iter().map(prepared).flat_map(|item| match item {
        Expr::List(inner) if pairs && inner.len() == 2 && inner.iter().all(Expr::is_scalar) => inner,
        other => vec![other],
    });
    Expr::List(flat.collect())
}

fn plus_minus(items: &[Expr]) -> bool {
    items.iter().any(|item| item.any(&|part| matches!(part, Expr::PlusMinus(..))))
}

fn chain(sides: Vec<Expr>, relations: Vec<Relation>) -> Expr {
    if relations.iter().all(|relation| *relation == Relation::Equal) {
        let ends = [&sides[0], &sides[sides.len() - 1]].map(prepared);
        return Expr::Chain(ends.to_vec(), vec![Relation::Equal]);
    }
    if relations == [Relation::In] {
        return prepared(&sides[1]);
    }
    Expr::Chain(sides, relations)
}

/// The values for both signs of ±; one value where there is none.
fn both_signs(expr: &Expr) -> Vec<Expr> {
    if !plus_minus(std::slice::from_ref(expr)) {
        return vec![expr.clone()];
    }
    [false, true].map(|minus| signed(expr, minus)).to_vec()
}

fn signed(expr: &Expr, minus: bool) -> Expr {
    match expr {
        Expr::PlusMinus(x, other) => {
            let x = signed(x, minus);
            if minus != *other { Expr::Negate(Box::new(x)) } else { x }
        }
        other => other.map(&mut |child| signed(child, minus)),
    }
}

fn unique(items: Vec<Expr>) -> Vec<Expr> {
    let mut kept: Vec<Expr> = Vec::new();
    for item in items {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}
