//! Reading JSON strictly and to its end: unknown and repeated fields and values of a wrong type are remembered where they were found.
//!
//! So each has its own error code, the answer can name the transaction_id that stands behind the mistake, and one bad element of an array does not
//! spoil the others. Only what is not JSON at all ends the reading.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value that takes whatever JSON there is, if only to say that it is the wrong one.
pub(crate) trait Lenient<'de>: Sized {
    /// It is of another type.
    fn other() -> Self;

    fn text(_text: Cow<'de, str>) -> Self {
        Self::other()
    }

    fn count(_count: u64) -> Self {
        Self::other()
    }

    fn array<A: SeqAccess<'de>>(mut values: A) -> Result<Self, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::other())
    }

    fn object<A: MapAccess<'de>>(mut values: A) -> Result<Self, A::Error> {
        while values.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::other())
    }
}

struct LenientVisitor<Value>(PhantomData<Value>);

impl<'de, Value: Lenient<'de>> Visitor<'de> for LenientVisitor<Value> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value, E> {
        Ok(Value::text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::other())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::other())
    }

    fn visit_u64<E>(self, count: u64) -> Result<Value, E> {
        Ok(Value::count(count))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::other())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::other())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<Value, A::Error> {
        Value::array(values)
    }

    fn visit_map<A: MapAccess<'de>>(self, values: A) -> Result<Value, A::Error> {
        Value::object(values)
    }
}

pub(crate) fn lenient<'de, Value: Lenient<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Value, D::Error> {
    deserializer.deserialize_any(LenientVisitor(PhantomData))
}

/// A field that should be text.
#[derive(Debug, Clone)]
pub(crate) enum Text<'body> {
    /// A JSON string.
    Is(Cow<'body, str>),
    /// Something else.
    Not,
}

impl<'de> Lenient<'de> for Text<'de> {
    fn other() -> Self {
        Text::Not
    }

    fn text(text: Cow<'de, str>) -> Self {
        Text::Is(text)
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient(deserializer)
    }
}

/// A field that should be a whole number, and not negative.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    /// Below 2^64.
    Is(u64),
    /// Something else.
    Not,
}

impl Lenient<'_> for Count {
    fn other() -> Self {
        Count::Not
    }

    fn count(count: u64) -> Self {
        Count::Is(count)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient(deserializer)
    }
}

/// A field that should be an object of text to text. Repeated keys are found by whoever checks the pairs.
#[derive(Debug)]
pub(crate) enum Pairs<'body> {
    /// In the order given.
    Are(Vec<(Cow<'body, str>, Cow<'body, str>)>),
    /// What is wrong with it.
    Not(&'static str),
}

impl<'de> Lenient<'de> for Pairs<'de> {
    fn other() -> Self {
        Pairs::Not("must be an object of strings")
    }

    fn object<A: MapAccess<'de>>(mut values: A) -> Result<Self, A::Error> {
        let mut pairs = Vec::new();
        let mut wrong = None;
        while let Some((key, value)) = values.next_entry::<Text<'de>, Text<'de>>()? {
            match (key, value) {
                (Text::Is(key), Text::Is(value)) if pairs.len() < ledger::METADATA_PAIRS_MAX => {
                    pairs.push((key, value));
                }
                (Text::Is(_), Text::Is(_)) => wrong = Some("has more than 16 pairs"),
                _ => wrong = Some("has a value that is not a string"),
            }
        }
        Ok(wrong.map_or(Pairs::Are(pairs), Pairs::Not))
    }
}

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient(deserializer)
    }
}

/// A field that should be an array. No more elements are kept than a request may have: many small ones must not become large.
#[derive(Debug)]
pub(crate) enum List<Item> {
    /// The first elements, and how many there are in all.
    Is(Vec<Item>, usize),
    /// Something else.
    Not,
}

impl<'de, Item: Deserialize<'de>> Lenient<'de> for List<Item> {
    fn other() -> Self {
        List::Not
    }

    fn array<A: SeqAccess<'de>>(mut values: A) -> Result<Self, A::Error> {
        let mut items = Vec::new();
        while items.len() < crate::request::TRANSFERS_MAX {
            let Some(item) = values.next_element()? else {
                let count = items.len();
                return Ok(List::Is(items, count));
            };
            items.push(item);
        }
        let mut count = items.len();
        while values.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(List::Is(items, count))
    }
}

impl<'de, Item: Deserialize<'de>> Deserialize<'de> for List<Item> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient(deserializer)
    }
}

/// What is wrong with an object as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wrong {
    NoObject,
    UnknownField(String),
    RepeatedField(&'static str),
}

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::NoObject => formatter.write_str("a JSON object is expected"),
            Wrong::UnknownField(name) => write!(formatter, "unknown field {name:?}"),
            Wrong::RepeatedField(name) => write!(formatter, "field {name:?} is given twice"),
        }
    }
}

/// Declares the fields that an object may have. Each may be missing or `null`; `wrong` tells the first that was unknown or there
/// twice.
macro_rules! object {
    ($(#[$doc:meta])* struct $name:ident { $($field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        struct $name<'body> {
            $($field: Option<$kind>,)*
            wrong: Option<$crate::json::Wrong>,
        }

        impl<'body> $crate::json::Lenient<'body> for $name<'body> {
            fn other() -> Self {
                $name { wrong: Some($crate::json::Wrong::NoObject), ..$name::default() }
            }

            fn object<A: serde::de::MapAccess<'body>>(mut values: A) -> Result<Self, A::Error> {
                use $crate::json::{Text, Wrong};

                $(let mut $field: Option<Option<$kind>> = None;)*
                let mut wrong = None;
                while let Some(key) = values.next_key::<Text<'body>>()? {
                    let Text::Is(key) = key else { continue };
                    match &*key {
                        $(stringify!($field) => {
                            if $field.replace(values.next_value()?).is_some() {
                                wrong.get_or_insert(Wrong::RepeatedField(stringify!($field)));
                            }
                        })*
                        _ => {
                            values.next_value::<serde::de::IgnoredAny>()?;
                            wrong.get_or_insert_with(|| Wrong::UnknownField(shortened(&key).into_owned()));
                        }
                    }
                }
                Ok($name { $($field: $field.flatten(),)* wrong })
            }
        }

        impl<'body> serde::de::Deserialize<'body> for $name<'body> {
            fn deserialize<D: serde::de::Deserializer<'body>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::json::lenient(deserializer)
            }
        }
    };
}

pub(crate) use object;
