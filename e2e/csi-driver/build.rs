//! The CSI and kubelet's plugin registration, as their projects publish them.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["proto/csi.proto", "proto/registration.proto"], ["proto"])?;
    tonic_prost_build::configure().build_client(false).compile_fds(files)?;
    Ok(())
}
