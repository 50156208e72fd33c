//! The one binary: `serve`, client commands, journal tools, benchmark. It parses and wires; rules live in the crates.

mod archive;
mod bench;
mod cli;
mod client;
mod compare;
mod config_command;
mod data_directory;
mod events_command;
mod exit;
mod journal;
mod logging;
mod output;
mod partition_map_command;
mod progress;
mod receipt;
mod reconcile;
mod serve;
mod settings;
mod sql_command;
mod sql_view;
mod traces;
mod webhook_command;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{
    AccountSubject, CommandLine, JournalSubject, ReceiptSubject, Subject, TransactionsSubject, ViewsSubject,
};
use client::Ask;
use exit::{Exit, Failure};
use storage::memory::HugePages;

#[global_allocator]
static ALLOCATOR: HugePages<mimalloc::MiMalloc> = HugePages(mimalloc::MiMalloc);

fn main() -> ExitCode {
    match run(CommandLine::parse().command) {
        Ok(()) => ExitCode::from(Exit::Done as u8),
        Err(failure) => {
            eprintln!("jigap: {:#}", failure.error);
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(subject: Subject) -> Result<(), Failure> {
    match subject {
        Subject::Serve(flags) => serve::run(&flags.0),
        Subject::Config { settings, output } => {
            let settings = settings::Settings::load(&settings.0)?;
            Ok(config_command::run(&settings, output.choose())?)
        }
        Subject::Account(subject) => account(&subject),
        Subject::Deposit(arguments) => client::run(&client::cash("deposit", &arguments)?, &arguments.client),
        Subject::Withdraw(arguments) => {
            client::run(&client::cash("withdraw", &arguments)?, &arguments.client)
        }
        Subject::Transfer(arguments) => client::run(&client::transfer(&arguments)?, &arguments.client),
        Subject::Hold { transfer, expires_in } => {
            client::run(&client::hold(&transfer, expires_in)?, &transfer.client)
        }
        Subject::Confirm { hold_id, amount, identity, client } => {
            let path = ("holds", hold_id.as_str(), "confirm");
            client::run(&client::follow_up(path, &identity, None, amount.as_deref())?, &client)
        }
        Subject::Cancel { hold_id, identity, client } => {
            let path = ("holds", hold_id.as_str(), "cancel");
            client::run(&client::follow_up(path, &identity, None, None)?, &client)
        }
        Subject::Reverse { original_id, notes, identity, client } => {
            let path = ("transactions", original_id.as_str(), "reverse");
            client::run(&client::follow_up(path, &identity, Some(&notes), None)?, &client)
        }
        Subject::History(arguments) => client::run(&Ask::history(&(&arguments).into()), &arguments.client),
        Subject::Transaction { transaction_id, client } => {
            client::run(&Ask::transaction(&transaction_id), &client)
        }
        Subject::State { at_sequence, client } => client::run(&Ask::state(at_sequence), &client),
        Subject::Reconcile(arguments) => reconcile::run(&arguments),
        Subject::Check { client } => client::check(&client),
        Subject::Transactions(subject) => transactions(&subject),
        Subject::Events(arguments) => events_command::run(&arguments),
        Subject::Views(ViewsSubject::Sql(arguments)) => sql_view::run(&arguments),
        Subject::Webhook(subject) => webhook_command::run(&subject),
        Subject::Journal(JournalSubject::Dump(arguments)) => journal::dump(&arguments),
        Subject::Journal(JournalSubject::Verify(arguments)) | Subject::Verify(arguments) => {
            journal::verify(&arguments.directory, arguments.output)
        }
        Subject::Replay(arguments) => journal::replay(&arguments),
        Subject::UpgradeCheck(arguments) => journal::check_upgrade(&arguments),
        Subject::Snapshot(subject) => archive::snapshot(&subject),
        Subject::Receipt(ReceiptSubject::Get { transaction_id, client }) => {
            client::run(&Ask::receipt(&transaction_id), &client)
        }
        Subject::Receipt(ReceiptSubject::Verify(arguments)) => receipt::verify(&arguments),
        Subject::Keys(subject) => receipt::keys(&subject),
        Subject::Sql(subject) => sql_command::run(&subject),
        Subject::PartitionMap(subject) => partition_map_command::run(&subject),
        Subject::Restore(arguments) => archive::restore(&arguments),
        Subject::Fork(arguments) => archive::fork(&arguments),
        Subject::Bench(arguments) => bench::run(&arguments),
        Subject::Compare(arguments) => compare::run(&arguments),
        Subject::Completions { shell } => {
            clap_complete::generate(shell, &mut CommandLine::command(), "jigap", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn transactions(subject: &TransactionsSubject) -> Result<(), Failure> {
    match subject {
        TransactionsSubject::Stuck { limit, client } => client::run(&Ask::in_flight(*limit), client),
        TransactionsSubject::Retry { transaction_id, client } => {
            client::run(&Ask::intervene(transaction_id, "retry"), client)
        }
        TransactionsSubject::Cancel { transaction_id, client } => {
            client::run(&Ask::intervene(transaction_id, "cancel"), client)
        }
    }
}

fn account(subject: &AccountSubject) -> Result<(), Failure> {
    match subject {
        AccountSubject::Open { account_id, notes, client } => {
            client::run(&client::open_account(account_id, notes), client)
        }
        AccountSubject::Show { account_id, moment, client } => {
            client::run(&Ask::account(account_id, moment), client)
        }
        AccountSubject::Close { account_id, identity, client } => {
            let path = ("accounts", account_id.as_str(), "close");
            client::run(&client::follow_up(path, identity, None, None)?, client)
        }
    }
}
