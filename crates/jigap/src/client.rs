//! The client commands: one HTTP request each, repeated with the same id until the wallet has answered.

mod request;
mod show;

use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::cli::{ClientArguments, Output};
use crate::exit::{Exit, Failure};
use crate::output::print_json;
use crate::settings::Settings;

pub(crate) use request::{
    Ask, HistoryQuery, Method, Subject, cash, escape, follow_up, hold, open_account, transfer,
};

/// The wait before the first repeat; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Asks, prints the answer, and says how it went.
pub(crate) fn run(ask: &Ask, arguments: &ClientArguments) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.settings.0)?;
    let output = arguments.output.choose();
    let answer = Client::new(&settings).ask(ask)?;
    let refused = answer.status >= 400;
    match output {
        Output::Programs => print_json(&answer.body)?,
        Output::People if refused => {}
        Output::People => show::print(ask, &answer.body)?,
    }
    if !refused {
        return Ok(());
    }
    Err(refused_by(&answer))
}

fn refused_by(answer: &Answer) -> Failure {
    let text = |key: &str| answer.body.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
    Failure::new(Exit::Refused, anyhow!("refused: {}: {}", text("code"), text("detail")))
}

/// Asks whether the money is all there; what is missing ends the command as damage.
pub(crate) fn check(arguments: &ClientArguments) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.settings.0)?;
    let ask = Ask::check();
    let Answer { status, body } = Client::new(&settings).ask(&ask)?;
    if status >= 400 {
        return Err(Failure::new(Exit::Refused, anyhow!("refused: {body}")));
    }
    match arguments.output.choose() {
        Output::Programs => print_json(&body)?,
        Output::People => show::print(&ask, &body)?,
    }
    let says = |key: &str| body.get(key).and_then(Value::as_bool).unwrap_or(false);
    if says("balanced") {
        return Ok(());
    }
    if !says("settled") {
        let why = "the sums changed while they were read, so the difference proves nothing; ask again when less is under way";
        return Err(Failure::new(Exit::Unavailable, anyhow!(why)));
    }
    let why = "money is missing, or there is too much: the difference of every currency must be zero; `jigap history` of the accounts \
               that were touched shows the halves of a lost transfer";
    Err(Failure::new(Exit::Damaged, anyhow!(why)))
}

/// Whoever asks a wallet more than once keeps one: it keeps the connection.
pub(crate) struct Client {
    agent: Agent,
    server: String,
    timeout: Duration,
}

struct Answer {
    status: u16,
    body: Value,
}

/// Why there is no answer yet.
enum Silence {
    /// Nothing was sent: nobody listens there.
    NotConnected(String),
    /// It may have happened.
    Unknown(String),
    /// The wallet says to come back.
    ComeBack { after: Option<Duration>, why: String },
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Client {
        let timeout = Duration::from_millis(settings.number("timeout"));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(timeout))
            .user_agent(concat!("jigap/", env!("CARGO_PKG_VERSION")))
            .build();
        let server = settings.text("server").trim_end_matches('/').to_owned();
        Client { agent: config.new_agent(), server, timeout }
    }

    /// What the wallet answers; a refusal is a failure.
    pub(crate) fn answer(&self, ask: &Ask) -> Result<Value, Failure> {
        let answer = self.ask(ask)?;
        if answer.status >= 400 { Err(refused_by(&answer)) } else { Ok(answer.body) }
    }

    fn ask(&self, ask: &Ask) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = PAUSE_MIN;
        loop {
            let (why, after) = match self.ask_once(ask) {
                Ok(answer) => return Ok(answer),
                Err(Silence::NotConnected(why)) => return Err(self.unavailable(ask, &why)),
                Err(Silence::Unknown(why)) => (why, None),
                Err(Silence::ComeBack { after, why }) => (why, after),
            };
            let wait = after.unwrap_or(pause);
            if Instant::now() + wait >= deadline {
                return Err(self.unavailable(ask, &why));
            }
            std::thread::sleep(wait);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn unavailable(&self, ask: &Ask, why: &str) -> Failure {
        let next = match &ask.transaction_id {
            Some(id) => format!("; repeat the command with --id {id}: it happens once"),
            None => "; is `jigap serve` running there?".to_owned(),
        };
        Failure::new(Exit::Unavailable, anyhow!("no answer from {}: {why}{next}", self.server))
    }

    fn ask_once(&self, ask: &Ask) -> Result<Answer, Silence> {
        let url = format!("{}{}", self.server, ask.path);
        let response = match &ask.method {
            Method::Post(body) => self.agent.post(&url).send_json(body),
            Method::Get => self.agent.get(&url).call(),
            Method::Delete => self.agent.delete(&url).call(),
        };
        let mut response = response.map_err(silence)?;
        let status = response.status().as_u16();
        if matches!(status, 429 | 503) {
            let after = retry_after(&response);
            let why = response.body_mut().read_to_string().unwrap_or_default();
            return Err(Silence::ComeBack { after, why: format!("status {status}: {}", detail(&why)) });
        }
        let body = response.body_mut().read_json().map_err(|error| {
            Silence::Unknown(format!("the answer (status {status}) is not the wallet's: {error}"))
        })?;
        Ok(Answer { status, body })
    }
}

fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The detail of a problem document, or the text itself.
fn detail(text: &str) -> String {
    let document: Option<Value> = serde_json::from_str(text).ok();
    let detail = document.as_ref().and_then(|document| document.get("detail")).and_then(Value::as_str);
    detail.unwrap_or(text).to_owned()
}

fn silence(error: ureq::Error) -> Silence {
    match error {
        ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => Silence::NotConnected(error.to_string()),
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Silence::NotConnected(error.to_string())
        }
        other => Silence::Unknown(other.to_string()),
    }
}
