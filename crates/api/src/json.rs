//! Reading JSON strictly: unknown and repeated fields are errors, and a field of the wrong type is told apart from a wrong body.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A field that should be text. Anything else is remembered as such, so that the field's own error code can be told.
#[derive(Debug, Clone)]
pub(crate) enum Text<'body> {
    /// A JSON string.
    Is(Cow<'body, str>),
    /// Something else.
    Not,
}

impl<'de: 'body, 'body> Deserialize<'de> for Text<'body> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text::Is(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text::Is(Cow::Owned(text.to_owned())))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Text<'de>, E> {
                Ok(Text::Not)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Text<'de>, E> {
                Ok(Text::Not)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Text<'de>, E> {
                Ok(Text::Not)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Text<'de>, E> {
                Ok(Text::Not)
            }

            fn visit_unit<E>(self) -> Result<Text<'de>, E> {
                Ok(Text::Not)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Text<'de>, A::Error> {
                while values.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text::Not)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Text<'de>, A::Error> {
                while values.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text::Not)
            }
        }

        deserializer.deserialize_any(TextVisitor)
    }
}

/// An object of text to text, in the order given; repeated keys are found by whoever checks the pairs.
#[derive(Debug, Default)]
pub(crate) struct Pairs<'body>(pub(crate) Vec<(Cow<'body, str>, Cow<'body, str>)>);

impl<'de: 'body, 'body> Deserialize<'de> for Pairs<'body> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, value)) = values.next_entry::<Text<'de>, Text<'de>>()? {
                    match (key, value) {
                        (Text::Is(key), Text::Is(value)) if pairs.len() <= ledger::METADATA_PAIRS_MAX => {
                            pairs.push((key, value));
                        }
                        (Text::Is(_), Text::Is(_)) => {
                            return Err(de::Error::custom("metadata has more than 16 pairs"));
                        }
                        _ => return Err(de::Error::custom("metadata has a value that is not a string")),
                    }
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}
