//! The metrics of a wallet over shards. Each instance tells what it did itself: whoever wants the whole adds instances up.

use std::sync::atomic::{AtomicU64, Ordering};

use coordinator::machine::Phase;
use distributed::{Ending, Metrics, StepOutcome};

use super::Exposition;

pub(super) fn write(out: &mut Exposition, metrics: &Metrics) {
    let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
    out.head(
        "jigap_transactions_total",
        "counter",
        "Transactions brought to an end by outcome, repeats not.",
    );
    for ending in Ending::ALL {
        let series = format!("jigap_transactions_total{{outcome=\"{}\"}}", ending.name());
        out.line(&series, load(&metrics.endings[ending as usize]));
    }
    out.refusals(&metrics.refusals);
    let counters = [
        (
            "jigap_replayed_total",
            "Commands answered with what became of them the first time.",
            &metrics.replayed,
        ),
        ("jigap_overloaded_total", "Commands turned away: too many were under way.", &metrics.overloaded),
        (
            "jigap_transactions_taken_over_total",
            "Unfinished transactions taken over, of other instances or at an operator's wish.",
            &metrics.taken_over,
        ),
        (
            "jigap_outbox_messages_total",
            "Messages of choreographed Sagas that the broker took.",
            &metrics.outbox_sent,
        ),
    ];
    for (name, help, value) in counters {
        out.single(name, "counter", help, load(value));
    }
    let in_flight = load(&metrics.in_flight);
    out.single("jigap_transactions_in_flight", "gauge", "Transactions under way here.", in_flight);

    let name = "jigap_transaction_phase_microseconds";
    out.head(name, "histogram", "Time of each phase of a transaction.");
    out.histogram_series(name, "phase=\"claim\"", &metrics.claim_us);
    for phase in Phase::ALL {
        let label = format!("phase=\"{}\"", phase.name());
        out.histogram_series(name, &label, &metrics.phase_us[phase as usize]);
    }
    steps(out, metrics);
}

fn steps(out: &mut Exposition, metrics: &Metrics) {
    let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
    out.head("jigap_shard_steps_total", "counter", "Steps asked of a shard by outcome, repeats too.");
    for (number, shard) in metrics.shards.iter().enumerate() {
        for outcome in StepOutcome::ALL {
            let name = outcome.name();
            let series = format!("jigap_shard_steps_total{{shard=\"{number}\",outcome=\"{name}\"}}");
            out.line(&series, load(&shard.steps[outcome as usize]));
        }
    }
    out.head("jigap_shard_repeats_total", "counter", "Steps asked again for want of an answer.");
    for (number, shard) in metrics.shards.iter().enumerate() {
        out.line(&format!("jigap_shard_repeats_total{{shard=\"{number}\"}}"), load(&shard.repeats));
    }
    let name = "jigap_shard_step_microseconds";
    out.head(name, "histogram", "Time of a step from sending it to a shard to its answer.");
    for (number, shard) in metrics.shards.iter().enumerate() {
        out.histogram_series(name, &format!("shard=\"{number}\""), &shard.step_us);
    }
}
