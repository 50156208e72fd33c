//! Random commands over HTTP, with notes that try to break whoever stores them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::Agent;

use crate::harness::Wallet;

const HOSTILE: &[&str] = &[
    "it's",
    "\"quoted\"",
    "back\\slash \\u0000 \\N",
    "지갑 Ω≈ç√ 🏦",
    "a NUL \0 inside",
    "\u{2400}",
    "\u{202e}backwards",
    "'; DROP TABLE jigap.accounts; --",
    "%s {} $1 ?",
    "tab\tand\r\nlines",
    "",
];
const CURRENCIES: &[&str] = &["USD", "JPY", "KWD"];
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Workload {
    agent: Agent,
    base: String,
    random: fastrand::Rng,
    pub(crate) accounts: Vec<String>,
    /// Every id that was used, those of malformed requests too.
    pub(crate) ids: Vec<String>,
    holds: Vec<String>,
    transfers: Vec<String>,
}

impl Workload {
    pub(crate) fn new(wallet: &Wallet<'_>, seed: u64) -> Workload {
        let config =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
        Workload {
            agent: config.new_agent(),
            base: format!("http://{}/v1/wallet", wallet.http),
            random: fastrand::Rng::with_seed(seed),
            accounts: Vec::new(),
            ids: Vec::new(),
            holds: Vec::new(),
            transfers: Vec::new(),
        }
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        let mut answer = self.agent.get(format!("{}/{path}", self.base)).call().unwrap();
        let body = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&body).unwrap())
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request =
            self.agent.post(format!("{}/{path}", self.base)).header("content-type", "application/json");
        let mut answer = request.send(body.to_string()).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        let status = answer.status().as_u16();
        assert!(status < 500, "{path} {body}: {status} {text}");
        (status, serde_json::from_str(&text).unwrap())
    }

    pub(crate) fn run(&mut self, commands: usize) {
        for _ in 0..commands {
            self.step();
        }
    }

    fn id(&mut self) -> String {
        let id = uuid::Uuid::from_u128(self.random.u128(..)).to_string();
        self.ids.push(id.clone());
        id
    }

    /// A known account; now and then one that nobody opened.
    fn account(&mut self) -> String {
        if self.random.u8(..25) == 0 {
            return "nobody".to_owned();
        }
        self.random.choice(&self.accounts).cloned().unwrap_or_else(|| "nobody".to_owned())
    }

    fn notes(&mut self) -> Value {
        let mut notes = serde_json::Map::new();
        if self.random.bool() {
            for _ in 0..self.random.u8(1..4) {
                let (key, value) =
                    (self.random.choice(HOSTILE).unwrap(), self.random.choice(HOSTILE).unwrap());
                notes.insert((*key).to_owned(), json!(value));
            }
        }
        Value::Object(notes)
    }

    /// What is moved; sometimes more than anybody has.
    fn transfer(&mut self) -> Value {
        let currency = *self.random.choice(CURRENCIES).unwrap();
        let most = if self.random.u8(..8) == 0 { 100_000 } else { 30 };
        let whole = self.random.u32(1..most);
        let amount = match currency {
            "JPY" => whole.to_string(),
            "KWD" => format!("{whole}.{:03}", self.random.u32(..1000)),
            _ => format!("{whole}.{:02}", self.random.u32(..100)),
        };
        json!({
            "from_account": self.account(), "to_account": self.account(), "amount": amount, "currency": currency,
            "transaction_id": self.id(), "metadata": self.notes(),
        })
    }

    fn outside(&mut self) -> Value {
        let mut body = self.transfer();
        let fields = body.as_object_mut().unwrap();
        let account = fields.remove("from_account").unwrap();
        fields.remove("to_account");
        fields.insert("account".into(), account);
        body
    }

    fn step(&mut self) {
        match self.random.u8(..20) {
            _ if self.accounts.len() < 4 => self.open(),
            0 => self.open(),
            1..6 => {
                let body = self.outside();
                self.post("deposit", &body);
            }
            6 => {
                let body = self.outside();
                self.post("withdraw", &body);
            }
            7..11 => {
                let body = self.transfer();
                self.post("balance_transfer", &body);
                self.transfers.push(body["transaction_id"].as_str().unwrap().to_owned());
            }
            11 => {
                let transfers: Vec<Value> = (0..20).map(|_| self.transfer()).collect();
                self.post("balance_transfers", &json!({ "transfers": transfers }));
            }
            12 | 13 => {
                let legs: Vec<Value> = (0..self.random.u8(1..5)).map(|_| self.transfer()).collect();
                let body = json!({ "mode": "atomic", "transaction_id": self.id(), "transfers": legs });
                self.post("balance_transfers", &body);
            }
            14 | 15 => self.hold(),
            16 | 17 => self.settle(),
            18 => self.reverse(),
            _ => {
                let (account, id) = (self.account(), self.id());
                self.post(&format!("accounts/{account}/close"), &json!({ "transaction_id": id }));
            }
        }
    }

    fn open(&mut self) {
        let account = format!("account:{}", self.accounts.len());
        let body = json!({ "account_id": account, "metadata": self.notes() });
        self.post("accounts", &body);
        self.accounts.push(account);
    }

    fn hold(&mut self) {
        let mut body = self.transfer();
        if self.random.bool() {
            body["expires_in_seconds"] = json!(self.random.u32(1_000..10_000));
        }
        self.holds.push(body["transaction_id"].as_str().unwrap().to_owned());
        self.post("holds", &body);
    }

    /// Confirms or cancels a hold, whether it is still there or not.
    fn settle(&mut self) {
        let Some(hold) = self.random.choice(&self.holds).cloned() else { return };
        let id = self.id();
        let (act, body) = match self.random.u8(..3) {
            0 => ("confirm", json!({ "transaction_id": id })),
            1 => ("confirm", json!({ "transaction_id": id, "amount": "1" })),
            _ => ("cancel", json!({ "transaction_id": id })),
        };
        self.post(&format!("holds/{hold}/{act}"), &body);
    }

    fn reverse(&mut self) {
        let Some(original) = self.random.choice(&self.transfers).cloned() else { return };
        let body = json!({ "transaction_id": self.id(), "metadata": self.notes() });
        self.post(&format!("transactions/{original}/reverse"), &body);
    }

    /// Waits until the wallet says that a hold has lapsed.
    pub(crate) fn let_a_hold_expire(&mut self) {
        let (account, deposit, hold) = (self.accounts.len(), self.id(), self.id());
        self.open();
        self.open();
        let (from, to) = (format!("account:{account}"), format!("account:{}", account + 1));
        let paid = json!({ "account": from, "amount": "5", "currency": "USD", "transaction_id": deposit });
        assert_eq!(self.post("deposit", &paid).0, 200);
        let body = json!({ "from_account": from, "to_account": to, "amount": "5", "currency": "USD",
            "transaction_id": hold, "expires_in_seconds": 1 });
        assert_eq!(self.post("holds", &body).0, 200);
        let deadline = Instant::now() + PATIENCE;
        while self.get(&format!("transactions/{hold}")).1["status"] != "expired" {
            assert!(Instant::now() < deadline, "the hold does not expire");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
