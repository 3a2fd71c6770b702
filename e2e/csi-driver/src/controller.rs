//! Volumes made, published, copied and removed.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tonic::{Request, Response, Status};

use crate::TOPOLOGY;
use crate::proto::csi::controller_service_capability::{Rpc, Type, rpc};
use crate::proto::csi::volume_capability::AccessType;
use crate::proto::csi::volume_content_source::{SnapshotSource, Type as SourceType, VolumeSource};
use crate::proto::csi::{
    self, ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, ControllerGetCapabilitiesRequest,
    ControllerGetCapabilitiesResponse, ControllerGetVolumeHealthRequest, ControllerGetVolumeHealthResponse, ControllerGetVolumeRequest,
    ControllerGetVolumeResponse, ControllerListVolumeHealthRequest, ControllerListVolumeHealthResponse, ControllerModifyVolumeRequest,
    ControllerModifyVolumeResponse, ControllerPublishVolumeRequest, ControllerPublishVolumeResponse, ControllerServiceCapability,
    ControllerUnpublishVolumeRequest, ControllerUnpublishVolumeResponse, CreateSnapshotRequest, CreateSnapshotResponse,
    CreateVolumeRequest, CreateVolumeResponse, DeleteSnapshotRequest, DeleteSnapshotResponse, DeleteVolumeRequest, DeleteVolumeResponse,
    GetCapacityRequest, GetCapacityResponse, GetSnapshotRequest, GetSnapshotResponse, ListSnapshotsRequest, ListSnapshotsResponse,
    ListVolumesRequest, ListVolumesResponse, Topology, ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
    VolumeCapability, VolumeContentSource, controller_server, list_snapshots_response, validate_volume_capabilities_response,
};
use crate::state::{Shared, Snapshot, State, Volume, copy, internal, missing};

/// Of a volume whose size nobody asked for.
const DEFAULT_BYTES: i64 = 64 << 20;
/// Larger ones are refused.
const MAX_BYTES: i64 = 1 << 40;

pub(crate) struct Controller(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl controller_server::Controller for Controller {
    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        use rpc::Type as Kind;
        let capability = |kind: Kind| ControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })) };
        let kinds = [
            Kind::CreateDeleteVolume,
            Kind::PublishUnpublishVolume,
            Kind::CreateDeleteSnapshot,
            Kind::ListSnapshots,
            Kind::CloneVolume,
            Kind::PublishReadonly,
            Kind::SingleNodeMultiWriter,
        ];
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities: kinds.map(capability).to_vec() }))
    }

    async fn create_volume(&self, request: Request<CreateVolumeRequest>) -> Result<Response<CreateVolumeResponse>, Status> {
        self.0.meet("CreateVolume").await?;
        let request = request.into_inner();
        if request.name.is_empty() {
            return Err(missing("name"));
        }
        let is_block = is_block(&request.volume_capabilities)?;
        let (required, limit) = request.capacity_range.as_ref().map_or((0, 0), |range| (range.required_bytes, range.limit_bytes));
        if required > MAX_BYTES {
            return Err(Status::out_of_range("larger than the driver makes them"));
        }
        let mut state = self.0.state.lock().await;
        if let Some((id, volume)) = state.volumes.iter().find(|(_, volume)| volume.name == request.name) {
            let fits = volume.bytes >= required && (limit == 0 || volume.bytes <= limit) && volume.is_block == is_block;
            return if fits {
                Ok(created(id, volume, request.volume_content_source))
            } else {
                Err(Status::already_exists("a volume of this name, and of another size or mode"))
            };
        }
        let source = self.source(&state, request.volume_content_source.as_ref())?;
        let bytes = match (required, &source) {
            (0, Some((_, bytes))) => *bytes,
            (0, None) => DEFAULT_BYTES,
            (required, Some((_, bytes))) if required < *bytes => return Err(Status::out_of_range("smaller than its source")),
            (required, _) => required,
        };
        state.last_id += 1;
        let id = format!("volume-{}", state.last_id);
        let at = self.0.volume(&id);
        std::fs::create_dir_all(at.join("data")).map_err(internal)?;
        if let Some((from, _)) = source {
            copy(&from, &at).await?;
        }
        if is_block {
            grow(&at.join("disk.img"), bytes)?;
        }
        let is_local = request.parameters.get("local").is_some_and(|value| value == "true");
        let requirement = request.accessibility_requirements.unwrap_or_default();
        let first = requirement.preferred.first().or(requirement.requisite.first());
        let local_to = first.filter(|_| is_local).and_then(|topology| topology.segments.get(TOPOLOGY).cloned());
        let volume = Volume { name: request.name, bytes, is_block, local_to, published: [].into(), targets: [].into(), devices: [].into() };
        let answer = created(&id, &volume, request.volume_content_source);
        state.volumes.insert(id, volume);
        self.0.save(&state)?;
        Ok(answer)
    }

    async fn delete_volume(&self, request: Request<DeleteVolumeRequest>) -> Result<Response<DeleteVolumeResponse>, Status> {
        self.0.meet("DeleteVolume").await?;
        let id = request.into_inner().volume_id;
        if id.is_empty() {
            return Err(missing("volume"));
        }
        let mut state = self.0.state.lock().await;
        if let Some(volume) = state.volumes.get(&id) {
            if !volume.published.is_empty() {
                return Err(Status::failed_precondition("the volume is published"));
            }
            std::fs::remove_dir_all(self.0.volume(&id)).map_err(internal)?;
            state.volumes.remove(&id);
            self.0.save(&state)?;
        }
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn controller_publish_volume(
        &self,
        request: Request<ControllerPublishVolumeRequest>,
    ) -> Result<Response<ControllerPublishVolumeResponse>, Status> {
        self.0.meet("ControllerPublishVolume").await?;
        let request = request.into_inner();
        if request.volume_id.is_empty() || request.node_id.is_empty() {
            return Err(missing("volume or node"));
        }
        let capability = request.volume_capability.ok_or_else(|| missing("capability"))?;
        let mut state = self.0.state.lock().await;
        if !self.0.nodes.contains(&request.node_id) {
            return Err(Status::not_found("no such node"));
        }
        let limit = self.0.attach_limit;
        let attached = state.volumes.values().filter(|volume| volume.published.contains_key(&request.node_id)).count();
        let volume = state.volumes.get_mut(&request.volume_id).ok_or_else(|| Status::not_found("no such volume"))?;
        let is_shared = capability.access_mode.is_some_and(|mode| is_multi_node(mode.mode()));
        match volume.published.get(&request.node_id) {
            Some(readonly) if *readonly != request.readonly => return Err(Status::already_exists("published with another mode")),
            Some(_) => {}
            None if !is_shared && !volume.published.is_empty() => {
                return Err(Status::failed_precondition("the volume is published to another node"));
            }
            None if volume.local_to.as_ref().is_some_and(|node| *node != request.node_id) => {
                return Err(Status::failed_precondition("the node cannot reach the volume"));
            }
            None if limit > 0 && attached as i64 >= limit => {
                return Err(Status::resource_exhausted("the node has as many volumes as it can attach"));
            }
            None => {
                volume.published.insert(request.node_id, request.readonly);
                self.0.save(&state)?;
            }
        }
        Ok(Response::new(ControllerPublishVolumeResponse::default()))
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<ControllerUnpublishVolumeResponse>, Status> {
        self.0.meet("ControllerUnpublishVolume").await?;
        let request = request.into_inner();
        if request.volume_id.is_empty() {
            return Err(missing("volume"));
        }
        let mut state = self.0.state.lock().await;
        if let Some(volume) = state.volumes.get_mut(&request.volume_id) {
            if request.node_id.is_empty() {
                volume.published.clear();
            } else {
                volume.published.remove(&request.node_id);
            }
            self.0.save(&state)?;
        }
        Ok(Response::new(ControllerUnpublishVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let request = request.into_inner();
        if request.volume_id.is_empty() {
            return Err(missing("volume"));
        }
        let is_block = is_block(&request.volume_capabilities)?;
        let state = self.0.state.lock().await;
        let volume = state.volumes.get(&request.volume_id).ok_or_else(|| Status::not_found("no such volume"))?;
        let confirmed = (volume.is_block == is_block).then(|| validate_volume_capabilities_response::Confirmed {
            volume_capabilities: request.volume_capabilities,
            ..Default::default()
        });
        Ok(Response::new(ValidateVolumeCapabilitiesResponse { confirmed, ..Default::default() }))
    }

    async fn create_snapshot(&self, request: Request<CreateSnapshotRequest>) -> Result<Response<CreateSnapshotResponse>, Status> {
        self.0.meet("CreateSnapshot").await?;
        let request = request.into_inner();
        if request.name.is_empty() || request.source_volume_id.is_empty() {
            return Err(missing("name or volume"));
        }
        let mut state = self.0.state.lock().await;
        if let Some((id, snapshot)) = state.snapshots.iter().find(|(_, snapshot)| snapshot.name == request.name) {
            return if snapshot.volume == request.source_volume_id {
                Ok(Response::new(CreateSnapshotResponse { snapshot: Some(shown(&self.0, id, snapshot)) }))
            } else {
                Err(Status::already_exists("a snapshot of this name, and of another volume"))
            };
        }
        let volume = state.volumes.get(&request.source_volume_id).ok_or_else(|| Status::not_found("no such volume"))?;
        let (bytes, is_block) = (volume.bytes, volume.is_block);
        state.last_id += 1;
        let id = format!("snapshot-{}", state.last_id);
        let at = self.0.snapshot(&id);
        std::fs::create_dir_all(&at).map_err(internal)?;
        copy(&self.0.volume(&request.source_volume_id), &at).await?;
        let created = SystemTime::now();
        let ready = created + self.0.snapshot_delay();
        let snapshot = Snapshot { name: request.name, volume: request.source_volume_id, bytes, is_block, created, ready };
        let answer = CreateSnapshotResponse { snapshot: Some(shown(&self.0, &id, &snapshot)) };
        state.snapshots.insert(id, snapshot);
        self.0.save(&state)?;
        Ok(Response::new(answer))
    }

    async fn delete_snapshot(&self, request: Request<DeleteSnapshotRequest>) -> Result<Response<DeleteSnapshotResponse>, Status> {
        self.0.meet("DeleteSnapshot").await?;
        let id = request.into_inner().snapshot_id;
        if id.is_empty() {
            return Err(missing("snapshot"));
        }
        let mut state = self.0.state.lock().await;
        if state.snapshots.remove(&id).is_some() {
            std::fs::remove_dir_all(self.0.snapshot(&id)).map_err(internal)?;
            self.0.save(&state)?;
        }
        Ok(Response::new(DeleteSnapshotResponse {}))
    }

    async fn list_snapshots(&self, request: Request<ListSnapshotsRequest>) -> Result<Response<ListSnapshotsResponse>, Status> {
        let request = request.into_inner();
        let state = self.0.state.lock().await;
        let fits = |id: &str, snapshot: &Snapshot| {
            (request.snapshot_id.is_empty() || request.snapshot_id == id)
                && (request.source_volume_id.is_empty() || request.source_volume_id == snapshot.volume)
        };
        let found: Vec<_> = state.snapshots.iter().filter(|(id, snapshot)| fits(id, snapshot)).collect();
        let start = match request.starting_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| Status::aborted("no such token"))?,
        };
        if start > found.len() {
            return Err(Status::aborted("no such token"));
        }
        let end = if request.max_entries > 0 { found.len().min(start + request.max_entries.unsigned_abs() as usize) } else { found.len() };
        let entry = |(id, snapshot): &(&String, &Snapshot)| list_snapshots_response::Entry { snapshot: Some(shown(&self.0, id, snapshot)) };
        let next_token = if end < found.len() { end.to_string() } else { String::new() };
        Ok(Response::new(ListSnapshotsResponse { entries: found[start..end].iter().map(entry).collect(), next_token }))
    }

    async fn list_volumes(&self, _: Request<ListVolumesRequest>) -> Result<Response<ListVolumesResponse>, Status> {
        Err(Status::unimplemented("volumes are not listed"))
    }

    async fn get_capacity(&self, _: Request<GetCapacityRequest>) -> Result<Response<GetCapacityResponse>, Status> {
        Err(Status::unimplemented("capacity is not known"))
    }

    async fn controller_expand_volume(
        &self,
        _: Request<ControllerExpandVolumeRequest>,
    ) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
        Err(Status::unimplemented("volumes do not grow"))
    }

    async fn controller_get_volume(&self, _: Request<ControllerGetVolumeRequest>) -> Result<Response<ControllerGetVolumeResponse>, Status> {
        Err(Status::unimplemented("volumes are not shown"))
    }

    async fn controller_modify_volume(
        &self,
        _: Request<ControllerModifyVolumeRequest>,
    ) -> Result<Response<ControllerModifyVolumeResponse>, Status> {
        Err(Status::unimplemented("volumes are not changed"))
    }

    async fn controller_list_volume_health(
        &self,
        _: Request<ControllerListVolumeHealthRequest>,
    ) -> Result<Response<ControllerListVolumeHealthResponse>, Status> {
        Err(Status::unimplemented("health is not known"))
    }

    async fn controller_get_volume_health(
        &self,
        _: Request<ControllerGetVolumeHealthRequest>,
    ) -> Result<Response<ControllerGetVolumeHealthResponse>, Status> {
        Err(Status::unimplemented("health is not known"))
    }

    async fn get_snapshot(&self, _: Request<GetSnapshotRequest>) -> Result<Response<GetSnapshotResponse>, Status> {
        Err(Status::unimplemented("snapshots are listed"))
    }
}

impl Controller {
    /// Where a new volume's content comes from, and how large that is.
    fn source(&self, state: &State, source: Option<&VolumeContentSource>) -> Result<Option<(std::path::PathBuf, i64)>, Status> {
        match source.and_then(|source| source.r#type.as_ref()) {
            None => Ok(None),
            Some(SourceType::Snapshot(SnapshotSource { snapshot_id })) => {
                let snapshot = state.snapshots.get(snapshot_id).ok_or_else(|| Status::not_found("no such snapshot"))?;
                Ok(Some((self.0.snapshot(snapshot_id), snapshot.bytes)))
            }
            Some(SourceType::Volume(VolumeSource { volume_id })) => {
                let volume = state.volumes.get(volume_id).ok_or_else(|| Status::not_found("no such volume"))?;
                Ok(Some((self.0.volume(volume_id), volume.bytes)))
            }
        }
    }
}

fn is_block(capabilities: &[VolumeCapability]) -> Result<bool, Status> {
    if capabilities.is_empty() {
        return Err(missing("capability"));
    }
    Ok(capabilities.iter().any(|capability| matches!(capability.access_type, Some(AccessType::Block(_)))))
}

fn is_multi_node(mode: csi::volume_capability::access_mode::Mode) -> bool {
    use csi::volume_capability::access_mode::Mode;
    matches!(mode, Mode::MultiNodeReaderOnly | Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter)
}

fn grow(image: &Path, bytes: i64) -> Result<(), Status> {
    let file = std::fs::File::options().create(true).append(true).open(image).map_err(internal)?;
    file.set_len(bytes.unsigned_abs()).map_err(internal)
}

fn created(id: &str, volume: &Volume, content_source: Option<VolumeContentSource>) -> Response<CreateVolumeResponse> {
    let topology = |node: &String| Topology { segments: [(TOPOLOGY.to_owned(), node.clone())].into() };
    Response::new(CreateVolumeResponse {
        volume: Some(csi::Volume {
            volume_id: id.to_owned(),
            capacity_bytes: volume.bytes,
            content_source,
            accessible_topology: volume.local_to.iter().map(topology).collect(),
            ..Default::default()
        }),
    })
}

fn shown(shared: &Shared, id: &str, snapshot: &Snapshot) -> csi::Snapshot {
    csi::Snapshot {
        size_bytes: snapshot.bytes,
        snapshot_id: id.to_owned(),
        source_volume_id: snapshot.volume.clone(),
        creation_time: Some(snapshot.created.into()),
        // As long as it lasts, and as long as it is asked for.
        ready_to_use: SystemTime::now() >= snapshot.ready || shared.snapshot_delay().is_zero(),
        ..Default::default()
    }
}
