//! Random histories that reach the corners: the model runs along, so that amounts and ids are often the interesting ones.

use crate::model::{CURRENCIES, HoldStatus, Model};
use crate::random::Random;
use crate::request::{EXTERNAL, Kind, Note, Payment, Request};

/// One request, and how it arrives.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) request: Request,
    /// How much later than the step before.
    pub(crate) advance_micros: i64,
    /// Whether the engine turns names into numbers first.
    pub(crate) resolve: bool,
    /// Whether the state is put back from its getters before this step, as after a restart.
    pub(crate) restart: bool,
}

const NAMES: [&str; 7] = ["alice", "bob", "carol:savings", "d.e_f-9", "erin", "frank", "ghost"];
const SECOND_MICROS: i64 = 1_000_000;

pub(crate) fn history(seed: u64, steps: usize) -> Vec<Step> {
    let mut generator = Generator {
        random: Random::new(seed),
        model: Model::new(),
        now: 0,
        asked: Vec::new(),
        large: seed.is_multiple_of(3),
    };
    (0..steps).map(|_| generator.step()).collect()
}

struct Generator {
    random: Random,
    model: Model,
    now: i64,
    asked: Vec<Request>,
    /// Whether this history is about amounts near 2^63.
    large: bool,
}

impl Generator {
    fn step(&mut self) -> Step {
        let advance_micros = self.advance_micros();
        self.now += advance_micros;
        let request = if self.random.percent(6) { self.repeat() } else { self.request() };
        self.model.execute(&request, self.now.into());
        self.asked.push(request.clone());
        Step { request, advance_micros, resolve: self.random.percent(75), restart: self.random.percent(3) }
    }

    /// Often nothing, often exactly up to the next expiry, or the last moment before it.
    fn advance_micros(&mut self) -> i64 {
        let now = i128::from(self.now);
        let pending = self.model.holds.values().filter(|hold| hold.status == HoldStatus::Pending);
        let next = pending.filter_map(|hold| hold.expires_at).filter(|at| *at > now).min();
        let until_next = next.map_or(SECOND_MICROS, |at| (at - now) as i64);
        match self.random.below(20) {
            0 => until_next,
            1 => until_next - 1,
            2 => self.random.below(3 * SECOND_MICROS as u64) as i64,
            3..=6 => self.random.below(1000) as i64,
            _ => 0,
        }
    }

    fn request(&mut self) -> Request {
        let id = self.new_id();
        match self.random.below(100) {
            0..=9 => Request::Open { name: self.pick_name(), note: self.note() },
            10..=29 => Request::Pay(self.deposit(id)),
            30..=34 => Request::Pay(self.withdrawal(id)),
            35..=52 => Request::Pay(self.transfer(id)),
            53..=60 => self.group(id),
            61..=72 => {
                let expires_in_seconds = self.random.percent(70).then(|| self.random.below(4) as u32);
                Request::Hold { payment: self.transfer(id), expires_in_seconds }
            }
            73..=80 => self.confirm(id),
            81..=84 => Request::Cancel { id, hold: self.known_hold() },
            85..=92 => Request::Reverse { id, original: self.original(), note: self.note() },
            93..=94 => Request::Close { id, account: self.pick_party() },
            _ => Request::Expire,
        }
    }

    /// An earlier request as it was, or with one thing changed.
    fn repeat(&mut self) -> Request {
        let Some(index) = (!self.asked.is_empty()).then(|| self.random.below(self.asked.len() as u64)) else {
            return self.request();
        };
        let mut request = self.asked[index as usize].clone();
        if self.random.percent(50) {
            return request;
        }
        match &mut request {
            Request::Pay(payment) => payment.minor_units = payment.minor_units % 1000 + 1,
            Request::Group { legs, .. } if !legs.is_empty() => legs[0].note = self.note(),
            Request::Hold { expires_in_seconds, .. } => *expires_in_seconds = Some(2),
            // The same amount in other digits, as far as the boundary reads them.
            Request::Confirm { amount: Some(text), .. } if text.contains('.') && text.len() < 19 => {
                text.push('0')
            }
            Request::Close { account, .. } => *account = self.pick_name(),
            _ => {}
        }
        request
    }

    fn new_id(&mut self) -> u128 {
        u128::from(self.random.next()) << 64 | u128::from(self.random.next())
    }

    /// Mostly the id of an earlier request or leg; sometimes one never seen.
    fn known_id(&mut self) -> u128 {
        let ids: Vec<u128> = self
            .asked
            .iter()
            .rev()
            .take(60)
            .flat_map(|request| request.id().into_iter().chain(request.leg_ids()))
            .collect();
        if ids.is_empty() || self.random.percent(4) { self.new_id() } else { *self.random.pick(&ids) }
    }

    /// Mostly a pending hold, sometimes a settled one, now and then no hold at all.
    fn known_hold(&mut self) -> u128 {
        let any_status = self.random.percent(20);
        let holds = self.model.holds.iter();
        let known: Vec<u128> = holds
            .filter(|(_, hold)| any_status || hold.status == HoldStatus::Pending)
            .map(|(hold_id, _)| *hold_id)
            .collect();
        if known.is_empty() || self.random.percent(5) { self.known_id() } else { *self.random.pick(&known) }
    }

    /// Any earlier id, or one that was asked to be reversed before.
    fn original(&mut self) -> u128 {
        let reversals = self.asked.iter().filter_map(|request| match request {
            Request::Reverse { original, .. } => Some(*original),
            _ => None,
        });
        let originals: Vec<u128> = reversals.collect();
        if originals.is_empty() || self.random.percent(75) {
            self.known_id()
        } else {
            *self.random.pick(&originals)
        }
    }

    fn pick_name(&mut self) -> String {
        // The last name is rare, so that an unknown account is asked for now and then.
        let names = if self.random.percent(95) { &NAMES[..6] } else { &NAMES[..] };
        (*self.random.pick(names)).to_string()
    }

    fn pick_party(&mut self) -> String {
        if self.random.percent(2) { EXTERNAL.to_string() } else { self.pick_name() }
    }

    fn note(&mut self) -> Note {
        let pairs = if self.random.percent(70) { 0 } else { self.random.below(4) };
        (0..pairs).map(|pair| (format!("key {pair}"), format!("é{}", self.random.below(3)))).collect()
    }

    fn payment(&mut self, id: u128, kind: Kind, from: String, to: String) -> Payment {
        let (currency, _) = *self.random.pick(&CURRENCIES[..if self.large { 2 } else { CURRENCIES.len() }]);
        let minor_units = self.minor_units(kind, &from, &to, currency);
        Payment { id, kind, from, to, minor_units, currency, note: self.note() }
    }

    fn deposit(&mut self, id: u128) -> Payment {
        let to = self.pick_party();
        self.payment(id, Kind::Deposit, EXTERNAL.into(), to)
    }

    fn withdrawal(&mut self, id: u128) -> Payment {
        let from = self.pick_party();
        self.payment(id, Kind::Withdrawal, from, EXTERNAL.into())
    }

    fn transfer(&mut self, id: u128) -> Payment {
        let (from, to) = (self.pick_party(), self.pick_party());
        self.payment(id, Kind::Transfer, from, to)
    }

    fn minor_units(&mut self, kind: Kind, from: &str, to: &str, currency: &'static str) -> u64 {
        let largest = i128::from(i64::MAX);
        let payer = self.model.money(from, currency).available;
        let payee = self.model.money(to, currency);
        let room = largest - payee.available - payee.held;
        let outside = self.model.money(EXTERNAL, currency).available;
        let wanted = match self.random.below(if self.large { 12 } else { 6 }) {
            0..=2 => 1 + i128::from(self.random.below(1000)),
            3 => payer,
            4 => payer + 1,
            5 if kind != Kind::Deposit => payer / 2 + 1,
            6 => largest - i128::from(self.random.below(3)),
            7 => room,
            8 => room + 1,
            9 => outside - i128::from(i64::MIN),
            10 => outside - i128::from(i64::MIN) + 1,
            11 => largest / 2 + i128::from(self.random.below(1000)),
            _ => 1 + i128::from(self.random.below(1_000_000)),
        };
        wanted.clamp(1, largest) as u64
    }

    fn group(&mut self, id: u128) -> Request {
        let legs = match self.random.below(40) {
            0 => 0,
            1 => 64,
            2 => 65,
            _ => 1 + self.random.below(5),
        };
        let mut legs: Vec<Payment> = (0..legs)
            .map(|_| {
                let leg_id = self.new_id();
                match self.random.below(4) {
                    0 => self.deposit(leg_id),
                    1 => self.withdrawal(leg_id),
                    _ => self.transfer(leg_id),
                }
            })
            .collect();
        // A leg that spends what the leg before it brought in: only an order of legs makes it possible.
        for index in 1..legs.len() {
            if self.random.percent(40) && legs[index - 1].to != EXTERNAL {
                let before = legs[index - 1].clone();
                let leg = &mut legs[index];
                (leg.kind, leg.from, leg.to) = (Kind::Withdrawal, before.to, EXTERNAL.into());
                (leg.minor_units, leg.currency) = (before.minor_units, before.currency);
            }
        }
        if legs.len() > 1 && self.random.percent(3) {
            legs[0].id = legs[1].id;
        }
        if !legs.is_empty() && self.random.percent(3) {
            legs[0].id = self.known_id();
        }
        Request::Group { id, legs }
    }

    fn confirm(&mut self, id: u128) -> Request {
        let hold = self.known_hold();
        let Some(known) = self.model.holds.get(&hold).filter(|_| self.random.percent(60)) else {
            return Request::Confirm { id, hold, amount: None };
        };
        let (minor_units, currency) = (known.minor_units, known.currency);
        let minor_units = match self.random.below(6) {
            0 => minor_units + 1,
            1 => minor_units,
            2 => 1,
            _ => 1 + i128::from(self.random.next()) % minor_units,
        };
        let (_, exponent) = CURRENCIES.into_iter().find(|(code, _)| *code == currency).unwrap();
        // Now and then a digit more than the currency has.
        let exponent = exponent + usize::from(self.random.percent(10));
        let digits = format!("{minor_units:0>width$}", width = exponent + 1);
        let (whole, fraction) = digits.split_at(digits.len() - exponent);
        let amount = if fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") };
        Request::Confirm { id, hold, amount: Some(amount) }
    }
}
