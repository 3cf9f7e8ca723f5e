//! The Auth service: who a client is, is told by its certificate; etcd's users and roles are not served. Questions are
//! answered as an etcd answers that has no users and authentication off.

use std::sync::Arc;

use keelson_etcd_api::etcdserverpb as pb;
use keelson_etcd_api::server::auth_server::Auth;
use tonic::{Request, Response, Status};

use super::Context;
use super::errors::Error;

#[derive(Clone, Debug)]
pub(super) struct AuthService(pub(super) Arc<Context>);

/// An etcd without users counts its first revision of them.
const AUTH_REVISION: u64 = 1;
const NOT_SERVED: &str = "keelson-store: etcd's users and roles are not served; use client certificates";

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(&self, _: Request<pb::AuthEnableRequest>) -> Answer<pb::AuthEnableResponse> {
        Err(Error::RootUserNotExist.into())
    }

    async fn auth_disable(&self, _: Request<pb::AuthDisableRequest>) -> Answer<pb::AuthDisableResponse> {
        Ok(Response::new(pb::AuthDisableResponse { header: self.0.header() }))
    }

    async fn auth_status(&self, _: Request<pb::AuthStatusRequest>) -> Answer<pb::AuthStatusResponse> {
        let header = self.0.header();
        Ok(Response::new(pb::AuthStatusResponse { header, enabled: false, auth_revision: AUTH_REVISION }))
    }

    async fn authenticate(&self, _: Request<pb::AuthenticateRequest>) -> Answer<pb::AuthenticateResponse> {
        Err(Error::AuthNotEnabled.into())
    }

    async fn user_add(&self, request: Request<pb::AuthUserAddRequest>) -> Answer<pb::AuthUserAddResponse> {
        if request.into_inner().name.is_empty() {
            return Err(Error::UserEmpty.into());
        }
        Err(Status::unimplemented(NOT_SERVED))
    }

    async fn user_get(&self, _: Request<pb::AuthUserGetRequest>) -> Answer<pb::AuthUserGetResponse> {
        Err(Error::UserNotFound.into())
    }

    async fn user_list(&self, _: Request<pb::AuthUserListRequest>) -> Answer<pb::AuthUserListResponse> {
        Ok(Response::new(pb::AuthUserListResponse { header: self.0.header(), users: Vec::new() }))
    }

    async fn user_delete(&self, _: Request<pb::AuthUserDeleteRequest>) -> Answer<pb::AuthUserDeleteResponse> {
        Err(Error::UserNotFound.into())
    }

    async fn user_change_password(
        &self,
        _: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Answer<pb::AuthUserChangePasswordResponse> {
        Err(Error::UserNotFound.into())
    }

    async fn user_grant_role(&self, _: Request<pb::AuthUserGrantRoleRequest>) -> Answer<pb::AuthUserGrantRoleResponse> {
        Err(Error::UserNotFound.into())
    }

    async fn user_revoke_role(
        &self,
        _: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Answer<pb::AuthUserRevokeRoleResponse> {
        Err(Error::UserNotFound.into())
    }

    async fn role_add(&self, request: Request<pb::AuthRoleAddRequest>) -> Answer<pb::AuthRoleAddResponse> {
        if request.into_inner().name.is_empty() {
            return Err(Error::RoleEmpty.into());
        }
        Err(Status::unimplemented(NOT_SERVED))
    }

    async fn role_get(&self, _: Request<pb::AuthRoleGetRequest>) -> Answer<pb::AuthRoleGetResponse> {
        Err(Error::RoleNotFound.into())
    }

    async fn role_list(&self, _: Request<pb::AuthRoleListRequest>) -> Answer<pb::AuthRoleListResponse> {
        Ok(Response::new(pb::AuthRoleListResponse { header: self.0.header(), roles: Vec::new() }))
    }

    async fn role_delete(&self, _: Request<pb::AuthRoleDeleteRequest>) -> Answer<pb::AuthRoleDeleteResponse> {
        Err(Error::RoleNotFound.into())
    }

    async fn role_grant_permission(
        &self,
        _: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Answer<pb::AuthRoleGrantPermissionResponse> {
        Err(Error::RoleNotFound.into())
    }

    async fn role_revoke_permission(
        &self,
        _: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Answer<pb::AuthRoleRevokePermissionResponse> {
        Err(Error::RoleNotFound.into())
    }
}
