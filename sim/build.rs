//! Lets the crates that look `getrandom` up by its name at run time find the simulation's own: see `chance`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol=getrandom");
}
