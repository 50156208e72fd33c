//! Progress of long work: a bar on a terminal, log lines now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a log line is written.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Shows how far a piece of work is.
pub(crate) struct Progress {
    what: &'static str,
    unit: &'static str,
    bar: Option<ProgressBar>,
    last_line: Instant,
    started: Instant,
}

impl Progress {
    /// Begins, counting events.
    pub(crate) fn new(what: &'static str) -> Progress {
        Progress::counting(what, "events")
    }

    /// Begins, counting anything.
    pub(crate) fn counting(what: &'static str, unit: &'static str) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = format!(
                "{what} {{bar:30}} {{percent:>3}} %  {{human_pos}} {unit}  {{per_sec}}  {{eta}} left"
            );
            let style = ProgressStyle::with_template(&template).expect("the template is right");
            ProgressBar::new(0).with_style(style)
        });
        let now = Instant::now();
        Progress { what, unit, bar, last_line: now, started: now }
    }

    /// `done` of `total`.
    pub(crate) fn report(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            let per_second = (done as f64 / self.started.elapsed().as_secs_f64()) as u64;
            tracing::info!(done, total, unit = self.unit, per_second, "{}", self.what);
        }
    }

    /// Prints something else, the bar out of its way meanwhile.
    pub(crate) fn beside<Answer>(&self, print: impl FnOnce() -> Answer) -> Answer {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Ends, and clears the line.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
