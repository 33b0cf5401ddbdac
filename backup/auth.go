package backup

import (
	"go.etcd.io/etcd/api/v3/authpb"

	"github.com/kvd-io/kvd/placement/authstate"
)

func usersOf(s *authstate.State) []*authpb.User {
	var users []*authpb.User
	for _, name := range s.Users() {
		u := s.User(name)
		users = append(users, &authpb.User{
			Name: []byte(name), Password: u.PasswordHash, Roles: u.Roles, Options: &authpb.UserAddOptions{NoPassword: u.NoPassword},
		})
	}
	return users
}

func rolesOf(s *authstate.State) []*authpb.Role {
	var roles []*authpb.Role
	for _, name := range s.Roles() {
		role := &authpb.Role{Name: []byte(name)}
		for _, p := range s.Role(name).Permissions {
			role.KeyPermission = append(role.KeyPermission, &authpb.Permission{
				PermType: authpb.Permission_Type(p.Type), Key: p.Key, RangeEnd: p.RangeEnd,
			})
		}
		roles = append(roles, role)
	}
	return roles
}
