//! What happens on a node: loop devices, and binds into kubelet's folders.

use std::path::Path;
use std::sync::Arc;

use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use tonic::{Request, Response, Status};

use crate::TOPOLOGY;
use crate::proto::csi::node_service_capability::{Rpc, Type, rpc};
use crate::proto::csi::volume_capability::AccessType;
use crate::proto::csi::volume_capability::access_mode::Mode;
use crate::proto::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
    NodeGetInfoResponse, NodeGetStorageHealthRequest, NodeGetStorageHealthResponse, NodeGetVolumeHealthRequest,
    NodeGetVolumeHealthResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest,
    NodePublishVolumeResponse, NodeServiceCapability, NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, Topology, node_server,
};
use crate::state::{Shared, internal, missing, run};

pub(crate) struct Node {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: String,
}

#[tonic::async_trait]
impl node_server::Node for Node {
    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        let segments = [(TOPOLOGY.to_owned(), self.name.clone())].into();
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.name.clone(),
            max_volumes_per_node: self.shared.attach_limit,
            accessible_topology: Some(Topology { segments }),
        }))
    }

    async fn node_get_capabilities(&self, _: Request<NodeGetCapabilitiesRequest>) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capability = |kind: rpc::Type| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })) };
        let capabilities = [rpc::Type::StageUnstageVolume, rpc::Type::SingleNodeMultiWriter].map(capability).to_vec();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    /// A block volume gets its loop device.
    async fn node_stage_volume(&self, request: Request<NodeStageVolumeRequest>) -> Result<Response<NodeStageVolumeResponse>, Status> {
        self.shared.meet("NodeStageVolume").await?;
        let request = request.into_inner();
        let capability = request.volume_capability.ok_or_else(|| missing("capability"))?;
        if request.volume_id.is_empty() || request.staging_target_path.is_empty() {
            return Err(missing("volume or staging path"));
        }
        let mut state = self.shared.state.lock().await;
        let image = self.shared.volume(&request.volume_id).join("disk.img");
        let volume = state.volumes.get_mut(&request.volume_id).ok_or_else(|| Status::not_found("no such volume"))?;
        if matches!(capability.access_type, Some(AccessType::Block(_))) && !volume.devices.contains_key(&self.name) {
            let device = run("losetup", &["--find", "--show", &image.display().to_string()]).await?;
            volume.devices.insert(self.name.clone(), device);
            self.shared.save(&state)?;
        }
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(&self, request: Request<NodeUnstageVolumeRequest>) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        self.shared.meet("NodeUnstageVolume").await?;
        let request = request.into_inner();
        if request.volume_id.is_empty() || request.staging_target_path.is_empty() {
            return Err(missing("volume or staging path"));
        }
        let mut state = self.shared.state.lock().await;
        let volume = state.volumes.get_mut(&request.volume_id);
        if let Some(device) = volume.and_then(|volume| volume.devices.remove(&self.name)) {
            run("losetup", &["--detach", &device]).await?;
            self.shared.save(&state)?;
        }
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(&self, request: Request<NodePublishVolumeRequest>) -> Result<Response<NodePublishVolumeResponse>, Status> {
        self.shared.meet("NodePublishVolume").await?;
        let request = request.into_inner();
        let capability = request.volume_capability.ok_or_else(|| missing("capability"))?;
        if request.volume_id.is_empty() || request.target_path.is_empty() {
            return Err(missing("volume or target path"));
        }
        let target = Path::new(&request.target_path);
        let mut state = self.shared.state.lock().await;
        let volume = state.volumes.get_mut(&request.volume_id).ok_or_else(|| Status::not_found("no such volume"))?;
        let is_single = capability.access_mode.is_some_and(|mode| mode.mode() == Mode::SingleNodeSingleWriter);
        if is_single && volume.targets.iter().any(|mounted| *mounted != request.target_path) {
            return Err(Status::failed_precondition("the volume is mounted elsewhere, and has one writer"));
        }
        if is_mounted(target)? {
            return Ok(Response::new(NodePublishVolumeResponse {}));
        }
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(internal)?;
        }
        if matches!(capability.access_type, Some(AccessType::Block(_))) {
            let device = volume.devices.get(&self.name).ok_or_else(|| Status::failed_precondition("the volume is not staged"))?;
            std::fs::File::options().create(true).append(true).open(target).map_err(internal)?;
            mount_bind(device.as_str(), target).map_err(internal)?;
        } else {
            match std::fs::create_dir(target) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(internal(error)),
                _ => {}
            }
            mount_bind(self.shared.volume(&request.volume_id).join("data").as_path(), target).map_err(internal)?;
            if request.readonly {
                mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, c"").map_err(internal)?;
            }
        }
        volume.targets.insert(request.target_path);
        self.shared.save(&state)?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        self.shared.meet("NodeUnpublishVolume").await?;
        let request = request.into_inner();
        if request.volume_id.is_empty() || request.target_path.is_empty() {
            return Err(missing("volume or target path"));
        }
        let target = Path::new(&request.target_path);
        if is_mounted(target)? {
            unmount(target, UnmountFlags::empty()).map_err(internal)?;
        }
        let mut state = self.shared.state.lock().await;
        if state.volumes.get_mut(&request.volume_id).is_some_and(|volume| volume.targets.remove(&request.target_path)) {
            self.shared.save(&state)?;
        }
        let removed = if target.is_dir() { std::fs::remove_dir(target) } else { std::fs::remove_file(target) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(internal(error)),
            _ => Ok(Response::new(NodeUnpublishVolumeResponse {})),
        }
    }

    async fn node_get_volume_stats(&self, _: Request<NodeGetVolumeStatsRequest>) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented("no statistics"))
    }

    async fn node_get_volume_health(
        &self,
        _: Request<NodeGetVolumeHealthRequest>,
    ) -> Result<Response<NodeGetVolumeHealthResponse>, Status> {
        Err(Status::unimplemented("health is not known"))
    }

    async fn node_get_storage_health(
        &self,
        _: Request<NodeGetStorageHealthRequest>,
    ) -> Result<Response<NodeGetStorageHealthResponse>, Status> {
        Err(Status::unimplemented("health is not known"))
    }

    async fn node_expand_volume(&self, _: Request<NodeExpandVolumeRequest>) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented("volumes do not grow"))
    }
}

fn is_mounted(target: &Path) -> Result<bool, Status> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(internal)?;
    let target = target.display().to_string();
    Ok(mounts.lines().any(|line| line.split(' ').nth(4) == Some(&target)))
}
