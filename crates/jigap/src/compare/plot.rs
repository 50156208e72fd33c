//! The comparison as a picture: throughput, latency, recovery.

use anyhow::anyhow;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::Row;
use super::config::Reference;
use crate::bench::{Figures, Transport};

const WIDTH: u32 = 1000;
const PANEL_HEIGHT: u32 = 260;
const FONT: &str = "sans-serif";
/// What the bars of one group take of its width.
const GROUP_WIDTH: f64 = 0.8;
/// Colours that are told apart by everyone (Okabe and Ito).
const COLOURS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(230, 159, 0), RGBColor(0, 158, 115)];

/// Bars of one kind: a value for each group, where it has one.
struct Series {
    name: String,
    values: Vec<Option<f64>>,
}

/// One of the pictures.
struct Panel {
    title: &'static str,
    groups: Vec<String>,
    series: Vec<Series>,
    /// Values that differ by factors.
    logarithmic: bool,
}

/// Draws an SVG.
pub(super) fn draw(
    rows: &[Row],
    references: &[Reference],
    transports: &[Transport],
) -> anyhow::Result<String> {
    let mut panels = vec![throughput(rows, references, transports), latency(rows, references)];
    if rows.iter().any(|row| !row.kills.is_empty()) {
        panels.push(recovery(rows));
    }
    // A panel without a value has no axis.
    panels.retain(|panel| panel.values().next().is_some());
    let mut svg = String::new();
    {
        let height = PANEL_HEIGHT * u32::try_from(panels.len()).expect("there are three at most");
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height.max(1))).into_drawing_area();
        root.fill(&WHITE).map_err(not_drawn)?;
        for (panel, area) in panels.iter().zip(root.split_evenly((panels.len().max(1), 1))) {
            panel.draw(&area)?;
        }
        root.present().map_err(not_drawn)?;
    }
    Ok(svg)
}

fn not_drawn(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw the comparison: {error}")
}

fn groups(rows: &[Row], references: &[Reference]) -> Vec<String> {
    let labels = rows.iter().map(|row| row.entry.label.clone());
    labels.chain(references.iter().map(|reference| reference.name.clone())).collect()
}

/// A load that has figures: nothing is none on an axis of factors.
fn answered(row: &Row, transport: Transport) -> Option<&Figures> {
    row.load(transport).filter(|load| load.transfers > 0)
}

fn throughput(rows: &[Row], references: &[Reference], transports: &[Transport]) -> Panel {
    let series = transports.iter().enumerate().map(|(index, transport)| {
        let measured = rows.iter().map(|row| answered(row, *transport).map(|load| load.transfers_per_second));
        let given = references.iter().map(|reference| (index == 0).then_some(reference.transfers_per_second));
        Series { name: transport.name().to_owned(), values: measured.chain(given).collect() }
    });
    Panel {
        title: "transfers a second",
        groups: groups(rows, references),
        series: series.collect(),
        logarithmic: true,
    }
}

fn latency(rows: &[Row], references: &[Reference]) -> Panel {
    let p50 = rows.iter().map(|row| Some(answered(row, Transport::Http)?.p50_ms));
    let p99 = rows.iter().map(|row| Some(answered(row, Transport::Http)?.p99_ms));
    let series = vec![
        Series {
            name: "p50".to_owned(),
            values: p50.chain(references.iter().map(|reference| reference.p50_ms)).collect(),
        },
        Series {
            name: "p99".to_owned(),
            values: p99.chain(references.iter().map(|reference| reference.p99_ms)).collect(),
        },
    ];
    Panel {
        title: "latency of a single transfer over HTTP, ms",
        groups: groups(rows, references),
        series,
        logarithmic: true,
    }
}

fn recovery(rows: &[Row]) -> Panel {
    let worst = |of: fn(&super::Kill) -> Option<f64>| {
        let of_row = move |row: &Row| row.kills.iter().filter_map(of).reduce(f64::max);
        rows.iter().map(of_row).collect()
    };
    let series = vec![
        Series {
            name: "until it serves".to_owned(),
            values: worst(|kill| Some(kill.serving_after.as_secs_f64())),
        },
        Series {
            name: "until nothing is in flight".to_owned(),
            values: worst(|kill| Some(kill.settled_after?.as_secs_f64())),
        },
    ];
    Panel {
        title: "after kill -9 under load, seconds, the worst of all kills",
        groups: groups(rows, &[]),
        series,
        logarithmic: false,
    }
}

type Area<'svg> = DrawingArea<SVGBackend<'svg>, plotters::coord::Shift>;

impl Panel {
    fn values(&self) -> impl Iterator<Item = f64> {
        self.series.iter().flat_map(|series| &series.values).filter_map(|value| *value)
    }

    fn draw(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let most = self.values().fold(f64::MIN_POSITIVE, f64::max);
        if self.logarithmic {
            let least = self.values().filter(|value| *value > 0.0).fold(most, f64::min);
            let (floor, top) = (10f64.powf((least / 2.0).log10().floor()), most * 10.0);
            let scale: LogCoord<f64> = (floor..top).log_scale().into();
            self.draw_on(area, floor, scale)
        } else {
            let top: RangedCoordf64 = (0.0..most * 1.5).into();
            self.draw_on(area, 0.0, top)
        }
    }

    fn draw_on<Scale>(&self, area: &Area<'_>, floor: f64, scale: Scale) -> anyhow::Result<()>
    where
        Scale: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let last = self.groups.len() as f64 - 0.5;
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, (FONT, 17))
            .margin(12)
            .x_label_area_size(28)
            .y_label_area_size(70)
            .build_cartesian_2d(-0.5..last, scale)
            .map_err(not_drawn)?;
        let label = |at: &f64| {
            let nearest = at.round();
            let is_group = (at - nearest).abs() < 0.01 && nearest >= 0.0;
            is_group.then(|| self.groups.get(nearest as usize).cloned()).flatten().unwrap_or_default()
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .x_labels(self.groups.len() + 1)
            .y_labels(6)
            .y_label_formatter(&|value| axis(*value))
            .x_label_formatter(&label)
            .label_style((FONT, 13))
            .draw()
            .map_err(not_drawn)?;
        let bar = GROUP_WIDTH / self.series.len() as f64;
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let left = |group: usize| group as f64 - GROUP_WIDTH / 2.0 + number as f64 * bar;
            let known = || {
                let numbered = series.values.iter().enumerate();
                numbered.filter_map(|(group, value)| Some((left(group), (*value)?)))
            };
            let bars = known().map(|(left, value)| {
                Rectangle::new([(left, floor), (left + bar * 0.92, value)], colour.filled())
            });
            chart
                .draw_series(bars)
                .map_err(not_drawn)?
                .label(&series.name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
            let style = (FONT, 12).into_font().color(&BLACK);
            let texts = known().map(|(left, value)| {
                EmptyElement::at((left, value)) + Text::new(short(value), (0, -14), style.clone())
            });
            chart.draw_series(texts).map_err(not_drawn)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .border_style(BLACK.mix(0.3))
            .background_style(WHITE.mix(0.8))
            .label_font((FONT, 13))
            .draw()
            .map_err(not_drawn)
    }
}

/// A value beside the axis.
fn axis(value: f64) -> String {
    if value >= 1000.0 { format!("{}k", value / 1000.0) } else { value.to_string() }
}

/// A value on its bar: short enough for its width.
fn short(value: f64) -> String {
    match value {
        0.0..10.0 => format!("{value:.2}"),
        10.0..1000.0 => format!("{value:.0}"),
        1000.0..10_000.0 => format!("{:.1}k", value / 1000.0),
        _ => format!("{:.0}k", value / 1000.0),
    }
}
