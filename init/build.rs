//! Compiles the eBPF programs (`bpf/heddle.bpf.c`) with clang into one object, which the binary carries.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("heddle.bpf.o");
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb",
        _ => "bpfel",
    };
    let mut command = Command::new(&clang);
    // v3: atomic operations that give the old value, in kernels from 5.12 on.
    command.args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-mcpu=v3", "-target", target]);
    for folder in system_headers(&clang) {
        command.args(["-idirafter", &folder]);
    }
    command.args(["-c", "bpf/heddle.bpf.c", "-o"]).arg(&object);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{clang} could not compile init/bpf/heddle.bpf.c ({status}); its messages are above"),
        Err(error) => panic!(
            "cannot run {clang} ({error}), which compiles the eBPF programs in init/bpf: install clang 14 or newer \
             (`cargo xtask ci --only system` does on Debian), or name it in CLANG"
        ),
    }
}

/// Where clang looks for the kernel's headers when it compiles for this machine; for the bpf target it does not look there.
fn system_headers(clang: &str) -> Vec<String> {
    let output = Command::new(clang).args(["-v", "-E", "-x", "c", "/dev/null", "-o", "/dev/null"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    text.lines()
        .skip_while(|line| !line.starts_with("#include <...>"))
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .map(|line| line.trim().to_owned())
        .collect()
}
