//! The key by which the next container of this proxy may claim the pod, too: a file that only the proxy can read.

use super::CaptureError;
use heddle_init_abi::ebpf::Key;
use rustls::crypto::aws_lc_rs::default_provider;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// The key in this file, which is made when it is not there; without a file a key that nobody will know again.
///
/// # Errors
/// [`CaptureError::Key`] when the file holds something else, others can read it, or it cannot be written.
pub fn load_or_make(path: Option<&Path>) -> Result<Key, CaptureError> {
    let Some(path) = path else { return random().map_err(CaptureError::Socket) };
    let broken = |problem: String| CaptureError::Key { path: path.to_owned(), problem };
    match read(path) {
        Ok(Ok(key)) => Ok(key),
        Ok(Err(problem)) => Err(broken(problem)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            random().and_then(|key| write(path, &key).map(|()| key)).map_err(|error| {
                broken(format!("cannot write it ({error}); name a file in a folder that the proxy's user may write"))
            })
        }
        Err(error) => Err(broken(format!("cannot read it ({error})"))),
    }
}

fn read(path: &Path) -> io::Result<Result<Key, String>> {
    let bytes = fs::read(path)?;
    if fs::metadata(path)?.mode() & OTHERS != 0 {
        return Ok(Err("every user may read or write it; remove it, a new one is made with mode 0600".to_owned()));
    }
    let length = bytes.len();
    let key: Result<Key, _> = bytes.try_into();
    Ok(match key {
        Ok(key) if key != [0; 32] => Ok(key),
        _ => Err(format!("it has {length} bytes and is no key of 32; remove it, a new one is made")),
    })
}

/// Whole or not at all: it is renamed to its place.
fn write(path: &Path, key: &Key) -> io::Result<()> {
    let part = path.with_added_extension("part");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

fn random() -> io::Result<Key> {
    let mut key = [0; 32];
    default_provider().secure_random.fill(&mut key).map_err(|_| io::Error::other("no random numbers"))?;
    Ok(key)
}

/// What users outside of the owner and group may do (chmod(2)).
const OTHERS: u32 = 0o007;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_the_same_the_next_time() {
        let folder = std::env::temp_dir().join(format!("heddle-key-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let path = folder.join("key");
        let first = load_or_make(Some(&path)).expect("it is made");
        let second = load_or_make(Some(&path)).expect("it is read");
        let mode = fs::metadata(&path).expect("it is there").mode() & 0o777;
        fs::write(&path, "short").expect("it can be written");
        let broken = load_or_make(Some(&path)).expect_err("five bytes are no key").to_string();
        fs::remove_dir_all(&folder).expect("it was just made");
        assert_eq!((first == second, first == [0; 32], mode), (true, false, 0o600));
        assert!(broken.ends_with("it has 5 bytes and is no key of 32; remove it, a new one is made"), "{broken}");
    }

    #[test]
    fn without_a_file_every_key_is_another() {
        let keys = [load_or_make(None).expect("random"), load_or_make(None).expect("random")];
        assert_ne!(keys[0], keys[1]);
    }
}
