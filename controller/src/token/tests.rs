//! Tokens: sound ones, and every way to forge one.

use super::*;
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("heddle-token-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn tokens(&self) -> Tokens {
        Tokens::open(&StateFolder::open(&self.0).expect("a folder")).expect("a key")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn web() -> Caller {
    Caller { namespace: "shop".to_owned(), service_account: "web".to_owned(), pod: Some("web-1".to_owned()) }
}

#[test]
fn a_token_says_who_it_is_for_after_a_restart_too() {
    let scratch = Scratch::new("restart");
    let token = scratch.tokens().sign(&web(), Duration::from_secs(60)).expect("a token");
    assert_eq!(scratch.tokens().check(&token).expect("a sound token"), web());
    let mode = fs::metadata(scratch.0.join(TOKEN_KEY)).expect("the key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn foreign_changed_and_old_tokens_are_refused() {
    let (ours, theirs) = (Scratch::new("ours"), Scratch::new("theirs"));
    let tokens = ours.tokens();
    let token = tokens.sign(&web(), Duration::from_secs(60)).expect("a token");
    let foreign = theirs.tokens().sign(&web(), Duration::from_secs(60)).expect("a token");
    let parts: Vec<&str> = token.split('.').collect();
    let other =
        tokens.sign(&Caller { namespace: "other".to_owned(), ..web() }, Duration::from_secs(60)).expect("a token");
    let mixed = format!("{}.{}.{}", parts[0], other.split('.').nth(1).expect("claims"), parts[2]);
    // {"alg":"none"}
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    for token in [foreign.as_str(), &mixed, &unsigned, "", "a.b.c", &token[..token.len() - 4], &format!("{token}x")] {
        assert!(tokens.check(token).is_err(), "{token}");
    }

    let sign = |change: fn(&mut Claims)| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs();
        let mut claims = Claims {
            iss: ISSUER.to_owned(),
            sub: subject(&web()),
            aud: vec![AUDIENCE.to_owned()],
            iat: now,
            nbf: now,
            exp: now + 60,
            kubernetes: Kubernetes {
                namespace: "shop".to_owned(),
                serviceaccount: Named { name: "web".to_owned() },
                pod: None,
            },
        };
        change(&mut claims);
        tokens.check(&jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &tokens.signing).expect("a token"))
    };
    assert!(sign(|_| {}).is_ok());
    assert!(sign(|claims| claims.exp -= 1_000).is_err());
    assert!(sign(|claims| claims.nbf += 1_000).is_err());
    assert!(sign(|claims| claims.aud = vec!["api".to_owned()]).is_err());
    assert!(sign(|claims| claims.iss = "kubernetes".to_owned()).is_err());
    assert!(sign(|claims| claims.sub = "system:serviceaccount:shop:admin".to_owned()).is_err());
}

#[test]
fn names_that_no_identity_can_have_get_no_token() {
    let scratch = Scratch::new("names");
    let caller = |namespace: &str| Caller { namespace: namespace.to_owned(), ..web() };
    for namespace in ["", "a/b", "..", "a b"] {
        assert!(scratch.tokens().sign(&caller(namespace), Duration::from_secs(60)).is_err(), "{namespace}");
    }
}
