//! A client that speaks HTTP and checks what every answer must have.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;
use uuid::Uuid;

use crate::architecture::{Architecture, Feature};
use crate::harness;

/// How long an answer may take: the wallet's own limit is far shorter.
const PATIENCE: Duration = Duration::from_secs(60);

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) position: Option<String>,
    pub(crate) replayed: bool,
    pub(crate) body: Value,
}

impl Answer {
    /// Checks success and returns the body.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.body
    }

    /// Checks that it is a problem and returns its code.
    #[track_caller]
    pub(crate) fn code(&self) -> &str {
        assert_eq!(self.body["status"], self.status, "{self:?}");
        for field in ["type", "title", "detail", "code"] {
            assert!(self.body[field].is_string(), "{field}: {self:?}");
        }
        self.body["code"].as_str().unwrap()
    }
}

pub(crate) struct Wallet {
    pub(crate) architecture: &'static Architecture,
    agent: Agent,
    base: String,
}

/// What must be there after a restart.
pub(crate) struct Remembered {
    transfer: Value,
    answer: Value,
    refused: Value,
    account: Value,
    totals: Value,
}

impl Wallet {
    pub(crate) fn new(architecture: &Architecture, served: &harness::Wallet<'_>) -> Wallet {
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        let agent = config.build().new_agent();
        let architecture = crate::architecture::of(architecture.name);
        Wallet { architecture, agent, base: format!("http://{}", served.http) }
    }

    pub(crate) fn can(&self, feature: Feature) -> bool {
        self.architecture.can(feature)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.get_at(path, None)
    }

    /// Asks with the position of an earlier answer.
    pub(crate) fn get_at(&self, path: &str, position: Option<&str>) -> Answer {
        let request = self.agent.get(format!("{}{path}", self.base));
        let request = match position {
            Some(position) => request.header("x-wallet-position", position),
            None => request,
        };
        answer(request.call().unwrap())
    }

    /// What `/metrics` says: every series with its value.
    pub(crate) fn metrics(&self) -> BTreeMap<String, u64> {
        let mut response = self.agent.get(format!("{}/metrics", self.base)).call().unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        let series = text.lines().filter(|line| !line.starts_with('#'));
        series
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                (name.to_owned(), value.parse().unwrap())
            })
            .collect()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, body, &[])
    }

    /// Asks with more headers.
    pub(crate) fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.send_json(body).unwrap())
    }

    /// As [`Wallet::post`]; `None` when there is no answer, or one that asks to try again.
    pub(crate) fn try_post(&self, path: &str, body: &Value) -> Option<Value> {
        let response = self.agent.post(format!("{}{path}", self.base)).send_json(body).ok()?;
        let status = response.status().as_u16();
        let body: Value = response.into_body().read_json().ok()?;
        assert!((200..300).contains(&status) || status >= 500, "{status}: {body}");
        (status < 300).then_some(body)
    }

    /// Opens accounts whose names nobody else uses.
    pub(crate) fn accounts<const COUNT: usize>(&self) -> [String; COUNT] {
        std::array::from_fn(|_| {
            let name = format!("a-{}", Uuid::new_v4());
            assert_eq!(self.post("/v1/wallet/accounts", &json!({ "account_id": name })).status, 201);
            name
        })
    }

    /// Opens two accounts, the first of which has 100 US dollars.
    pub(crate) fn payer_and_payee(&self) -> (String, String) {
        let [payer, payee] = self.accounts();
        self.deposit(&payer, "100.00").ok();
        (payer, payee)
    }

    pub(crate) fn deposit(&self, account: &str, amount: &str) -> Answer {
        let body = json!({ "account": account, "amount": amount, "currency": "USD", "transaction_id": id() });
        self.post("/v1/wallet/deposit", &body)
    }

    pub(crate) fn transfer(&self, from: &str, to: &str, amount: &str) -> Answer {
        self.post("/v1/wallet/balance_transfer", &transfer(from, to, amount))
    }

    /// What an account can spend and what is held of it, in US dollars.
    #[track_caller]
    pub(crate) fn balance(&self, account: &str) -> (String, String) {
        let account = self.get(&format!("/v1/wallet/accounts/{account}")).ok();
        let balances = account["balances"].as_array().unwrap();
        let dollars = balances.iter().find(|balance| balance["currency"] == "USD");
        let part = |name: &str| {
            dollars.map_or("none".to_owned(), |balance| balance[name].as_str().unwrap().to_owned())
        };
        (part("available"), part("held"))
    }

    #[track_caller]
    pub(crate) fn assert_balances(&self, expected: &[(&str, &str, &str)]) {
        for (account, available, held) in expected {
            let found = self.balance(account);
            assert_eq!((found.0.as_str(), found.1.as_str()), (*available, *held), "{account}");
        }
    }

    pub(crate) fn remember(&self) -> Remembered {
        let (alice, bob) = self.payer_and_payee();
        let transfer = transfer(&alice, &bob, "12.50");
        let answer = self.post("/v1/wallet/balance_transfer", &transfer).ok();
        let refused = self::transfer(&bob, &alice, "12.51");
        assert_eq!(self.post("/v1/wallet/balance_transfer", &refused).code(), "insufficient_funds");
        let account = self.get(&format!("/v1/wallet/accounts/{alice}")).ok();
        let totals = self.get("/v1/wallet/state").ok()["totals"].clone();
        Remembered { transfer, answer, refused, account, totals }
    }

    pub(crate) fn still_knows(&self, remembered: &Remembered) {
        let Remembered { transfer, answer, refused, account, totals } = remembered;
        let again = self.post("/v1/wallet/balance_transfer", transfer);
        assert!(again.replayed);
        assert_eq!(again.ok(), *answer);
        let again = self.post("/v1/wallet/balance_transfer", refused);
        assert_eq!((again.replayed, again.code()), (true, "insufficient_funds"));
        let path = format!("/v1/wallet/accounts/{}", account["account_id"].as_str().unwrap());
        let found = self.get(&path).ok();
        assert_eq!(found["balances"], account["balances"]);
        assert_eq!(found["opened_at"], account["opened_at"]);
        assert_eq!(self.get("/v1/wallet/state").ok()["totals"], *totals);
    }
}

fn answer(response: ureq::http::Response<ureq::Body>) -> Answer {
    let header = |name: &str| Some(response.headers().get(name)?.to_str().unwrap().to_owned());
    let (position, replayed) = (header("x-wallet-position"), header("idempotent-replayed").is_some());
    let status = response.status().as_u16();
    let body = response.into_body().read_json().unwrap();
    Answer { status, position, replayed, body }
}

/// A new transaction's id.
pub(crate) fn id() -> String {
    Uuid::new_v4().to_string()
}

/// A new transfer of US dollars.
pub(crate) fn transfer(from: &str, to: &str, amount: &str) -> Value {
    json!({ "from_account": from, "to_account": to, "amount": amount, "currency": "USD", "transaction_id": id() })
}
