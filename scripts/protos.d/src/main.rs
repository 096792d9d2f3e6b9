//! Writes Rust for the interface descriptions: `protos FROM TO`. Messages without reflection, which would be as large as the
//! rest of the shim, and services as asynchronous ttrpc.

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() -> std::io::Result<()> {
    let [_, from, to] = std::env::args().collect::<Vec<_>>().try_into().expect("protos FROM TO");
    let mut inputs = std::fs::read_dir(&from)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    inputs.sort();
    Codegen::new()
        .out_dir(to)
        .include(from)
        .inputs(inputs)
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().lite_runtime(true).generate_accessors(false).gen_mod_rs(false))
        .customize(Customize { async_all: true, ..Default::default() })
        .run()
}
