//! The comparison in words and numbers: Markdown, JSON, and a table on the terminal, from one list of rows.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::Table;
use serde_json::{Value, json};

use super::arguments::CompareArguments;
use super::config::{Config, Reference};
use super::fault::Kill;
use super::{Row, plot};
use crate::bench::{Acknowledged, Figures, Transport};
use crate::exit::Failure;
use crate::output::table;

const NOTHING: &str = "–";

/// Everything there is to say.
pub(super) struct Report<'run> {
    pub(super) arguments: &'run CompareArguments,
    pub(super) config: &'run Config,
    pub(super) rows: &'run [Row],
    pub(super) seed: u64,
}

/// One property of all architectures, and of the references where they have it.
struct Line {
    name: String,
    values: Vec<String>,
}

impl Report<'_> {
    /// Writes the files.
    pub(super) fn write(&self, out: &Path) -> Result<(), Failure> {
        let write = |name: &str, content: String| {
            let path = out.join(name);
            std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
        };
        write("README.md", self.markdown())?;
        write("comparison.json", format!("{:#}\n", self.document()))?;
        write(
            "comparison.svg",
            plot::draw(self.rows, &self.config.references, &self.arguments.transports())?,
        )?;
        Ok(())
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines = vec![
            self.line("implementation layer", |row| row.entry.chapter.layer.to_owned()),
            self.line("order of execution", |row| row.entry.chapter.order.to_owned()),
            self.line("in parallel", |row| row.entry.chapter.parallel.to_owned()),
            self.line("intermediate states visible", |row| row.entry.chapter.visible.to_owned()),
            self.line("answers a past balance", |row| yes_or_no(row.answers_the_past)),
        ];
        for transport in self.arguments.transports() {
            self.add_load(transport, &mut lines);
        }
        if self.rows.iter().any(|row| !row.kills.is_empty()) {
            self.add_kills(&mut lines);
        }
        lines.push(self.line("acknowledged transfers found", |row| {
            let all = row.loads.iter().map(|load| &load.acknowledged);
            let all: Vec<&Acknowledged> =
                all.chain(row.kills.iter().map(|kill| &kill.acknowledged)).collect();
            let (found, checked): (u64, u64) =
                (all.iter().map(|part| part.found).sum(), all.iter().map(|part| part.checked).sum());
            format!("{} of {} asked for", grouped(found), grouped(checked))
        }));
        lines.push(self.line("every balance exact in the end", |row| match row.wrong_balances {
            Some(0) => format!("yes, all {}", grouped(self.arguments.accounts.into())),
            Some(wrong) => {
                format!("no, {} of {} wrong", grouped(wrong), grouped(self.arguments.accounts.into()))
            }
            None => "not known: transfers were refused".to_owned(),
        }));
        lines
    }

    fn add_load(&self, transport: Transport, lines: &mut Vec<Line>) {
        let name = match self.arguments.load(transport).batch {
            1 => transport.name().to_owned(),
            batch => format!("{}, batches of {}", transport.name(), grouped(batch.into())),
        };
        // Where nothing was answered in time, there is nothing to tell.
        let each = |row: &Row, value: &dyn Fn(&Figures) -> String| {
            let load = row.load(transport).filter(|load| load.transfers > 0);
            load.map_or_else(|| NOTHING.to_owned(), value)
        };
        let is_first = self.arguments.transports()[0] == transport;
        let of_references = |value: &dyn Fn(&Reference) -> String| match is_first {
            true => self.config.references.iter().map(value).collect(),
            false => vec![NOTHING.to_owned(); self.config.references.len()],
        };
        let mut throughput = self
            .line(&format!("{name}: transfers/s"), |row| each(row, &|load| whole(load.transfers_per_second)));
        throughput.values.extend(of_references(&|reference| whole(reference.transfers_per_second)));
        let mut latency = self.line(&format!("{name}: p50 / p99"), |row| {
            each(row, &|load| format!("{} / {} ms", short(load.p50_ms), short(load.p99_ms)))
        });
        latency.values.extend(of_references(&|reference| match (reference.p50_ms, reference.p99_ms) {
            (Some(p50), Some(p99)) => format!("{} / {} ms", short(p50), short(p99)),
            _ => NOTHING.to_owned(),
        }));
        lines.extend([throughput, latency]);
        for reference in &self.config.references {
            lines.push(self.line(&format!("{name}: {} has so many times as much", reference.name), |row| {
                each(row, &|load| {
                    format!("{:.2}", reference.transfers_per_second / load.transfers_per_second)
                })
            }));
        }
        if self.rows.iter().any(|row| row.load(transport).is_some_and(|load| load.errors > 0)) {
            lines.push(self.line(&format!("{name}: transfers without an answer"), |row| {
                row.load(transport).map_or_else(|| NOTHING.to_owned(), |load| grouped(load.errors))
            }));
        }
    }

    fn add_kills(&self, lines: &mut Vec<Line>) {
        let mut add = |name: &str, value: &dyn Fn(&[Kill]) -> String| {
            lines.push(self.line(name, |row| match row.kills.is_empty() {
                true => NOTHING.to_owned(),
                false => value(&row.kills),
            }));
        };
        add("killed under load: money lost", &|kills| money(kills, Kill::lost));
        add("killed under load: money doubled", &|kills| money(kills, Kill::doubled));
        add("lost or doubled once clients repeated", &|kills| money(kills, Kill::different_after_repeats));
        add("unanswered / in flight after the kill", &|kills| {
            let sum = |of: fn(&Kill) -> u64| grouped(kills.iter().map(of).sum());
            format!("{} / {}", sum(|kill| kill.unanswered), sum(|kill| kill.in_flight))
        });
        add("longest in doubt", &|kills| {
            let longest = kills.iter().filter_map(|kill| kill.in_doubt).max();
            longest.map_or_else(|| "none in flight".to_owned(), seconds)
        });
        add("serves again after", &|kills| range(kills.iter().map(|kill| Some(kill.serving_after))));
        add("recovery: nothing in flight after", &|kills| range(kills.iter().map(|kill| kill.settled_after)));
    }

    fn line(&self, name: &str, value: impl Fn(&Row) -> String) -> Line {
        Line { name: name.to_owned(), values: self.rows.iter().map(value).collect() }
    }

    fn columns(&self) -> Vec<String> {
        let labels = self.rows.iter().map(|row| row.entry.label.clone());
        labels.chain(self.config.references.iter().map(|reference| reference.name.clone())).collect()
    }

    /// For the terminal.
    pub(super) fn table(&self) -> Table {
        let columns = self.columns();
        let header: Vec<&str> = std::iter::once("").chain(columns.iter().map(String::as_str)).collect();
        let mut printed = table(&header);
        for line in self.lines() {
            // Bold is for Markdown.
            let values = line.values.iter().map(|value| value.replace("**", ""));
            printed.add_row(std::iter::once(line.name).chain(values));
        }
        printed
    }

    fn markdown(&self) -> String {
        let columns = self.columns();
        let mut text = format!(
            "# Comparison of architectures\n\n{}, jigap {}, {}. Made by `{}`: `jigap compare {} --seed {}`.\n\n",
            today(),
            env!("CARGO_PKG_VERSION"),
            machine(),
            self.made_with(),
            self.arguments.as_flags(),
            self.seed,
        );
        text.push_str(&format!("| | {} |\n|---|{}\n", columns.join(" | "), "---|".repeat(columns.len())));
        for Line { name, mut values } in self.lines() {
            values.resize(columns.len(), String::new());
            let values: Vec<String> = values.iter().map(|value| value.replace('|', "\\|")).collect();
            text.push_str(&format!("| {name} | {} |\n", values.join(" | ")));
        }
        text.push_str("\n![transfers per second, latency and recovery](comparison.svg)\n\n");
        for (name, note) in self.notes() {
            text.push_str(&format!("- {name}: {note}\n"));
        }
        text.push_str(EXPLANATION);
        text
    }

    fn notes(&self) -> Vec<(&str, &str)> {
        let entries =
            self.rows.iter().filter_map(|row| Some((row.entry.label.as_str(), row.entry.note.as_deref()?)));
        let references = self.config.references.iter();
        entries
            .chain(
                references
                    .filter_map(|reference| Some((reference.name.as_str(), reference.note.as_deref()?))),
            )
            .collect()
    }

    fn made_with(&self) -> &str {
        self.config.made_with.as_deref().unwrap_or("jigap compare")
    }

    /// For programs.
    pub(super) fn document(&self) -> Value {
        json!({
            "date": today(),
            "jigap": env!("CARGO_PKG_VERSION"),
            "machine": machine(),
            "made_with": self.made_with(),
            "arguments": self.arguments.as_flags(),
            "seed": self.seed,
            "accounts": self.arguments.accounts,
            "architectures": self.rows.iter().map(row).collect::<Vec<_>>(),
            "references": self.config.references,
        })
    }
}

const EXPLANATION: &str = "
Each wallet had the same accounts and the same transfers, one after the other, load generator included in the machine. Each kill is `kill -9` under single transfers over
HTTP. *Lost* and *doubled* is what the sum over all accounts and all that is in flight was short of, or above, zero, once nothing was in flight any more. *Once clients
repeated*: after every transfer without an answer was sent again with its id, as a client must. *In doubt* is from the begin of a transaction that the kill caught to
its end; *recovery* from the kill until nothing was in flight: a wallet over shards waits there for the leases of the one that died (`transaction-lease`). *Every balance
exact*: each account has to the cent what all transfers of all loads make it.
";

fn row(row: &Row) -> Value {
    let chapter = row.entry.chapter;
    json!({
        "label": row.entry.label,
        "architecture": chapter.name,
        "note": row.entry.note,
        "implementation_layer": chapter.layer,
        "order_of_execution": chapter.order,
        "in_parallel": chapter.parallel,
        "intermediate_states_visible": chapter.visible,
        "answers_a_past_balance": row.answers_the_past,
        "loads": row.loads.iter().map(load).collect::<Vec<_>>(),
        "kills": row.kills.iter().map(kill).collect::<Vec<_>>(),
        "wrong_balances": row.wrong_balances,
    })
}

fn load(load: &Figures) -> Value {
    json!({
        "transport": load.shape.transport.name(),
        "batch": load.shape.batch,
        "connections": load.shape.connections,
        "transfers": load.transfers,
        "transfers_per_second": load.transfers_per_second,
        "latency_ms": { "p50": load.p50_ms, "p99": load.p99_ms },
        "refused": load.refused,
        "errors": load.errors,
        "first_error": load.first_error,
        "acknowledged": acknowledged(&load.acknowledged),
    })
}

fn kill(kill: &Kill) -> Value {
    json!({
        "unanswered": kill.unanswered,
        "in_flight": kill.in_flight,
        "serving_after_seconds": kill.serving_after.as_secs_f64(),
        "settled_after_seconds": kill.settled_after.map(|time| time.as_secs_f64()),
        "in_doubt_seconds": kill.in_doubt.map(|time| time.as_secs_f64()),
        "lost": dollars(kill.lost()),
        "doubled": dollars(kill.doubled()),
        "different_after_repeats": dollars(kill.different_after_repeats()),
        "acknowledged": acknowledged(&kill.acknowledged),
    })
}

fn acknowledged(acknowledged: &Acknowledged) -> Value {
    let Acknowledged { count, checked, found, .. } = acknowledged;
    json!({ "count": count, "checked": checked, "found": found })
}

fn money(kills: &[Kill], of: fn(&Kill) -> u64) -> String {
    let hit = kills.iter().filter(|kill| of(kill) > 0).count();
    match hit {
        0 => format!("none in {}", kills_counted(kills.len())),
        _ => {
            let sum = dollars(kills.iter().map(of).sum());
            format!("**{sum} USD** in {hit} of {}", kills_counted(kills.len()))
        }
    }
}

fn kills_counted(count: usize) -> String {
    if count == 1 { "1 kill".to_owned() } else { format!("{count} kills") }
}

/// The least and the most.
fn range(times: impl Iterator<Item = Option<Duration>> + Clone) -> String {
    if times.clone().any(|time| time.is_none()) {
        return "not within the patience".to_owned();
    }
    match (times.clone().flatten().min(), times.flatten().max()) {
        (Some(least), Some(most)) if least != most => format!("{} to {}", seconds(least), seconds(most)),
        (Some(one), _) => seconds(one),
        _ => NOTHING.to_owned(),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn dollars(minor_units: u64) -> String {
    format!("{}.{:02}", minor_units / 100, minor_units % 100)
}

fn yes_or_no(truth: bool) -> String {
    if truth { "yes" } else { "no" }.to_owned()
}

fn whole(number: f64) -> String {
    grouped(number.round() as u64)
}

/// Three digits that mean something.
fn short(milliseconds: f64) -> String {
    match milliseconds {
        0.0..10.0 => format!("{milliseconds:.2}"),
        10.0..100.0 => format!("{milliseconds:.1}"),
        _ => format!("{milliseconds:.0}"),
    }
}

/// With a comma after every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn today() -> String {
    DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The processors and the memory of this machine, as far as the operating system tells.
fn machine() -> String {
    let after = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = after("/proc/cpuinfo", "model name").map_or_else(String::new, |model| format!(" ({model})"));
    let kibibytes =
        after("/proc/meminfo", "MemTotal").and_then(|total| total.split(' ').next()?.parse::<u64>().ok());
    let memory =
        kibibytes.map_or_else(String::new, |size| format!(", {} GiB of memory", (size + (1 << 19)) >> 20));
    format!("{processors} processors{model}{memory}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            [0, 12, 999, 1000, 1_234_567].map(grouped),
            ["0", "12", "999", "1,000", "1,234,567"].map(str::to_owned)
        );
        assert_eq!(dollars(1_205), "12.05");
        assert_eq!([0.5, 12.34, 999.6].map(short), ["0.50", "12.3", "1000"].map(str::to_owned));
        let times = [Some(Duration::from_millis(20)), Some(Duration::from_millis(1500))];
        assert_eq!(range(times.into_iter()), "0.02 s to 1.50 s");
        assert_eq!(range([times[0], None].into_iter()), "not within the patience");
    }
}
