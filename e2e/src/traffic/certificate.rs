//! Certificates of a test's own making, right and wrong ones, by `openssl`.

use crate::program;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A certificate with its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What a certificate is to say.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// `subjectAltName` in openssl's words, such as `URI:spiffe://cluster.local/ns/a/sa/b`.
    pub alternative_name: &'a str,
    /// Whether it has expired.
    pub expired: bool,
}

/// Makes a certificate authority in `folder`.
///
/// # Errors
/// What openssl says.
pub fn authority(folder: &Path, name: &str) -> Result<Certificate> {
    fs::create_dir_all(folder)?;
    let made = files(folder, name);
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        &format!("/O={name}"),
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
        "-keyout",
        text(&made.key)?,
        "-out",
        text(&made.certificate)?,
    ])?;
    Ok(made)
}

/// Makes a certificate in `folder`, signed by `by`.
///
/// # Errors
/// What openssl says.
pub fn signed(folder: &Path, name: &str, by: &Certificate, wanted: &Wanted<'_>) -> Result<Certificate> {
    fs::create_dir_all(folder)?;
    let made = files(folder, name);
    let (request, extensions) = (folder.join(format!("{name}.csr")), folder.join(format!("{name}.ext")));
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/O=test",
        "-keyout",
        text(&made.key)?,
        "-out",
        text(&request)?,
    ])?;
    fs::write(
        &extensions,
        format!(
            "subjectAltName=critical,{}\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n",
            wanted.alternative_name
        ),
    )?;
    // x509(1): a negative number of days ends the validity before it starts to matter.
    let days = if wanted.expired { "-1" } else { "1" };
    openssl(&[
        "x509",
        "-req",
        "-in",
        text(&request)?,
        "-CA",
        text(&by.certificate)?,
        "-CAkey",
        text(&by.key)?,
        "-CAcreateserial",
        "-CAserial",
        text(&folder.join(format!("{name}.srl")))?,
        "-days",
        days,
        "-extfile",
        text(&extensions)?,
        "-out",
        text(&made.certificate)?,
    ])?;
    Ok(made)
}

fn files(folder: &Path, name: &str) -> Certificate {
    Certificate { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

fn openssl(arguments: &[&str]) -> Result<()> {
    let output = Command::new(program::system("openssl")?).args(arguments).output().context("starting openssl")?;
    if !output.status.success() {
        bail!("openssl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
