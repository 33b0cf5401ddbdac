package api

import (
	"context"

	"github.com/kvd-io/kvd/auth"
	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// authServer serves etcd's Auth service.
type authServer struct {
	pb.UnsafeAuthServer
	headers
	auth    *auth.Service
	storage func() Storage
}

// head is a response's header: as in etcd it tells the newest revision here.
func (s *authServer) head() *pb.ResponseHeader { return s.header(s.storage().Revision) }

// change has an administrator's change applied.
func (s *authServer) change(ctx context.Context, cmd *kvdpb.AuthCommand) (*pb.ResponseHeader, error) {
	if err := s.auth.Change(ctx, cmd); err != nil {
		return nil, err
	}
	return s.head(), nil
}

// AuthEnable implements pb.AuthServer.
func (s *authServer) AuthEnable(ctx context.Context, _ *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	if err := s.auth.Turn(ctx, true); err != nil {
		return nil, err
	}
	return &pb.AuthEnableResponse{Header: s.head()}, nil
}

// AuthDisable implements pb.AuthServer.
func (s *authServer) AuthDisable(ctx context.Context, _ *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	if err := s.auth.Turn(ctx, false); err != nil {
		return nil, err
	}
	return &pb.AuthDisableResponse{Header: s.head()}, nil
}

// AuthStatus implements pb.AuthServer.
func (s *authServer) AuthStatus(ctx context.Context, _ *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	resp := &pb.AuthStatusResponse{}
	err := s.auth.Look(ctx, (*auth.Caller).Anybody, func(state *authstate.State) error {
		resp.Enabled, resp.AuthRevision = state.Enabled(), state.Revision()
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.Header = s.head()
	return resp, nil
}

// Authenticate implements pb.AuthServer.
func (s *authServer) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	token, err := s.auth.Authenticate(ctx, r.Name, r.Password)
	if err != nil {
		return nil, err
	}
	return &pb.AuthenticateResponse{Header: s.head(), Token: token}, nil
}

// UserAdd implements pb.AuthServer.
func (s *authServer) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	if err := s.auth.AddUser(ctx, r); err != nil {
		return nil, err
	}
	return &pb.AuthUserAddResponse{Header: s.head()}, nil
}

// UserChangePassword implements pb.AuthServer.
func (s *authServer) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	if err := s.auth.ChangePassword(ctx, r); err != nil {
		return nil, err
	}
	return &pb.AuthUserChangePasswordResponse{Header: s.head()}, nil
}

// UserDelete implements pb.AuthServer.
func (s *authServer) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	h, err := s.change(ctx, &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_DeleteUser{DeleteUser: &kvdpb.AuthName{Name: r.Name}}})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserDeleteResponse{Header: h}, nil
}

// UserGet implements pb.AuthServer.
func (s *authServer) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	resp := &pb.AuthUserGetResponse{}
	err := s.auth.Look(ctx, func(c *auth.Caller) error { return c.Self(r.Name) }, func(state *authstate.State) error {
		u := state.User(r.Name)
		if u == nil {
			return rpctypes.ErrGRPCUserNotFound
		}
		resp.Roles = u.Roles
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.Header = s.head()
	return resp, nil
}

// UserList implements pb.AuthServer.
func (s *authServer) UserList(ctx context.Context, _ *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	resp := &pb.AuthUserListResponse{}
	err := s.auth.Look(ctx, (*auth.Caller).Root, func(state *authstate.State) error {
		resp.Users = state.Users()
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.Header = s.head()
	return resp, nil
}

// UserGrantRole implements pb.AuthServer.
func (s *authServer) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	h, err := s.change(ctx, &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_GrantRole{GrantRole: &kvdpb.AuthGrant{User: r.User, Role: r.Role}}})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserGrantRoleResponse{Header: h}, nil
}

// UserRevokeRole implements pb.AuthServer.
func (s *authServer) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	h, err := s.change(ctx, &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_RevokeRole{RevokeRole: &kvdpb.AuthGrant{User: r.Name, Role: r.Role}}})
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserRevokeRoleResponse{Header: h}, nil
}

// RoleAdd implements pb.AuthServer.
func (s *authServer) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	h, err := s.change(ctx, &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_AddRole{AddRole: &kvdpb.AuthName{Name: r.Name}}})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleAddResponse{Header: h}, nil
}

// RoleDelete implements pb.AuthServer.
func (s *authServer) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	h, err := s.change(ctx, &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_DeleteRole{DeleteRole: &kvdpb.AuthName{Name: r.Role}}})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleDeleteResponse{Header: h}, nil
}

// RoleGet implements pb.AuthServer.
func (s *authServer) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	resp := &pb.AuthRoleGetResponse{}
	err := s.auth.Look(ctx, func(c *auth.Caller) error { return c.Has(r.Role) }, func(state *authstate.State) error {
		role := state.Role(r.Role)
		switch {
		case role == nil:
			return rpctypes.ErrGRPCRoleNotFound
		case r.Role == authstate.Root:
			resp.Perm = []*authpb.Permission{{PermType: authpb.Permission_READWRITE, Key: []byte{}, RangeEnd: []byte{0}}}
		}
		for _, p := range role.Permissions {
			if r.Role != authstate.Root {
				resp.Perm = append(resp.Perm, &authpb.Permission{PermType: authpb.Permission_Type(p.Type), Key: p.Key, RangeEnd: p.RangeEnd})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.Header = s.head()
	return resp, nil
}

// RoleList implements pb.AuthServer.
func (s *authServer) RoleList(ctx context.Context, _ *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	resp := &pb.AuthRoleListResponse{}
	err := s.auth.Look(ctx, (*auth.Caller).Root, func(state *authstate.State) error {
		resp.Roles = state.Roles()
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.Header = s.head()
	return resp, nil
}

// RoleGrantPermission implements pb.AuthServer.
func (s *authServer) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	grant := &kvdpb.AuthGrantPermission{Role: r.Name}
	if p := r.Perm; p != nil {
		if _, known := authpb.Permission_Type_name[int32(p.PermType)]; !known {
			return nil, rpctypes.ErrGRPCInvalidAuthMgmt
		}
		grant.Permission = &kvdpb.AuthPermission{Type: kvdpb.AuthPermission_Type(p.PermType), Key: p.Key, RangeEnd: p.RangeEnd}
	}
	h, err := s.change(ctx, &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_GrantPermission{GrantPermission: grant}})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleGrantPermissionResponse{Header: h}, nil
}

// RoleRevokePermission implements pb.AuthServer.
func (s *authServer) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	h, err := s.change(ctx, &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_RevokePermission{RevokePermission: &kvdpb.AuthGrantPermission{
		Role: r.Role, Permission: &kvdpb.AuthPermission{Key: r.Key, RangeEnd: r.RangeEnd}}}})
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleRevokePermissionResponse{Header: h}, nil
}
