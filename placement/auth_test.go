package placement

import (
	"bytes"
	"testing"

	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// TestAuthRecords: users and roles are there again after a restart, and what was
// deleted is not.
func TestAuthRecords(t *testing.T) {
	s := servingState(t, 1)
	st := newMemStorage()
	id, index := uint64(0), uint64(0)
	save := func() {
		changes, err := s.takeChanges()
		require.NoError(t, err)
		index++
		require.NoError(t, st.Write(index, changes))
	}
	change := func(c *kvdpb.AuthCommand) {
		id++
		c.Id, c.Checked = id, s.auth.Version()
		want(t, none, do(s, c))
		save()
		back, err := loadState(st)
		require.NoError(t, err)
		require.True(t, proto.Equal(s.Proto(), back.Proto()), "%v\n%v", s.Proto(), back.Proto())
	}
	save()
	user := func(name string) *kvdpb.AuthCommand {
		return &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_AddUser{AddUser: &kvdpb.AuthPutUser{Name: name, PasswordHash: []byte("hash")}}}
	}
	change(user("root"))
	change(user("user/with\x00anything"))
	change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_AddRole{AddRole: &kvdpb.AuthName{Name: "r"}}})
	change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_GrantPermission{GrantPermission: &kvdpb.AuthGrantPermission{
		Role: "r", Permission: &kvdpb.AuthPermission{Key: []byte("k")}}}})
	change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_GrantRole{GrantRole: &kvdpb.AuthGrant{User: "root", Role: "root"}}})
	change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_Switch{Switch: &kvdpb.AuthSwitch{On: true, Secret: make([]byte, authstate.SecretBytes)}}})
	change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_DeleteUser{DeleteUser: &kvdpb.AuthName{Name: "user/with\x00anything"}}})
	change(&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_DeleteRole{DeleteRole: &kvdpb.AuthName{Name: "r"}}})
	require.Equal(t, []string{"root"}, s.auth.Users())
	require.Empty(t, s.auth.Roles())

	// A snapshot replaces what is there.
	other := newMemStorage()
	m := NewMachine(other.open, func(*View) {})
	_, err := m.Open(nil)
	require.NoError(t, err)
	m.state = s
	m.show(index)
	snapshot, err := m.PrepareSnapshot()
	require.NoError(t, err)
	_, got, err := readSnapshot(bytes.NewReader(snapshot.([]byte)))
	require.NoError(t, err)
	require.True(t, proto.Equal(s.Proto(), got.Proto()))
}

// TestAuthIsNews: subscribers learn of changes of auth, and refusals change nothing
// that counts.
func TestAuthIsNews(t *testing.T) {
	s := servingState(t, 1)
	v1 := s.View(nil, 1)
	want(t, none, do(s, &kvdpb.AuthCommand{Id: 1, Change: &kvdpb.AuthCommand_AddRole{AddRole: &kvdpb.AuthName{Name: "r"}}}))
	v2 := s.View(v1, 2)
	require.False(t, v2.sameNews(v1))
	require.Nil(t, v1.Auth.Role("r"), "old views stay as they were")
	res := want(t, kvdpb.PlacementResult_AUTH_REFUSED, do(s, &kvdpb.AuthCommand{Id: 2, Change: &kvdpb.AuthCommand_AddRole{AddRole: &kvdpb.AuthName{Name: "r"}}}))
	require.Equal(t, "etcdserver: role name already exists", res.Reason)
	require.Equal(t, v2.Auth.Version(), s.auth.Version())
}
