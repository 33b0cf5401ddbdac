package backup

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/backup/etcdfile"
	"github.com/kvd-io/kvd/placement/authstate"
)

// Users and roles come back as they were, in whatever order etcd kept them.
func TestAuthThereAndBack(t *testing.T) {
	in := etcdfile.Auth{
		Enabled: true, Revision: 17,
		Users: []*authpb.User{
			{Name: []byte("ann"), Password: []byte("hash"), Roles: []string{"a", "b"}, Options: &authpb.UserAddOptions{}},
			{Name: []byte("cn"), Roles: []string{"a"}, Options: &authpb.UserAddOptions{NoPassword: true}},
			{Name: []byte("root"), Password: []byte("x"), Roles: []string{"root"}, Options: &authpb.UserAddOptions{}},
		},
		Roles: []*authpb.Role{
			{Name: []byte("a"), KeyPermission: []*authpb.Permission{
				{PermType: authpb.Permission_READ, Key: []byte("k"), RangeEnd: []byte("l")},
				{PermType: authpb.Permission_READWRITE, Key: []byte("m"), RangeEnd: []byte{0}},
				{PermType: authpb.Permission_WRITE, Key: []byte("z")},
			}},
			{Name: []byte("b")},
			{Name: []byte("root")},
		},
	}
	state, err := authOf(&in)
	require.NoError(t, err)
	s, err := authstate.FromProto(state)
	require.NoError(t, err)
	out := AuthContents(s)
	require.Equal(t, in.Enabled, out.Enabled)
	require.Equal(t, in.Revision, out.Revision)
	require.Len(t, out.Users, len(in.Users))
	require.Len(t, out.Roles, len(in.Roles))
	for i := range in.Users {
		require.True(t, proto.Equal(in.Users[i], out.Users[i]), "%v, not %v", out.Users[i], in.Users[i])
	}
	for i := range in.Roles {
		require.True(t, proto.Equal(in.Roles[i], out.Roles[i]), "%v, not %v", out.Roles[i], in.Roles[i])
	}
	in.Users[2].Roles = nil
	_, err = authOf(&in)
	require.ErrorIs(t, err, etcdfile.ErrCorrupt, "auth is on and nobody is root")
}
