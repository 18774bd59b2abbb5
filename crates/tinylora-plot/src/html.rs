//! Figures and where they come from enter, one page of HTML leaves: drawings inside, the numbers behind each as a table, no
//! other file, no script, no network. The page is well-formed XML, too.

use crate::chart::{Figure, Table};
use crate::draw;
use crate::figures::Figures;
use crate::gather::{Results, Source};
use crate::text::{BOLD, REGULAR, escape};
use crate::theme::dark_rules;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tinylora::run_folder::{COMMIT, VERSION};

const FRAME: &str = include_str!("page/frame.html");
const STYLE: &str = include_str!("page/style.css");

/// The page.
pub fn render(figures: &Figures, results: &Results, title: &str) -> String {
    let drawn: String =
        figures.figures.iter().enumerate().map(|(i, figure)| section(i + 1, figure)).collect();
    let style = STYLE
        .replace("REGULAR_FONT", &STANDARD.encode(REGULAR))
        .replace("BOLD_FONT", &STANDARD.encode(BOLD))
        .replace("/* DARK */", &dark_rules());
    let made = format!("tinylora {VERSION} ({})", COMMIT.chars().take(12).collect::<String>());
    let parts = [
        ("TITLE", escape(title)),
        ("STYLE", style),
        ("CONTENTS", contents(&figures.figures)),
        ("FIGURES", drawn),
        ("SOURCES", sources(&results.sources)),
        ("NOTES", notes(&figures.notes)),
        ("MADE", escape(&made)),
    ];
    // One pass over the frame, so that nothing in a part is taken for a place.
    let mut page = String::new();
    let mut pieces = FRAME.split("@@");
    page.push_str(pieces.next().unwrap_or_default());
    while let (Some(name), Some(after)) = (pieces.next(), pieces.next()) {
        let part = parts.iter().find(|(known, _)| *known == name);
        page.push_str(part.map_or("", |(_, text)| text));
        page.push_str(after);
    }
    page
}

fn contents(figures: &[Figure]) -> String {
    let entry = |(i, figure): (usize, &Figure)| {
        format!("<li><a href=\"#figure-{}\">{}</a></li>\n", i + 1, escape(&figure.title))
    };
    figures.iter().enumerate().map(entry).collect()
}

fn section(number: usize, figure: &Figure) -> String {
    format!(
        "<section id=\"figure-{number}\">\n<h2>{number}. {title}</h2>\n<figure>\n<div class=\"drawing\">\n{drawing}</div>\n\
         <figcaption>{caption}</figcaption>\n</figure>\n<details>\n<summary>The numbers ({rows})</summary>\n{table}</details>\n</section>\n",
        title = escape(&figure.title),
        drawing = draw::inline(&draw::figure(figure, false), &figure.title),
        caption = escape(&figure.caption),
        rows = match figure.table.rows.len() {
            1 => "1 row".to_owned(),
            n => format!("{n} rows"),
        },
        table = table(&figure.table, &figure.title),
    )
}

fn table(table: &Table, caption: &str) -> String {
    let cell = |tag: &str, text: &str| {
        let number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '–');
        let class = if number && tag == "td" { " class=\"n\"" } else { "" };
        let scope = if tag == "th" { " scope=\"col\"" } else { "" };
        format!("<{tag}{scope}{class}>{}</{tag}>", escape(text))
    };
    let head: String = table.columns.iter().map(|name| cell("th", name)).collect();
    let row = |row: &Vec<String>| {
        format!("<tr>{}</tr>\n", row.iter().map(|text| cell("td", text)).collect::<String>())
    };
    format!(
        "<div class=\"wide\"><table>\n<caption>{}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{}</tbody>\n</table></div>\n",
        escape(caption),
        table.rows.iter().map(row).collect::<String>()
    )
}

fn sources(sources: &[Source]) -> String {
    let mut rows = Table::new(&["folder", "kind", "finished runs", "made by"]);
    for source in sources {
        rows.rows.push(vec![
            source.path.display().to_string(),
            source.kind.into(),
            source.runs.to_string(),
            source.made.clone().unwrap_or_else(|| "–".into()),
        ]);
    }
    table(&rows, "Folders")
}

fn notes(notes: &[String]) -> String {
    if notes.is_empty() {
        return String::new();
    }
    let items: String = notes.iter().map(|note| format!("<li>{}.</li>\n", escape(note))).collect();
    format!("<ul>\n{items}</ul>\n")
}
