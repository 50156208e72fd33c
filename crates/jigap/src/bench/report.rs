//! The figures.

use serde_json::{Value, json};

use super::load::{Measured, Plan};
use super::proof::Proof;
use crate::cli::Output;
use crate::output::{print_json, print_line, print_table, table};

/// Everything there is to say about a run.
pub(super) struct Report<'run> {
    pub(super) plan: &'run Plan,
    pub(super) measured: &'run Measured,
    pub(super) proof: &'run Proof,
}

impl Report<'_> {
    pub(super) fn print(&self, output: Output) -> std::io::Result<()> {
        match output {
            Output::Programs => print_json(&self.document()),
            Output::People => self.print_table(),
        }
    }

    fn per_second(&self) -> f64 {
        self.measured.per_second()
    }

    fn latency_ms(&self, quantile: f64) -> f64 {
        self.measured.latency_ms(quantile)
    }

    fn maximum_ms(&self) -> f64 {
        self.measured.latency_us.max() as f64 / 1000.0
    }

    fn document(&self) -> Value {
        let Report { plan, measured, proof } = self;
        json!({
            "transport": plan.transport.name(),
            "batch": plan.batch,
            "connections": plan.connections,
            "in_flight": plan.in_flight,
            "accounts": plan.accounts,
            "account_refs": plan.account_refs.name(),
            "distribution": plan.distribution.to_string(),
            "ids": plan.ids.name(),
            "rate": plan.rate,
            "warm_up_seconds": plan.warm_up.as_secs_f64(),
            "seed": plan.seed,
            "transfers": measured.transfers,
            "seconds": measured.seconds,
            "transfers_per_second": self.per_second(),
            "latency_ms": {
                "p50": self.latency_ms(0.5),
                "p90": self.latency_ms(0.9),
                "p99": self.latency_ms(0.99),
                "p999": self.latency_ms(0.999),
                "max": self.maximum_ms(),
            },
            "refused": measured.refused,
            "errors": measured.errors,
            "first_error": measured.first_error,
            "generator_ns_per_transfer": measured.generator_ns,
            "proof": proof.document(),
        })
    }

    fn print_table(&self) -> std::io::Result<()> {
        let Report { plan, measured, proof } = self;
        let pace = plan.rate.map_or("closed loop".to_owned(), |rate| format!("open loop at {rate}/s"));
        print_line(&format!(
            "{} transfers a request, {} connections, {} accounts ({}), {pace}, seed {}",
            plan.batch, plan.connections, plan.accounts, plan.distribution, plan.seed
        ))?;
        let mut rows = table(&[plan.transport.name(), ""]);
        rows.add_row(["transfers", &measured.transfers.to_string()]);
        rows.add_row(["seconds", &format!("{:.2}", measured.seconds)]);
        rows.add_row(["transfers/s", &format!("{:.0}", self.per_second())]);
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
            rows.add_row([format!("latency {name}"), format!("{:.3} ms", self.latency_ms(quantile))]);
        }
        rows.add_row(["latency max", &format!("{:.3} ms", self.maximum_ms())]);
        rows.add_row(["refused", &measured.refused.to_string()]);
        rows.add_row(["errors", &measured.errors.to_string()]);
        if let Some(error) = &measured.first_error {
            rows.add_row(["first error", error]);
        }
        rows.add_row([
            "processor time of the generator",
            &format!("{:.0} ns a transfer", measured.generator_ns),
        ]);
        let verdict = if proof.sum_unchanged { "unchanged, every currency sums to zero" } else { "CHANGED" };
        rows.add_row(["sum of all accounts", verdict]);
        let extent = if proof.checked == proof.acknowledged {
            format!("{} of {}, every one checked", proof.found, proof.checked)
        } else {
            let (found, checked, all) = (proof.found, proof.checked, proof.acknowledged);
            format!("{found} of {checked} drawn at random from {all}")
        };
        rows.add_row(["acknowledged transfers found", &extent]);
        print_table(&rows)
    }
}
