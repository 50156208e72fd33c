//! Settings from flags, environment and file, and what is said about mistakes in them.

use std::fs;

use crate::harness::{Home, command, finish};

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let home = Home::new();
    let file = "listen = \"127.0.0.1:1\"\n# a comment\nqueue-commands-max = 1_000\nlog-level = \"warn\"\n";
    fs::write(home.path().join("jigap.toml"), file).unwrap();
    let config = finish(
        command(home.path()).env("JIGAP_LISTEN", "127.0.0.1:2").env("JIGAP_LOG_LEVEL", "debug").args([
            "config",
            "--listen",
            "127.0.0.1:3",
        ]),
    );
    let config = config.expect_code(0).json();
    let row = |name: &str| {
        let setting = &config[name];
        (setting["value"].as_str().unwrap().to_owned(), setting["from"].as_str().unwrap().to_owned())
    };
    let text = |value: &str, from: &str| (value.to_owned(), from.to_owned());
    assert_eq!(row("listen"), text("127.0.0.1:3", "flag"));
    assert_eq!(row("log-level"), text("debug", "environment"));
    assert_eq!(row("queue-commands-max"), text("1000", "jigap.toml:3"));
    assert_eq!(row("data-dir"), text("jigap-data", "default"));
    for (name, setting) in config.as_object().unwrap() {
        assert!(setting["meaning"].as_str().is_some_and(|meaning| meaning.len() > 10), "{name}");
    }
}

#[test]
fn a_file_is_named_by_flag_or_environment() {
    let home = Home::new();
    fs::write(home.path().join("one.toml"), "log-level = \"warn\"\n").unwrap();
    fs::write(home.path().join("two.toml"), "log-level = \"error\"\n").unwrap();
    let level = |config: &mut std::process::Command| {
        finish(config).expect_code(0).json()["log-level"]["value"].as_str().unwrap().to_owned()
    };
    let from_environment = || {
        let mut command = command(home.path());
        command.env("JIGAP_CONFIG", "one.toml").arg("config");
        command
    };
    assert_eq!(level(&mut from_environment()), "warn");
    assert_eq!(level(from_environment().args(["--config", "two.toml"])), "error");
}

#[test]
fn mistakes_exit_with_2_and_say_where_they_are() {
    let home = Home::new();
    let path = home.path().join("jigap.toml");
    let files = [
        ("listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\n", "jigap.toml:2"),
        ("\nqueue-comands-max = 5\n", "jigap.toml:2: unknown setting `queue-comands-max`; did you mean"),
        ("store-cache-size = \"64MB\"\n", "jigap.toml:1: `store-cache-size` is \"64MB\""),
    ];
    for (content, expected) in files {
        fs::write(&path, content).unwrap();
        let refused = home.run(&["serve"]).expect_code(2);
        assert!(refused.stderr.contains(expected), "{refused:?}");
    }
    fs::remove_file(&path).unwrap();
    let refused = finish(command(home.path()).env("JIGAP_LISTN", "x").arg("config")).expect_code(2);
    assert!(refused.stderr.contains("did you mean `JIGAP_LISTEN`?"), "{refused:?}");
    home.run(&["serve", "--config", "missing.toml"]).expect_code(2);
    home.run(&["serve", "--listen", "somewhere"]).expect_code(2);
    home.run(&["serve", "--listn", "127.0.0.1:1"]).expect_code(2);
    assert!(!home.data().exists(), "a mistake leaves no trace");
}

#[test]
fn people_are_shown_a_table_of_settings() {
    let home = Home::new();
    let shown = home.run(&["config", "--table"]).expect_code(0);
    for text in ["grpc-listen", "JIGAP_DATA_DIR", "default"] {
        assert!(shown.stdout.contains(text), "{text}");
    }
}
