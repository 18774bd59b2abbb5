//! The events of several runs that take turns enter; a live block with a line a run, or lines that name their run, leave on
//! standard error. A run that is alone is shown as any other.

use super::lines::is_supervised;
use super::view::View;
use super::{block, lines};
use crate::draw::{self, Style, Tone};
use crate::format;
use crate::loading::{self, News};
use crate::meter::Meter;
use crate::screen::Screen;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tinylora::rollout::BatchProgress;
use tinylora::train::Event;

/// Runs with a line of their own at most.
const MOST_LINES: usize = 12;

/// Shows the runs of a sweep, by their numbers.
pub struct RunsDisplay {
    screen: Screen,
    clock: Instant,
    runs: Runs,
}

/// What is known of the runs that are not over.
#[derive(Default)]
struct Runs {
    /// Above the lines of the runs.
    head: String,
    views: BTreeMap<usize, Shown>,
    /// The batch of this moment.
    batch: Option<Meter>,
    tokens: u64,
    /// There was more than one at once, so that lines name their run.
    several: bool,
}

struct Shown {
    what: String,
    view: View,
}

impl RunsDisplay {
    /// Nothing is shown yet.
    pub fn new(screen: Screen) -> Self {
        Self { screen, clock: Instant::now(), runs: Runs::default() }
    }

    /// A run begins; `what` sets it apart. `head` is said of the sweep.
    pub fn begin(&mut self, number: usize, what: String, head: String) {
        self.runs.begin(number, what, head);
        self.draw();
    }

    /// A run is over. `head` is said of the sweep from now on.
    pub fn end(&mut self, number: usize, head: String) {
        self.runs.views.remove(&number);
        self.runs.head = head;
        match self.runs.views.is_empty() {
            true => self.screen.clear(),
            false => self.draw(),
        }
    }

    /// Takes an event of a run.
    pub fn take(&mut self, number: usize, event: &Event<'_>) {
        let now = self.clock.elapsed();
        let (style, width) = (self.screen.style(), self.screen.width());
        if let Some(text) =
            self.runs.take(number, event, now, self.screen.is_live().then_some((style, width)))
        {
            self.screen.print(&text);
        }
        self.draw();
    }

    /// Takes the progress of a batch that runs share.
    pub fn batch(&mut self, progress: BatchProgress) {
        self.runs.batch(progress, self.clock.elapsed());
        self.draw();
    }

    /// What part of its steps a run has done, by its number.
    pub fn share(&self, number: usize) -> f64 {
        let view = self.runs.views.get(&number).map(|shown| &shown.view);
        view.filter(|view| view.steps > 0).map_or(0.0, |view| view.done as f64 / view.steps as f64)
    }

    /// Takes the block away.
    pub fn finish(&self) {
        self.screen.clear();
    }

    fn draw(&self) {
        if self.screen.is_live() {
            let (style, width) = (self.screen.style(), self.screen.width());
            self.screen.show(&self.runs.render(self.clock.elapsed(), style, width));
        }
    }
}

impl Runs {
    fn begin(&mut self, number: usize, what: String, head: String) {
        self.head = head;
        self.several = !self.views.is_empty();
        self.views.insert(number, Shown { what, view: View::default() });
    }

    /// Gives what is to be said for good; `live` is style and width where there is a block.
    fn take(
        &mut self,
        number: usize,
        event: &Event<'_>,
        now: Duration,
        live: Option<(Style, usize)>,
    ) -> Option<String> {
        // The model is loaded before the run begins.
        let shown =
            self.views.entry(number).or_insert_with(|| Shown { what: String::new(), view: View::default() });
        let news = shown.view.take(event, now);
        if self.several && matches!(event, Event::Memory(_) | Event::Sample(_)) {
            return None; // the same for all, or too many to read: they are in the runs' folders
        }
        let text = match live {
            Some((style, width)) => lines::above_block(event, &news, style, width),
            None => lines::plain(event, &shown.view, &news),
        }?;
        Some(if self.several { format!("run {number}: {text}") } else { text })
    }

    fn batch(&mut self, progress: BatchProgress, now: Duration) {
        let BatchProgress { runs, done, total, tokens } = progress;
        self.tokens = tokens;
        let what = if runs == 1 { "one run".to_owned() } else { format!("{runs} runs") };
        // A line of its own would come twice a step where there is no block.
        let _: News = loading::work(&mut self.batch, &what, "completions", (done as u64, total as u64), now);
        if done == total {
            self.batch = None;
        }
    }

    /// The block: of one run as always, of several a line each.
    fn render(&self, now: Duration, style: Style, width: usize) -> Vec<String> {
        let batch = self
            .batch
            .as_ref()
            .map(|meter| format!("{}, {} tokens", meter.line(now, style), format::count(self.tokens)));
        if let Some(only) = self.views.values().next().filter(|_| self.views.len() == 1) {
            let mut lines = block::render(&only.view, now, style, width);
            if let Some(batch) = batch {
                if only.view.meter.is_some() {
                    lines.pop();
                }
                lines.push(batch);
            }
            return lines;
        }
        let mut lines = vec![style.paint(Tone::Strong, &self.head)];
        lines.extend(
            self.views.iter().take(MOST_LINES).map(|(number, shown)| line(*number, shown, style, width)),
        );
        if self.views.len() > MOST_LINES {
            lines.push(style.paint(Tone::Faint, &format!("… and {} more", self.views.len() - MOST_LINES)));
        }
        lines.extend(batch);
        lines
    }
}

/// `run  9  12/30  ████░░░░  reward 0.412  ▁▂▃▅  u 13, seed 2`
fn line(number: usize, shown: &Shown, style: Style, width: usize) -> String {
    let Shown { what, view } = shown;
    let name = style.paint(Tone::Strong, &format!("run {number:>3}"));
    let what = style.paint(Tone::Faint, what);
    let (steps, bar) = match view.steps {
        0 => (String::new(), draw::bar(0, 1, 8, style)),
        steps => (format!("{}/{steps}", view.done), draw::bar(view.done, steps, 8, style)),
    };
    let course = (width / 8).clamp(6, 16);
    let (state, values): (String, &[f64]) = match (&view.last, &view.meter) {
        (Some(metrics), _) if is_supervised(metrics) => (format!("loss {:.3}", metrics.loss), &view.losses),
        (Some(metrics), _) => (format!("reward {:.3}", metrics.reward_mean), &view.rewards),
        (None, Some(meter)) => (meter.what.clone(), &[]),
        (None, None) => (String::new(), &[]),
    };
    let drawn = draw::sparkline(values, course);
    let pad = " ".repeat(course.saturating_sub(drawn.chars().count()));
    let drawn = style.paint(Tone::Up, &drawn);
    format!("{name}  {steps:>7}  {bar}  {state:<13} {drawn}{pad}  {what}")
}

#[cfg(test)]
mod tests {
    use super::super::tests::metrics;
    use super::*;

    fn started(runs: &mut Runs, number: usize) {
        runs.begin(number, format!("seed {number}"), format!("{number} of 20 runs at once"));
        runs.take(number, &Event::Start { done: 0, steps: 4, trainable: 13 }, Duration::ZERO, None);
    }

    #[test]
    fn several_runs_have_a_line_each() {
        let mut runs = Runs::default();
        (1..=2).for_each(|number| started(&mut runs, number));
        let seconds = Duration::from_secs;
        let (first, second) = (metrics(1, 0.25), metrics(2, 0.5));
        let said = runs.take(2, &Event::Step { metrics: &first, v: &[0.1] }, seconds(1), None).unwrap();
        assert!(said.starts_with("run 2: step 1/4: reward 0.250"), "{said}");
        runs.take(2, &Event::Step { metrics: &second, v: &[0.1] }, seconds(2), None);
        runs.batch(BatchProgress { runs: 2, done: 3, total: 12, tokens: 40 }, seconds(2));
        let lines = runs.render(seconds(2), Style::Plain, 80);
        let wanted = [
            "2 of 20 runs at once",
            "run   1      0/4  ░░░░░░░░                            seed 1",
            "run   2      2/4  ████░░░░  reward 0.500  ▁█          seed 2",
            "2 runs               ██████░░░░░░░░░░░░░░░░░░ 3/12 completions, 40 tokens",
        ];
        assert_eq!(lines, wanted);
        runs.batch(BatchProgress { runs: 2, done: 12, total: 12, tokens: 90 }, seconds(2));
        assert_eq!(runs.render(seconds(2), Style::Plain, 80).len(), 3, "the batch is done");
    }

    #[test]
    fn many_runs_stay_on_one_screen() {
        let mut runs = Runs::default();
        (1..=16).for_each(|number| started(&mut runs, number));
        let lines = runs.render(Duration::ZERO, Style::Plain, 80);
        assert_eq!((lines.len(), &lines[13][..]), (14, "… and 4 more"));
    }

    #[test]
    fn a_run_alone_is_shown_as_always() {
        let mut runs = Runs::default();
        started(&mut runs, 1);
        let said = runs.take(1, &Event::Message("hello".into()), Duration::ZERO, None);
        assert_eq!(said.as_deref(), Some("hello"));
        let lines = runs.render(Duration::ZERO, Style::Plain, 80);
        assert!(lines.len() == 1 && lines[0].starts_with("step 0/4"), "{lines:?}");
    }
}
