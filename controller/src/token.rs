//! Tokens of pods without an API server: signed by a key of ours, in the shape of Kubernetes' projected tokens.

use crate::{
    condition::quoted,
    state::{Readers, StateError, StateFolder},
};
use heddle_mesh::identity::{IdentityError, SpiffeId, TrustDomain};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

/// Signs and checks tokens.
pub struct Tokens {
    signing: EncodingKey,
    checking: DecodingKey,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

/// Who a token says it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// The pod, when the token is bound to one.
    pub pod: Option<String>,
}

impl Caller {
    /// The identity that its certificate gets.
    ///
    /// # Errors
    /// The namespace or service account cannot be part of one.
    pub fn identity(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, IdentityError> {
        SpiffeId::new(trust_domain.clone(), &self.namespace, &self.service_account)
    }
}

/// Why tokens cannot be signed or checked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key cannot be used.
    #[error("{TOKEN_KEY} cannot be used: {0}; restore it, or delete it and sign new tokens")]
    Key(String),
    /// The caller cannot have an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The token is malformed, expired, for another audience, or not signed by our key.
    #[error("the token was refused: {0}; sign one with `heddle-controller token` on the same state folder")]
    Refused(#[from] jsonwebtoken::errors::Error),
    /// Its subject is not what its claims say.
    #[error("the token's subject {0} is not the service account of its claims")]
    Subject(String),
}

impl Tokens {
    /// The tokens of a state folder; the key is made when there is none.
    ///
    /// # Errors
    /// The folder or the key cannot be used.
    pub fn open(state: &StateFolder) -> Result<Self, TokenError> {
        let unusable = |error: &dyn std::fmt::Display| TokenError::Key(error.to_string());
        let pem = match state.read(TOKEN_KEY, Readers::Owner)? {
            Some(pem) => pem,
            None => {
                let made = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| unusable(&error))?;
                state.create(TOKEN_KEY, Readers::Owner, &made.serialize_pem())?
            }
        };
        let key = KeyPair::from_pem(&pem).map_err(|error| unusable(&error))?;
        let signing = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|error| unusable(&error))?;
        Ok(Self { signing, checking: DecodingKey::from_ec_der(key.der_bytes()) })
    }

    /// Signs a token for `caller` that is good for `ttl` from now on.
    ///
    /// # Errors
    /// A name that no identity can have, or the TLS library refused.
    pub fn sign(&self, caller: &Caller, ttl: Duration) -> Result<String, TokenError> {
        caller.identity(&TrustDomain::default())?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: subject(caller),
            aud: vec![AUDIENCE.to_owned()],
            iat: now,
            nbf: now,
            exp: now.saturating_add(ttl.as_secs()),
            kubernetes: Kubernetes {
                namespace: caller.namespace.clone(),
                serviceaccount: Named { name: caller.service_account.clone() },
                pod: caller.pod.clone().map(|name| Named { name }),
            },
        };
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.signing)?)
    }

    /// Who the token is for, if it is ours, for us, and not over.
    ///
    /// # Errors
    /// Anything else; the text is for our log, not for the caller.
    pub fn check(&self, token: &str) -> Result<Caller, TokenError> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECONDS;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.checking, &validation)?.claims;
        let caller = Caller {
            namespace: claims.kubernetes.namespace,
            service_account: claims.kubernetes.serviceaccount.name,
            pod: claims.kubernetes.pod.map(|pod| pod.name),
        };
        match claims.sub == subject(&caller) {
            true => Ok(caller),
            false => Err(TokenError::Subject(quoted(&claims.sub))),
        }
    }
}

fn subject(caller: &Caller) -> String {
    format!("system:serviceaccount:{}:{}", caller.namespace, caller.service_account)
}

/// The claims of a projected service account token, as far as we use them.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    iat: u64,
    nbf: u64,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Named>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Named {
    name: String,
}

/// The key that signs tokens, in PKCS#8.
pub const TOKEN_KEY: &str = "token-key.pem";

/// Whom tokens are for: Istio's name for the authority, so that the same projected token works there.
pub const AUDIENCE: &str = "istio-ca";

/// Who signed them.
const ISSUER: &str = "heddle-controller";

/// How far clocks may be apart, in seconds.
const LEEWAY_SECONDS: u64 = 30;

#[cfg(test)]
mod tests;
