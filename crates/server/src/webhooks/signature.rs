//! Signatures as Standard Webhooks has them: HMAC-SHA256 over `id.timestamp.body`, and secrets as text with the prefix `whsec_`.
//!
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use std::fmt;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

const PREFIX: &str = "whsec_";
/// What the specification allows.
const SIZE_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// What the wallet and one receiver share. It is printed nowhere but where it is asked for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

impl Secret {
    /// A new one, which nobody can guess.
    pub(super) fn generate() -> io::Result<Secret> {
        Ok(Secret(storage::random::random_bytes()?.to_vec()))
    }

    fn sign(&self, message_id: &str, timestamp_seconds: u64, body: &[u8]) -> String {
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of every size");
        hmac.update(format!("{message_id}.{timestamp_seconds}.").as_bytes());
        hmac.update(body);
        format!("v1,{}", BASE64.encode(hmac.finalize().into_bytes()))
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> String {
        format!("{PREFIX}{}", BASE64.encode(secret.0))
    }
}

impl TryFrom<String> for Secret {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Secret, &'static str> {
        let encoded = text.strip_prefix(PREFIX).ok_or("a secret begins with whsec_")?;
        let bytes = BASE64.decode(encoded).map_err(|_| "a secret is base64 after whsec_")?;
        if !SIZE_BYTES.contains(&bytes.len()) {
            return Err("a secret has 24 to 64 bytes");
        }
        Ok(Secret(bytes))
    }
}

/// The value of the header `webhook-signature`: one signature for each secret that is valid.
pub(super) fn signatures<'secret>(
    secrets: impl Iterator<Item = &'secret Secret>,
    message_id: &str,
    timestamp_seconds: u64,
    body: &[u8],
) -> String {
    let signatures: Vec<String> =
        secrets.map(|secret| secret.sign(message_id, timestamp_seconds, body)).collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_signs_as_the_specification_does() {
        let text = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned();
        let secret = Secret::try_from(text.clone()).expect("a secret");
        let signed = signatures(
            [&secret].into_iter(),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(String::from(secret), text);
        assert!(Secret::try_from("whsec_c2hvcnQ=".to_owned()).is_err());
        let new = Secret::generate().expect("randomness");
        assert_eq!(Secret::try_from(String::from(new.clone())), Ok(new));
    }
}
