//! Sums, differences and products of matrices become one matrix, entry by entry. An expression enters, the same
//! expression with its matrix arithmetic done leaves.

use crate::expr::Expr;

/// Rows and columns up to this.
const SIZE: usize = 12;

type Rows = Vec<Vec<Expr>>;

/// Does the matrix arithmetic where the shapes fit; else the expression stays as it is.
pub fn folded(expr: &Expr) -> Expr {
    if !expr.any(&|part| matches!(part, Expr::Matrix(_))) {
        return expr.clone();
    }
    let expr = expr.map(&mut |child| folded(child));
    match &expr {
        Expr::Add(items) => items.iter().skip(1).try_fold(items[0].clone(), |total, item| add(&total, item)),
        Expr::Multiply(items) => {
            items.iter().skip(1).try_fold(items[0].clone(), |total, item| multiply(&total, item))
        }
        Expr::Negate(a) => each(a, |x| Expr::Negate(Box::new(x.clone()))),
        Expr::Divide(a, b) => each(a, |x| Expr::Divide(Box::new(x.clone()), b.clone())),
        Expr::Group('(', items, ')') if items.len() == 1 => Some(items[0].clone()),
        _ => None,
    }
    .unwrap_or(expr)
}

fn each(expr: &Expr, f: impl Fn(&Expr) -> Expr) -> Option<Expr> {
    let Expr::Matrix(rows) = expr else { return None };
    Some(Expr::Matrix(rows.iter().map(|row| row.iter().map(&f).collect()).collect()))
}

fn add(a: &Expr, b: &Expr) -> Option<Expr> {
    let (Expr::Matrix(x), Expr::Matrix(y)) = (a, b) else {
        let none = !matches!(a, Expr::Matrix(_)) && !matches!(b, Expr::Matrix(_));
        return none.then(|| Expr::Add(vec![a.clone(), b.clone()]));
    };
    let fits = x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.len() == y.len());
    let row = |(x, y): (&Vec<Expr>, &Vec<Expr>)| {
        x.iter().zip(y).map(|(x, y)| Expr::Add(vec![x.clone(), y.clone()])).collect()
    };
    fits.then(|| Expr::Matrix(x.iter().zip(y).map(row).collect()))
}

fn multiply(a: &Expr, b: &Expr) -> Option<Expr> {
    match (a, b) {
        (Expr::Matrix(x), Expr::Matrix(y)) => product(x, y),
        (Expr::Matrix(_), k) => each(a, |x| Expr::Multiply(vec![x.clone(), k.clone()])),
        (k, Expr::Matrix(_)) => each(b, |x| Expr::Multiply(vec![k.clone(), x.clone()])),
        (a, b) => Some(Expr::Multiply(vec![a.clone(), b.clone()])),
    }
}

fn product(x: &Rows, y: &Rows) -> Option<Expr> {
    let width = y.first()?.len();
    if x.len() > SIZE || width > SIZE || y.len() > SIZE || x.iter().any(|row| row.len() != y.len()) {
        return None;
    }
    let entry = |row: &Vec<Expr>, j: usize| {
        let terms =
            row.iter().zip(y).map(|(a, line)| Some(Expr::Multiply(vec![a.clone(), line.get(j)?.clone()])));
        terms.collect::<Option<Vec<_>>>().map(Expr::Add)
    };
    let row = |row: &Vec<Expr>| (0..width).map(|j| entry(row, j)).collect::<Option<Vec<_>>>();
    x.iter().map(row).collect::<Option<Vec<_>>>().map(Expr::Matrix)
}
