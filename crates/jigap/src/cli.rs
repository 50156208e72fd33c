//! The command line: what can be asked for. `--help` is where most people learn it, so it teaches.

use std::path::PathBuf;

use clap::builder::{StringValueParser, TypedValueParser, ValueParser};
use clap::{Arg, ArgMatches, Args, Parser, Subcommand};
use clap_complete::Shell;
use storage::store::Engine;

use crate::bench::BenchArguments;
use crate::compare::CompareArguments;
use crate::events_command::EventsArguments;
use crate::exit::EXIT_CODES_HELP;
use crate::reconcile::ReconcileArguments;
use crate::settings::{Flags, SETTINGS, Scope, Setting};
use crate::sql_view::SqlArguments;
use crate::webhook_command::WebhookSubject;

const ABOUT: &str = "A digital wallet ledger: exactly-once transfers, durable before they are answered";
const EXAMPLES: &str = "\
Examples:
  jigap serve                                  start the wallet in ./jigap-data
  jigap account open alice                     open an account
  jigap deposit alice 100.00 USD               bring money in
  jigap transfer alice bob 12.50 USD           move it; prints the transaction's id
  jigap history alice                          every posting, newest first
  jigap reconcile --statement january.xml      match a bank statement with deposits and withdrawals
  jigap verify                                 prove the whole history, beside a running server too
  jigap bench --duration 10s                   measure this machine
  source <(jigap completions bash)             completions for this shell";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "jigap", version, about = ABOUT, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES_HELP}"))]
#[command(subcommand_required = true, arg_required_else_help = true, propagate_version = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Subject,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Subject {
    /// Start the wallet: HTTP and gRPC over one data directory
    #[command(after_help = SERVE_HELP)]
    Serve(ServeSettings),
    /// Print every setting in force, where it came from, and what it means
    Config {
        #[command(flatten)]
        settings: AllSettings,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Open, show or close an account
    #[command(subcommand)]
    Account(AccountSubject),
    /// Bring money in from the world outside
    Deposit(CashArguments),
    /// Take money out to the world outside
    Withdraw(CashArguments),
    /// Move money between two accounts
    Transfer(TransferArguments),
    /// Set money aside for a payee, to be confirmed or cancelled later
    Hold {
        #[command(flatten)]
        transfer: TransferArguments,
        /// The hold lapses after so many seconds; without it, never
        #[arg(long, value_name = "SECONDS")]
        expires_in: Option<u32>,
    },
    /// Pay a hold out
    Confirm {
        /// The hold's transaction id
        hold_id: String,
        /// Pay only this much, and release the rest
        #[arg(long)]
        amount: Option<String>,
        #[command(flatten)]
        identity: IdentityArguments,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Release a hold
    Cancel {
        /// The hold's transaction id
        hold_id: String,
        #[command(flatten)]
        identity: IdentityArguments,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Move the money of an earlier transaction back, once
    Reverse {
        /// The earlier transaction's id
        original_id: String,
        #[command(flatten)]
        notes: MetadataArguments,
        #[command(flatten)]
        identity: IdentityArguments,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// List an account's postings, newest first
    History(HistoryArguments),
    /// Show what became of a transaction
    Transaction {
        /// Its id
        transaction_id: String,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Show position, totals and digest of the whole state, now or after an event of the past
    State {
        /// As it stood after this event
        #[arg(long, value_name = "SEQUENCE")]
        at_sequence: Option<u64>,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Match a bank statement (CSV, camt.053, MT940) against deposits and withdrawals
    #[command(after_help = crate::reconcile::HELP)]
    Reconcile(Box<ReconcileArguments>),
    /// Check that every currency sums to zero over all shards, money in flight included; exits 4 when money is missing
    Check {
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Transactions that are under way over several shards
    #[command(subcommand)]
    Transactions(TransactionsSubject),
    /// Print events, past ones and then live ones as they become durable
    #[command(after_help = crate::events_command::HELP)]
    Events(EventsArguments),
    /// Keep the ledger in the tables of another database
    #[command(subcommand)]
    Views(ViewsSubject),
    /// Send events to other systems as they happen: add, watch and mend webhooks
    #[command(subcommand, after_help = crate::webhook_command::HELP)]
    Webhook(WebhookSubject),
    /// Print what the journal of a data directory holds (server stopped)
    #[command(subcommand)]
    Journal(JournalSubject),
    /// Prove it: checksums, hash chain, every event applied and every command decided anew, the store compared
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArguments),
    /// Apply every event from the first one on, and print position, totals and digest
    #[command(after_help = REPLAY_HELP)]
    Replay(ReplayArguments),
    /// Check that this program decides every recorded command as it was decided
    #[command(after_help = UPGRADE_CHECK_HELP)]
    UpgradeCheck(UpgradeCheckArguments),
    /// Get a transaction's receipt, or check one without any server
    #[command(subcommand)]
    Receipt(ReceiptSubject),
    /// The keys that sign receipts
    #[command(subcommand)]
    Keys(KeysSubject),
    /// Write, list or check snapshots in the archive
    #[command(subcommand)]
    Snapshot(SnapshotSubject),
    /// Prepare PostgreSQL or MariaDB databases to hold shards
    #[command(subcommand)]
    Sql(SqlSubject),
    /// Say where the partitions of a wallet over Redis are
    #[command(subcommand)]
    PartitionMap(PartitionMapSubject),
    /// Build a data directory as of any past event, from the archive alone
    #[command(after_help = RESTORE_HELP)]
    Restore(RestoreArguments),
    /// Make a working copy of the ledger as of any past event, to try things out
    #[command(after_help = FORK_HELP)]
    Fork(ForkArguments),
    /// Generate load against a running wallet, measure it, and prove that nothing was lost
    Bench(Box<BenchArguments>),
    /// Compare wallets of several architectures: the same load, the same faults, one table and one picture
    Compare(Box<CompareArguments>),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  source <(jigap completions bash)")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

const SERVE_HELP: &str = "\
Every setting is also a key of jigap.toml (listen = \"0.0.0.0:8080\") and a variable (JIGAP_LISTEN).
A flag wins over a variable, a variable over the file, the file over the default; `jigap config` shows the result.

SIGTERM and SIGINT take no more work, answer what was accepted, write a checkpoint, and exit 0.";

/// `jigap account ...`
#[derive(Debug, Subcommand)]
pub(crate) enum AccountSubject {
    /// Open an account; the same again changes nothing
    Open {
        /// 1 to 64 characters of A-Z a-z 0-9 . _ : -
        account_id: String,
        #[command(flatten)]
        notes: MetadataArguments,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Show an account and its balances, now or at a moment of the past
    Show {
        /// The account, or @external for the world outside
        account_id: String,
        #[command(flatten)]
        moment: MomentArguments,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Close an account whose every balance is zero
    Close {
        /// The account
        account_id: String,
        #[command(flatten)]
        identity: IdentityArguments,
        #[command(flatten)]
        client: ClientArguments,
    },
}

const RESTORE_HELP: &str = "\
The newest whole snapshot at or before the point is taken, then the archived journal is applied up to it, every event checked.
A damaged snapshot is named and an older one taken. Nothing in the archive is changed.

Examples:
  jigap restore --from s3://bucket/wallet --to restored                      everything that was archived
  jigap restore --from file:///mnt/backup --at-sequence 1000000 --to what-if
  jigap restore --from s3://bucket/wallet --at 2026-01-02T03:04:05Z --to before-the-mistake
  jigap serve --data-dir restored --archive-url s3://bucket/wallet           go on from there, old history included

For S3, credentials and endpoint come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT.";

/// `jigap transactions ...`
#[derive(Debug, Subcommand)]
pub(crate) enum TransactionsSubject {
    /// List transactions that are not finished, oldest first, with what hinders them
    Stuck {
        /// How many, 1 to 10000; 100 unless given
        #[arg(long)]
        limit: Option<u32>,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Drive a transaction on at once, without waiting for a lease or a pause to end
    Retry {
        /// Its id
        transaction_id: String,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Undo a transaction that is under way; refused once it is decided that it happens
    Cancel {
        /// Its id
        transaction_id: String,
        #[command(flatten)]
        client: ClientArguments,
    },
}

/// `jigap snapshot ...`
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotSubject {
    /// Ask the running wallet to write a snapshot of now into its archive, and wait for it
    ///
    /// Millions of accounts or ids take longer than --timeout allows unless told otherwise: the wallet writes on, and only the wait ends.
    Create {
        #[command(flatten)]
        client: ClientArguments,
    },
    /// List the snapshots of an archive
    List(ArchiveArguments),
    /// Check snapshots through and through: every part against its checksum, the content against its digest
    Verify {
        /// Only the snapshot of this sequence
        #[arg(long, value_name = "SEQUENCE")]
        sequence: Option<u64>,
        #[command(flatten)]
        archive: ArchiveArguments,
    },
}

/// `jigap sql ...`
#[derive(Debug, Subcommand)]
pub(crate) enum SqlSubject {
    /// Make the tables, or bring them to this program's version; safe to repeat, and to run beside a wallet that serves
    #[command(after_help = SQL_MIGRATE_HELP)]
    Migrate {
        /// The databases, as in postgres://user:password@host:5432/wallet and mysql://user:password@host:3306/wallet
        #[arg(required = true, value_name = "URL")]
        urls: Vec<String>,
        #[command(flatten)]
        output: OutputArguments,
    },
}

const SQL_MIGRATE_HELP: &str = "\
PostgreSQL 12 or later, MariaDB 10.6 or later. The databases must exist, and the user must be allowed to create tables.
Two-phase commit needs max_prepared_transactions above 0 in PostgreSQL: at least as many as transactions at a time.

Example:
  jigap sql migrate postgres://wallet@127.0.0.1:5432/shard_0 mysql://wallet@127.0.0.1:3306/shard_1";

/// `jigap partition-map ...`
#[derive(Debug, Subcommand)]
pub(crate) enum PartitionMapSubject {
    /// Print the map, and the wallets that run
    Show {
        /// Where the map is kept
        #[arg(long, env = "JIGAP_ZOOKEEPER", value_name = "URL")]
        zookeeper: String,
        #[command(flatten)]
        output: OutputArguments,
    },
    /// Publish the map; wallets that run follow it at once
    #[command(after_help = PARTITION_MAP_SET_HELP)]
    Set {
        /// Where the map is kept
        #[arg(long, env = "JIGAP_ZOOKEEPER", value_name = "URL")]
        zookeeper: String,
        /// The Redis of each partition, in order, as in redis://:password@host:6379
        #[arg(required = true, value_name = "ADDRESS")]
        partitions: Vec<String>,
        #[command(flatten)]
        output: OutputArguments,
    },
}

const PARTITION_MAP_SET_HELP: &str = "\
The number of partitions is settled by the first map, for it decides where an account is. What may change is where a partition lives:
move its data first (as a replica that is promoted), then publish the new address.

Example:
  jigap partition-map set --zookeeper zookeeper://127.0.0.1:2181/wallet redis://127.0.0.1:6379 redis://127.0.0.1:6380
  jigap serve --architecture redis-tcc --zookeeper zookeeper://127.0.0.1:2181/wallet";

/// `jigap receipt ...`
#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptSubject {
    /// Print the receipt of a transaction: keep it byte for byte
    #[command(
        after_help = "Example:\n  jigap receipt get 01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11 > receipt.json"
    )]
    Get {
        /// The transaction's id
        transaction_id: String,
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Check a receipt: exits 0 when it proves its transaction, 1 when it does not
    #[command(
        after_help = "Example:\n  jigap receipt verify receipt.json --key jigap-data/keys/0123456789abcdef.public"
    )]
    Verify(ReceiptVerifyArguments),
}

/// `jigap receipt verify`
#[derive(Debug, Args)]
pub(crate) struct ReceiptVerifyArguments {
    /// The receipt
    pub(crate) file: PathBuf,
    /// A public key that may have signed it: 64 hexadecimal digits, or a file with them; may be given several times
    #[arg(long, value_name = "KEY", required = true)]
    pub(crate) key: Vec<String>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// `jigap keys ...`
#[derive(Debug, Subcommand)]
pub(crate) enum KeysSubject {
    /// List the public keys: the one that signs, and those that did
    List(ArchiveArguments),
    /// Make a new key that signs from the next start on; the old public key stays, its secret is removed (server stopped)
    Rotate(ArchiveArguments),
}

/// Which archive, and how to print.
#[derive(Debug, Args)]
pub(crate) struct ArchiveArguments {
    #[command(flatten)]
    pub(crate) directory: DirectorySettings,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// Which moment of a history; the latest without any.
#[derive(Debug, Args)]
pub(crate) struct MomentArguments {
    /// As it was just after this event
    #[arg(long, value_name = "SEQUENCE", conflicts_with = "at")]
    pub(crate) at_sequence: Option<u64>,
    /// As it was just after the last event at or before this time: 2026-01-02T03:04:05Z
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
}

const FORK_HELP: &str = "\
The copy has the whole history up to the moment and an archive of its own: whatever happens in it leaves no trace in the original,
which may go on serving meanwhile.

Examples:
  jigap fork --at-sequence 1000000 --to what-if
  jigap fork --at 2026-01-02T03:04:05Z --to before-the-mistake --from s3://bucket/wallet
  jigap serve --data-dir what-if --listen 127.0.0.1:9080 --grpc-listen 127.0.0.1:9081";

/// `jigap fork`
#[derive(Debug, Args)]
pub(crate) struct ForkArguments {
    /// The new data directory; must be empty or missing
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// A data directory, or an archive (file:///DIR, s3://BUCKET/PREFIX) [default: the data directory]
    #[arg(long, value_name = "DIR|URL")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) moment: MomentArguments,
    #[command(flatten)]
    pub(crate) directory: DirectorySettings,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// `jigap restore`
#[derive(Debug, Args)]
pub(crate) struct RestoreArguments {
    /// The archive: file:///DIR, s3://BUCKET/PREFIX or hdfs://HOST:PORT/DIR
    #[arg(long, value_name = "URL")]
    pub(crate) from: String,
    /// The new data directory; must be empty or missing
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// What keeps the new directory's checkpoints: the setting state-store of the wallet that will serve it
    #[arg(long, env = "JIGAP_STATE_STORE", value_name = "ENGINE", value_parser = engine, default_value = Engine::PREFERRED.name())]
    pub(crate) state_store: Engine,
    #[command(flatten)]
    pub(crate) moment: MomentArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

fn engine(name: &str) -> Result<Engine, String> {
    Engine::parse(name).ok_or_else(|| format!("must be one of {}", Engine::ALL.map(Engine::name).join(", ")))
}

const VERIFY_HELP: &str = "\
A server may be working in the directory: nothing is locked, nothing is written there, and what was durable at the beginning is
proven. Exits 0 when all of it is as it must be, 4 when not, and names the first difference.";

/// `jigap verify`
#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    pub(crate) directory: DirectorySettings,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

const REPLAY_HELP: &str = "\
Rules are not asked: events alone rebuild the state. A server may be working in the directory; nothing is written.

Examples:
  jigap replay                                       everything in ./jigap-data
  jigap replay --until 1000000 --digest-every 100000
  jigap replay --until 2026-01-02T03:04:05Z --from s3://bucket/wallet";

/// `jigap replay`
#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// Stop after this event, or after the last one at or before this time: 2026-01-02T03:04:05Z
    #[arg(long, value_name = "SEQUENCE|TIME")]
    pub(crate) until: Option<String>,
    /// Print a digest of the state whenever so many more events are applied
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) digest_every: Option<u64>,
    /// A data directory, or an archive (file:///DIR, s3://BUCKET/PREFIX) [default: the data directory]
    #[arg(long, value_name = "DIR|URL")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) directory: DirectorySettings,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

const UPGRADE_CHECK_HELP: &str = "\
Run it with the new program before that serves: exits 0 when every event comes out as it was recorded, and 1 when not; then the
first difference is named with its command, the recorded event (expected) and the one decided now (actual). Nothing is written.

Examples:
  ./jigap-next upgrade-check --against jigap-data           beside the server that runs on it
  ./jigap-next upgrade-check --against s3://bucket/wallet";

/// `jigap upgrade-check`
#[derive(Debug, Args)]
pub(crate) struct UpgradeCheckArguments {
    /// A data directory, or an archive (file:///DIR, s3://BUCKET/PREFIX) [default: the data directory]
    #[arg(long, value_name = "DIR|URL")]
    pub(crate) against: Option<String>,
    #[command(flatten)]
    pub(crate) directory: DirectorySettings,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// `jigap views ...`
#[derive(Debug, Subcommand)]
pub(crate) enum ViewsSubject {
    /// Follow the ledger into tables of PostgreSQL or SQLite, for questions in SQL
    #[command(after_help = crate::sql_view::HELP)]
    Sql(SqlArguments),
}

/// `jigap journal ...`
#[derive(Debug, Subcommand)]
pub(crate) enum JournalSubject {
    /// Print frames, commands and events
    Dump(DumpArguments),
    /// The same as `jigap verify`
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArguments),
}

/// `jigap journal dump`
#[derive(Debug, Args)]
pub(crate) struct DumpArguments {
    /// The first sequence to print
    #[arg(long, value_name = "SEQUENCE", default_value_t = 1)]
    pub(crate) from: u64,
    /// The last sequence to print
    #[arg(long, value_name = "SEQUENCE", default_value_t = u64::MAX, hide_default_value = true)]
    pub(crate) to: u64,
    #[command(flatten)]
    pub(crate) directory: DirectorySettings,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// How to print.
#[derive(Debug, Args, Clone, Copy)]
pub(crate) struct OutputArguments {
    /// Print JSON; the default when the output is no terminal
    #[arg(long, conflicts_with = "table")]
    json: bool,
    /// Print for people; the default on a terminal
    #[arg(long)]
    table: bool,
}

/// For whom to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    People,
    Programs,
}

impl OutputArguments {
    pub(crate) fn choose(self) -> Output {
        use std::io::IsTerminal;
        match (self.json, self.table) {
            (true, _) => Output::Programs,
            (_, true) => Output::People,
            _ if std::io::stdout().is_terminal() => Output::People,
            _ => Output::Programs,
        }
    }
}

/// Whom a client command asks, and how it prints.
#[derive(Debug, Args)]
pub(crate) struct ClientArguments {
    #[command(flatten)]
    pub(crate) settings: ClientSettings,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// The id under which a command is executed at most once.
#[derive(Debug, Args)]
pub(crate) struct IdentityArguments {
    /// The transaction's id, a UUID; made and printed when not given. Repeat a command with its id, and it happens once
    #[arg(long = "id", value_name = "UUID")]
    pub(crate) transaction_id: Option<String>,
}

/// Notes.
#[derive(Debug, Args)]
pub(crate) struct MetadataArguments {
    /// A note to keep with it; may be given up to 16 times
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = pair_parser())]
    pub(crate) pairs: Vec<(String, String)>,
}

fn pair_parser() -> ValueParser {
    let split = |text: String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE"),
    };
    ValueParser::new(StringValueParser::new().try_map(split))
}

/// `deposit` and `withdraw`.
#[derive(Debug, Args)]
pub(crate) struct CashArguments {
    /// Whose money
    pub(crate) account: String,
    /// How much, in major units: 12.50
    pub(crate) amount: String,
    /// ISO 4217: USD
    pub(crate) currency: String,
    #[command(flatten)]
    pub(crate) notes: MetadataArguments,
    #[command(flatten)]
    pub(crate) identity: IdentityArguments,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}

/// `transfer` and `hold`.
#[derive(Debug, Args)]
pub(crate) struct TransferArguments {
    /// The payer
    pub(crate) from: String,
    /// The payee
    pub(crate) to: String,
    /// How much, in major units: 12.50
    pub(crate) amount: String,
    /// ISO 4217: USD
    pub(crate) currency: String,
    #[command(flatten)]
    pub(crate) notes: MetadataArguments,
    #[command(flatten)]
    pub(crate) identity: IdentityArguments,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}

/// `history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArguments {
    /// Whose
    pub(crate) account: String,
    /// How many entries, 1 to 1000
    #[arg(long)]
    pub(crate) limit: Option<u32>,
    /// Go on where an earlier answer's next_cursor points
    #[arg(long)]
    pub(crate) cursor: Option<String>,
    /// Only this currency
    #[arg(long)]
    pub(crate) currency: Option<String>,
    /// Only from this time on: 2026-01-02T03:04:05Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}

/// Declares a group of flags that comes from the table of settings.
macro_rules! settings_arguments {
    ($(#[$doc:meta])* $name:ident = $($scope:path),+) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name(pub(crate) Flags);

        impl clap::FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                Ok($name(collect_flags(matches, &[$($scope),+])))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                self.0 = collect_flags(matches, &[$($scope),+]);
                Ok(())
            }
        }

        impl Args for $name {
            fn augment_args(command: clap::Command) -> clap::Command {
                add_flags(command, &[$($scope),+])
            }

            fn augment_args_for_update(command: clap::Command) -> clap::Command {
                add_flags(command, &[$($scope),+])
            }
        }
    };
}

settings_arguments! {
    /// The flags of `serve`.
    ServeSettings = Scope::Directory, Scope::Serve
}
settings_arguments! {
    /// The flags of commands that read a data directory.
    DirectorySettings = Scope::Directory
}
settings_arguments! {
    /// The flags of commands that ask a server.
    ClientSettings = Scope::Client
}
settings_arguments! {
    /// All flags, for `config`.
    AllSettings = Scope::Directory, Scope::Serve, Scope::Client
}

fn add_flags(command: clap::Command, scopes: &[Scope]) -> clap::Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("The configuration file [default: jigap.toml when it exists]");
    let flags = scopes.iter().flat_map(|scope| Setting::of(*scope)).map(|setting| {
        let default = setting.default;
        Arg::new(setting.name)
            .long(setting.name)
            .value_name(setting.value_name)
            .help(format!("{} [default: {default}]", setting.doc))
    });
    command.args(flags).arg(file)
}

fn collect_flags(matches: &ArgMatches, scopes: &[Scope]) -> Flags {
    let given = SETTINGS.iter().filter(|setting| scopes.contains(&setting.scope)).filter_map(|setting| {
        matches.get_one::<String>(setting.name).map(|value| (setting.name, value.clone()))
    });
    Flags { file: matches.get_one::<PathBuf>("config").cloned(), values: given.collect() }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        CommandLine::command().debug_assert();
    }
}
