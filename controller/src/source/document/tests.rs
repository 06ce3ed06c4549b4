//! Lists, broken documents, lost policies and names.

use super::*;

fn read_text(text: &str) -> Contents {
    read(&Arc::from(Path::new("m.yaml")), text)
}

fn titles(contents: &Contents) -> Vec<String> {
    contents.objects.iter().map(|object| object.origin.title()).collect()
}

#[test]
fn lists_hold_objects_with_or_without_a_kind() {
    let mixed = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n- apiVersion: v1\n  \
                 kind: ServiceAccount\n  metadata: {name: b, namespace: a}\n";
    let contents = read_text(mixed);
    assert_eq!(titles(&contents), ["Namespace a", "ServiceAccount a/b"]);
    assert_eq!(contents.objects[1].origin.place("metadata.namespace").line, 9);
    let typed = "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a, namespace: b}\n- metadata: {name: c, namespace: b}\n";
    assert_eq!(titles(&read_text(typed)), ["Pod b/a", "Pod b/c"]);
    assert!(read_text("apiVersion: v1\nkind: List\nitems: []\n").is_sound());
}

#[test]
fn a_broken_document_hides_no_other() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\nkind: [\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";
    let contents = read_text(text);
    assert_eq!(titles(&contents), ["Namespace a", "Namespace b"]);
    assert_eq!((contents.is_sound(), contents.conditions.len(), contents.conditions[0].place.line), (false, 1, 5));
}

#[test]
fn what_may_be_a_lost_policy_is_counted() {
    let policy = "apiVersion: heddle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: b}\nspec: {action: X}\n";
    let cases = [
        (policy, 1),
        ("kind: AuthorizationPolicy\nspec: [", 1),
        ("apiVersion: v1\nki", 1),
        ("a: b", 1),
        ("apiVersion: heddle.dev/v2\nkind: MeshPolicy\n", 1),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", 0),
        ("apiVersion: v1\nkind: Pod\nmetadata: [", 0),
        ("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n", 0),
    ];
    for (text, lost) in cases {
        assert_eq!(read_text(text).policies_lost, lost, "{text}");
    }
}

#[test]
fn a_name_that_a_strict_policy_could_have_is_refused() {
    let text = "apiVersion: heddle.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: heddle_strict_all, namespace: b}\n";
    let contents = read_text(text);
    assert_eq!((contents.objects.len(), contents.conditions[0].field.as_str()), (0, "metadata.name"));
}
