//! `jigap config`: what is in force and why.

use comfy_table::Table;
use serde_json::{Map, Value, json};

use crate::cli::Output;
use crate::output::{print_json, print_table};
use crate::settings::{SETTINGS, Setting, Settings};

/// Prints every setting.
pub(crate) fn run(settings: &Settings, output: Output) -> std::io::Result<()> {
    match output {
        Output::People => print_table(&table(settings)),
        Output::Programs => print_json(&document(settings)),
    }
}

fn table(settings: &Settings) -> Table {
    let mut table = crate::output::table(&["setting", "value", "from", "variable", "meaning"]);
    for setting in SETTINGS {
        let (value, origin) = settings.entry(setting);
        table.add_row([
            setting.name.to_owned(),
            setting.kind.shown(value),
            origin.to_string(),
            setting.variable(),
            meaning(setting),
        ]);
    }
    table
}

fn meaning(setting: &Setting) -> String {
    let mut meaning = setting.doc.to_owned();
    if !setting.unit.is_empty() {
        meaning.push_str(&format!(" ({})", setting.unit));
    }
    meaning.push_str(&format!("; default {}", setting.default));
    meaning
}

fn document(settings: &Settings) -> Value {
    let entries: Map<String, Value> = SETTINGS
        .iter()
        .map(|setting| {
            let (value, origin) = settings.entry(setting);
            let entry = json!({
                "value": setting.kind.shown(value),
                "from": origin.to_string(),
                "default": setting.default,
                "unit": setting.unit,
                "variable": setting.variable(),
                "meaning": setting.doc,
            });
            (setting.name.to_owned(), entry)
        })
        .collect();
    Value::Object(entries)
}
