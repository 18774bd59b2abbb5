//! An expression as people write it, for explanations.

use crate::expr::{Expr, Relation};

/// In plain notation, shortened where it is long.
pub fn show(expr: &Expr) -> String {
    let text = write(expr);
    match text.char_indices().nth(300) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn joined(items: &[Expr], by: &str) -> String {
    items.iter().map(write).collect::<Vec<_>>().join(by)
}

fn tight(expr: &Expr) -> String {
    match expr {
        Expr::Add(_) | Expr::Negate(_) | Expr::Multiply(_) | Expr::Divide(..) | Expr::PlusMinus(..) => {
            format!("({})", write(expr))
        }
        other => write(other),
    }
}

fn write(expr: &Expr) -> String {
    match expr {
        Expr::Number(value, _) => value.to_string(),
        Expr::Symbol(name) => name.clone(),
        Expr::Pi => "π".into(),
        Expr::E => "e".into(),
        Expr::I => "i".into(),
        Expr::Infinity => "∞".into(),
        Expr::Add(items) => joined(items, " + "),
        Expr::Multiply(items) => items.iter().map(tight).collect::<Vec<_>>().join("·"),
        Expr::Divide(a, b) => format!("{}/{}", tight(a), tight(b)),
        Expr::Power(a, b) => format!("{}^{}", tight(a), tight(b)),
        Expr::Root(a, degree) if **degree == Expr::int(2) => format!("√{}", tight(a)),
        Expr::Root(a, degree) => format!("root({}, {})", write(a), write(degree)),
        Expr::Negate(a) => format!("-{}", tight(a)),
        Expr::PlusMinus(a, other) => format!("{}{}", if *other { '∓' } else { '±' }, tight(a)),
        Expr::Apply(function, a) => format!("{}({})", format!("{function:?}").to_lowercase(), write(a)),
        Expr::Log(a, base) => format!("log({}, {})", write(a), write(base)),
        Expr::Call(name, items) => format!("{name}({})", joined(items, ", ")),
        Expr::Series(sum, low, high, body) => {
            format!(
                "{}(# = {} … {}: {})",
                if *sum { "sum" } else { "product" },
                write(low),
                write(high),
                write(body)
            )
        }
        Expr::Percent(a) => format!("{}%", tight(a)),
        Expr::Degrees(a) => format!("{}°", tight(a)),
        Expr::Quantity(a, unit) => format!("{} [{unit}]", write(a)),
        Expr::Text(text) => format!("\"{text}\""),
        Expr::Matrix(rows) => {
            let rows: Vec<String> = rows.iter().map(|row| joined(row, ", ")).collect();
            format!("matrix({})", rows.join("; "))
        }
        Expr::Group(open, items, close) => format!("{open}{}{close}", joined(items, ", ")),
        Expr::Set(items) => format!("{{{}}}", joined(items, ", ")),
        Expr::List(items) => joined(items, ", "),
        Expr::Builder(what, condition) => format!("{{{} | {}}}", write(what), write(condition)),
        Expr::Union(items) => joined(items, " ∪ "),
        Expr::SetOperation(sign, items) => joined(items, &format!(" {sign} ")),
        Expr::Chain(sides, relations) => {
            let mut text = write(&sides[0]);
            for (side, relation) in sides[1..].iter().zip(relations) {
                text.push_str(&format!(" {} {}", symbol(*relation), write(side)));
            }
            text
        }
    }
}

fn symbol(relation: Relation) -> char {
    match relation {
        Relation::Equal => '=',
        Relation::NotEqual => '≠',
        Relation::Less => '<',
        Relation::LessEqual => '≤',
        Relation::Greater => '>',
        Relation::GreaterEqual => '≥',
        Relation::In => '∈',
    }
}
