//! What a runtime says by variables (CNI specification 1.1.0, section 2, "Parameters").

use super::error::{CniError, Code};
use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

/// What the runtime asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Capture a pod.
    Add(Attachment),
    /// Leave nothing of a pod.
    Del(Attachment),
    /// Say whether a pod is captured as it should be.
    Check(Attachment),
    /// Leave nothing of pods that are not listed.
    Gc,
    /// Say whether pods can be captured here.
    Status,
    /// Say which versions are spoken.
    Version,
}

/// One interface of one pod.
#[derive(Debug, PartialEq, Eq)]
pub struct Attachment {
    /// `CNI_CONTAINERID`: of the pod's sandbox. Safe as the name of a file.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_NETNS`; absolute. May be absent for `DEL`.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`.
    pub arguments: Arguments,
}

/// What Kubernetes' runtimes say in `CNI_ARGS`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Arguments(BTreeMap<String, String>);

impl Request {
    /// Reads the variables, through a function that gives one.
    ///
    /// # Errors
    /// Every variable that is missing or wrong, by name.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, CniError> {
        let mut mistakes = Vec::new();
        let mut text = |name: &str| match variable(name).filter(|value| !value.is_empty())?.into_string() {
            Ok(value) => Some(value),
            Err(value) => {
                mistakes.push(format!("{name}={} is not UTF-8", value.display()));
                None
            }
        };
        let command = text("CNI_COMMAND").unwrap_or_default();
        let (container_id, interface) = (text("CNI_CONTAINERID"), text("CNI_IFNAME"));
        let (netns, arguments) = (text("CNI_NETNS"), text("CNI_ARGS"));
        let is_del = command == "DEL";
        let request: fn(Attachment) -> Self = match command.as_str() {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => return Ok(Self::Gc),
            "STATUS" => return Ok(Self::Status),
            "VERSION" => return Ok(Self::Version),
            other => {
                mistakes.push(format!("CNI_COMMAND=`{other}` is none of ADD, DEL, CHECK, GC, STATUS and VERSION"));
                return Err(wrong(&mistakes));
            }
        };
        let container_id = required("CNI_CONTAINERID", container_id, is_container_id, &mut mistakes);
        let interface = required("CNI_IFNAME", interface, is_interface_name, &mut mistakes);
        let arguments = arguments.map(|text| Arguments::parse(&text)).transpose().unwrap_or_else(|mistake| {
            // DEL must get as far as it can.
            if !is_del {
                mistakes.push(mistake);
            }
            None
        });
        let netns = match netns {
            None if is_del => None,
            netns => Some(required("CNI_NETNS", netns, |path| path.starts_with('/'), &mut mistakes).into()),
        };
        if mistakes.is_empty() {
            Ok(request(Attachment { container_id, interface, netns, arguments: arguments.unwrap_or_default() }))
        } else {
            Err(wrong(&mistakes))
        }
    }
}

impl Arguments {
    /// Parses `NAME=VALUE;…`.
    fn parse(text: &str) -> Result<Self, String> {
        let pairs = text.split(';').filter(|pair| !pair.is_empty());
        let parsed = pairs.map(|pair| {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| format!("CNI_ARGS has `{pair}`, which is not of the form NAME=VALUE"))?;
            Ok((name.to_owned(), value.to_owned()))
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }

    /// `K8S_POD_NAMESPACE`; empty when this is not Kubernetes.
    pub fn pod_namespace(&self) -> &str {
        self.one("K8S_POD_NAMESPACE").unwrap_or_default()
    }

    /// `K8S_POD_NAME`; empty when this is not Kubernetes.
    pub fn pod_name(&self) -> &str {
        self.one("K8S_POD_NAME").unwrap_or_default()
    }

    /// `K8S_POD_UID`.
    pub fn pod_uid(&self) -> Option<&str> {
        self.one("K8S_POD_UID")
    }

    fn one(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl FromIterator<(String, String)> for Arguments {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

fn required(name: &str, value: Option<String>, is_right: fn(&str) -> bool, mistakes: &mut Vec<String>) -> String {
    match value {
        Some(value) if is_right(&value) => return value,
        Some(value) => mistakes.push(format!("{name}=`{value}` is not what the specification allows")),
        None => mistakes.push(format!("{name} is missing")),
    }
    String::new()
}

fn wrong(mistakes: &[String]) -> CniError {
    CniError::new(Code::InvalidEnvironment, "invalid environment variables", mistakes.join("; "))
}

/// "Must start with an alphanumeric character, optionally followed by any combination of one or more alphanumeric
/// characters, underscore, dot or hyphen" (section 3, "Attachment Parameters"); and it becomes the name of a file.
pub fn is_container_id(id: &str) -> bool {
    id.len() <= CONTAINER_ID_BYTES_MAX
        && id.starts_with(|first: char| first.is_ascii_alphanumeric())
        && id.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-'))
}

/// As libcni's `ValidateInterfaceName`.
fn is_interface_name(name: &str) -> bool {
    let bad = |letter: char| letter.is_whitespace() || matches!(letter, '/' | ':');
    !name.is_empty() && name.len() <= INTERFACE_BYTES_MAX && name != "." && name != ".." && !name.contains(bad)
}

/// Room for the suffixes of our files in 255 bytes; Kubernetes' runtimes use 64.
const CONTAINER_ID_BYTES_MAX: usize = 200;
/// `IFNAMSIZ` without the terminating zero (linux/if.h).
const INTERFACE_BYTES_MAX: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn read(variables: &[(&str, &str)]) -> Result<Request, String> {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        Request::read(variable).map_err(|error| error.details)
    }

    const ALL: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "abc-1_2.3"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u=1"),
    ];

    #[test]
    fn an_attachment_is_read() {
        let Ok(Request::Add(attachment)) = read(&ALL) else { panic!("it is right") };
        assert_eq!(attachment.container_id, "abc-1_2.3");
        assert_eq!(attachment.netns, Some(PathBuf::from("/run/netns/x")));
        let arguments = attachment.arguments;
        assert_eq!((arguments.pod_namespace(), arguments.pod_name()), ("shop", "web"));
        assert_eq!(arguments.pod_uid(), Some("u=1"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_told_together() {
        assert_eq!(
            read(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "a/b"), ("CNI_ARGS", "x")]),
            Err(
                "CNI_CONTAINERID is missing; CNI_IFNAME=`a/b` is not what the specification allows; CNI_ARGS has `x`, \
                 which is not of the form NAME=VALUE; CNI_NETNS is missing"
                    .to_owned()
            )
        );
        assert_eq!(
            read(&[("CNI_COMMAND", "add")]),
            Err("CNI_COMMAND=`add` is none of ADD, DEL, CHECK, GC, STATUS and VERSION".to_owned())
        );
        let bytes = |name: &str| (name == "CNI_COMMAND").then(|| OsString::from_vec(vec![0xff]));
        assert!(Request::read(bytes).is_err_and(|error| error.details.contains("is not UTF-8")));
    }

    #[test]
    fn del_needs_less() {
        let request =
            read(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0"), ("CNI_ARGS", "nonsense")]);
        assert!(matches!(request, Ok(Request::Del(Attachment { netns: None, .. }))), "{request:?}");
    }

    #[test]
    fn a_container_id_never_leaves_its_folder() {
        for id in ["..", ".hidden", "a/b", "", "-a", "ä", &"a".repeat(201)] {
            assert!(!is_container_id(id), "{id}");
        }
        assert!(is_container_id(&"0f".repeat(32)));
    }
}
