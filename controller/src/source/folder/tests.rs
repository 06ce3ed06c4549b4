//! Files that change, vanish and break.

use super::*;
use std::{fs, os::unix::fs::symlink};

const POD: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn scratch(name: &str) -> Scratch {
    let path = std::env::temp_dir().join(format!("heddle-folder-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a folder");
    Scratch(path)
}

fn refresh(folder: &mut Folder) -> (bool, usize, usize) {
    let different = folder.refresh(&HashSet::new());
    let manifests = folder.manifests();
    (different, manifests.objects.len(), manifests.conditions.len())
}

#[test]
fn files_are_found_below_and_through_links_and_hidden_ones_are_not() {
    let scratch = scratch("found");
    let root = &scratch.0;
    fs::create_dir_all(root.join("deep/er")).expect("folders");
    fs::create_dir_all(root.join("..version")).expect("folders");
    fs::write(root.join("deep/er/a.yml"), POD).expect("a file");
    fs::write(root.join("..version/b.yaml"), POD.replace("name: a", "name: b")).expect("a file");
    fs::write(root.join("notes.txt"), "{").expect("a file");
    symlink("..version/b.yaml", root.join("b.yaml")).expect("a link");
    symlink(".", root.join("loop")).expect("a link");
    let mut folder = Folder::new(root);
    folder.refresh(&HashSet::new());
    let names: HashSet<Arc<str>> = folder.manifests().objects.iter().map(|object| object.origin.name.clone()).collect();
    assert_eq!(names, ["a".into(), "b".into()].into());
}

#[test]
fn nothing_changed_is_noticed_without_reading() {
    let scratch = scratch("same");
    let file = scratch.0.join("a.yaml");
    fs::write(&file, POD).expect("a file");
    let mut folder = Folder::new(&scratch.0);
    assert_eq!(refresh(&mut folder), (true, 1, 0));
    assert_eq!(refresh(&mut folder), (false, 1, 0));
    // Written anew with the same text: read, and found to be no change.
    fs::write(&file, POD).expect("a file");
    assert_eq!(refresh(&mut folder), (false, 1, 0));
    fs::write(scratch.0.join("b.yaml"), POD.replace("name: a", "name: b")).expect("a file");
    assert_eq!(refresh(&mut folder), (true, 2, 0));
    fs::remove_file(&file).expect("a removed file");
    assert_eq!(refresh(&mut folder), (true, 1, 0));
}

#[test]
fn trouble_with_one_file_keeps_what_it_said() {
    let scratch = scratch("trouble");
    let file = scratch.0.join("a.yaml");
    fs::write(&file, POD).expect("a file");
    let mut folder = Folder::new(&scratch.0);
    refresh(&mut folder);
    fs::write(&file, "kind: [").expect("a file");
    assert_eq!(refresh(&mut folder), (true, 1, 2));
    assert_eq!(refresh(&mut folder), (false, 1, 2));
    fs::write(&file, [0xff, 0xfe]).expect("a file");
    assert_eq!(refresh(&mut folder), (true, 1, 2));
    fs::write(&file, POD).expect("a file");
    assert_eq!(refresh(&mut folder), (true, 1, 0));
    fs::write(&file, "# nothing any more\n").expect("a file");
    assert_eq!(refresh(&mut folder), (true, 0, 0));
}
