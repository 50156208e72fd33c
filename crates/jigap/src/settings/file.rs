//! `jigap.toml`: a flat table of settings.

use std::path::Path;

use anyhow::{Context, anyhow};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::Kind;
use super::{SETTINGS, Setting, nearest};

/// The settings of a file in their order, each with its value as text and its line.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<(&'static Setting, String, usize)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let line_of = |offset: usize| text[..offset].matches('\n').count() + 1;
    let table = DeTable::parse(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        anyhow!("{}:{line}: {}", path.display(), error.message())
    })?;
    let mut settings = Vec::new();
    for (key, value) in table.into_inner() {
        let line = line_of(key.span().start);
        let name = key.into_inner();
        let setting = SETTINGS.iter().find(|setting| setting.name == name).ok_or_else(|| {
            let nearest = nearest(&name, SETTINGS.iter().map(|setting| setting.name.to_owned()));
            anyhow!(
                "{}:{line}: unknown setting `{name}`{nearest}; `jigap config` lists every setting",
                path.display()
            )
        })?;
        let value = match value.into_inner() {
            DeValue::String(text) => text.into_owned(),
            DeValue::Integer(number) => number.as_str().replace('_', ""),
            DeValue::Boolean(truth) => truth.to_string(),
            DeValue::Array(elements) if matches!(setting.kind, Kind::Addresses) => {
                let text = |element: &Spanned<DeValue<'_>>| element.get_ref().as_str().map(str::to_owned);
                let texts: Option<Vec<String>> = elements.iter().map(text).collect();
                let texts = texts.ok_or_else(|| {
                    anyhow!("{}:{line}: `{name}` must be an array of strings", path.display())
                })?;
                texts.join(",")
            }
            _ => {
                return Err(anyhow!(
                    "{}:{line}: `{name}` must be a string, a number or a boolean",
                    path.display()
                ));
            }
        };
        settings.push((setting, value, line));
    }
    Ok(settings)
}
