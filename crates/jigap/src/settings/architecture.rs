//! What the settings say of shards: which architecture, where they are, and whether that goes together.

use std::time::Duration;

use distributed::{Architecture, Config};
use uuid::Uuid;

use super::table::EVENT_SOURCED;
use super::{Settings, value};
use crate::exit::Failure;

impl Settings {
    /// How the wallet over shards is set up; `None` for an event-sourced one.
    pub(crate) fn shards(&self) -> Result<Option<Config>, Failure> {
        let addresses = |name| value::addresses(self.text(name)).map(str::to_owned).collect::<Vec<_>>();
        let one = |name| Some(self.text(name).to_owned()).filter(|address| !address.is_empty());
        let Some(architecture) = Architecture::parse(self.text("architecture")) else {
            return match ["shards", "zookeeper", "broker"].into_iter().find(|name| one(name).is_some()) {
                None => Ok(None),
                Some(name) => Err(Failure::usage(format!(
                    "architecture {EVENT_SOURCED} has no use for `{name}`: leave it out, or set `architecture`"
                ))),
            };
        };
        let count = |name| usize::try_from(self.number(name)).expect("the table keeps it below 2^32");
        let config = Config {
            architecture,
            shards: addresses("shards"),
            zookeeper: one("zookeeper"),
            broker: one("broker"),
            instance: Uuid::new_v4().as_u64_pair().0,
            lease: Duration::from_millis(self.number("transaction-lease")),
            step_timeout: Duration::from_millis(self.number("shard-timeout")),
            transactions_max: count("transactions-max"),
            connections_max: u32::try_from(self.number("shard-connections-max"))
                .expect("the table keeps it below 2^32"),
        };
        config.check().map_err(Failure::usage)?;
        Ok(Some(config))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Flags;
    use super::*;

    fn shards(values: &[(&'static str, &str)]) -> Result<Option<Config>, String> {
        let values = values.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let settings =
            Settings::resolve(&Flags { file: None, values }, &[]).map_err(|error| error.to_string())?;
        settings.shards().map_err(|failure| failure.error.to_string())
    }

    #[test]
    fn an_architecture_comes_with_what_it_needs() {
        assert!(shards(&[]).is_ok_and(|config| config.is_none()));
        let sql = ("shards", "postgres://a/x,mysql://b/x");
        let config = shards(&[("architecture", "tcc"), sql, ("transaction-lease", "2s")]);
        let config = config.expect("it is right").expect("it has shards");
        assert_eq!((config.architecture, config.shards.len()), (Architecture::Tcc, 2));
        assert_eq!(config.lease, Duration::from_secs(2));
        let map = ("zookeeper", "zookeeper://a:1,b:2/wallet");
        let config = shards(&[("architecture", "redis"), map]).expect("it is right").expect("it has shards");
        assert_eq!(config.zookeeper.as_deref(), Some("zookeeper://a:1,b:2/wallet"));
        let wrong: [(&[(&'static str, &str)], &str); 4] = [
            (&[sql], "architecture event-sourced has no use for `shards`"),
            (&[("architecture", "two-phase-commit"), ("shards", "redis://a:1")], "needs postgres://"),
            (&[("architecture", "sage")], "which must be one of event-sourced, two-phase-commit, tcc"),
            (&[("architecture", "saga"), ("shards", "a:1")], "which must be SCHEME://"),
        ];
        for (values, expected) in wrong {
            let error = shards(values).expect_err(expected);
            assert!(error.contains(expected), "{error:?} should say {expected:?}");
        }
        for architecture in Architecture::ALL {
            let error = shards(&[("architecture", architecture.name())]).expect_err("it has no shards");
            assert!(error.contains("needs `"), "{error}");
        }
    }
}
