//! TLS to PostgreSQL, chosen by the URL as libpq's users know it: `sslmode` and `sslrootcert`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use postgres::config::SslMode;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How much the connection is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tls {
    /// `disable`: not at all.
    Disabled,
    /// `prefer`, which is the default: encrypted if the server can, whoever it is.
    Preferred,
    /// `require`: encrypted, whoever the server is.
    Required,
    /// `verify-full`: encrypted, and the server proves its name to these authorities, or to those of the machine.
    Verified(Option<PathBuf>),
}

/// Why TLS cannot even be tried.
#[derive(Debug)]
pub(super) struct TlsError(pub(super) String);

impl Tls {
    /// What the URL asks for, and the URL without it.
    pub(super) fn of_url(url: &str) -> Result<(String, Tls), String> {
        let Some((base, query)) = url.split_once('?') else { return Ok((url.to_owned(), Tls::Preferred)) };
        let (mut mode, mut authorities, mut others) = (None, None, Vec::new());
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value),
                Some(("sslrootcert", value)) => authorities = Some(PathBuf::from(value)),
                _ => others.push(pair),
            }
        }
        let tls = match (mode, authorities) {
            (Some("disable"), None) => Tls::Disabled,
            (None | Some("prefer"), None) => Tls::Preferred,
            (Some("require"), None) => Tls::Required,
            (Some("verify-full"), authorities) => Tls::Verified(authorities),
            (_, Some(_)) => return Err("sslrootcert needs sslmode=verify-full".into()),
            (Some(other), None) => {
                return Err(format!("sslmode is disable, prefer, require or verify-full, not {other:?}"));
            }
        };
        let question_mark = if others.is_empty() { "" } else { "?" };
        Ok((format!("{base}{question_mark}{}", others.join("&")), tls))
    }

    pub(super) fn mode(&self) -> SslMode {
        match self {
            Tls::Disabled => SslMode::Disable,
            Tls::Preferred => SslMode::Prefer,
            Tls::Required | Tls::Verified(_) => SslMode::Require,
        }
    }

    pub(super) fn connector(&self) -> Result<MakeRustlsConnect, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Tls::Verified(authorities) => {
                let roots = Arc::new(roots(authorities.as_deref())?);
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
                verifier.map_err(|error| {
                    TlsError(format!("the certificate authorities cannot be used: {error}"))
                })?
            }
            _ => Arc::new(Anyone(Arc::clone(&provider))),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows the versions of TLS that this is built with")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(MakeRustlsConnect::new(config))
    }
}

/// Those of a file, or those that the machine trusts.
fn roots(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            let wrong = |why: String| TlsError(format!("sslrootcert {}: {why}", file.display()));
            let certificates =
                CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

/// True when a connection failed because the server is not who it should be, which repeating does not change.
pub(super) fn is_wrong(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// Takes every certificate: the connection is encrypted, yet the server may be anyone.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_how_a_connection_is_protected() {
        let of = |query: &str| Tls::of_url(&format!("postgres://u@h/d{query}"));
        let bare = "postgres://u@h/d".to_owned();
        assert_eq!(of(""), Ok((bare.clone(), Tls::Preferred)));
        assert_eq!(of("?sslmode=disable"), Ok((bare.clone(), Tls::Disabled)));
        assert_eq!(
            of("?sslmode=require&connect_timeout=3"),
            Ok((format!("{bare}?connect_timeout=3"), Tls::Required))
        );
        let verified = Tls::Verified(Some("/etc/ca.pem".into()));
        assert_eq!(of("?sslmode=verify-full&sslrootcert=/etc/ca.pem"), Ok((bare, verified)));
        for wrong in ["?sslmode=maybe", "?sslmode=verify-ca", "?sslmode=require&sslrootcert=x"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
