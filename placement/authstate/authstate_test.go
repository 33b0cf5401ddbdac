package authstate

import (
	"fmt"
	"testing"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// world is a state and the next command's id.
type world struct {
	t  require.TestingT
	s  *State
	id uint64
}

func (w *world) apply(c *kvdpb.AuthCommand) error {
	w.id++
	c.Id, c.Checked = w.id, w.s.Version()
	before := w.s.Proto()
	frozen := proto.CloneOf(before)
	next, _, err := w.s.Apply(c)
	require.True(w.t, proto.Equal(frozen, before), "a state was changed in place")
	w.s = next
	return err
}

func turn(on bool) *kvdpb.AuthCommand {
	return &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_Switch{Switch: &kvdpb.AuthSwitch{On: on, Secret: make([]byte, SecretBytes)}}}
}

func addUser(name string) *kvdpb.AuthCommand {
	return &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_AddUser{AddUser: &kvdpb.AuthPutUser{Name: name, PasswordHash: []byte("hash")}}}
}

func deleteUser(name string) *kvdpb.AuthCommand {
	return &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_DeleteUser{DeleteUser: &kvdpb.AuthName{Name: name}}}
}

func password(name string) *kvdpb.AuthCommand {
	return &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_ChangePassword{ChangePassword: &kvdpb.AuthPutUser{Name: name, PasswordHash: []byte("new")}}}
}

func grant(user, role string) *kvdpb.AuthCommand {
	return &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_GrantRole{GrantRole: &kvdpb.AuthGrant{User: user, Role: role}}}
}

func revoke(user, role string) *kvdpb.AuthCommand {
	return &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_RevokeRole{RevokeRole: &kvdpb.AuthGrant{User: user, Role: role}}}
}

func addRole(name string) *kvdpb.AuthCommand {
	return &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_AddRole{AddRole: &kvdpb.AuthName{Name: name}}}
}

func deleteRole(name string) *kvdpb.AuthCommand {
	return &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_DeleteRole{DeleteRole: &kvdpb.AuthName{Name: name}}}
}

func permit(role, key, end string, t kvdpb.AuthPermission_Type) *kvdpb.AuthCommand {
	return &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_GrantPermission{GrantPermission: &kvdpb.AuthGrantPermission{
		Role: role, Permission: &kvdpb.AuthPermission{Type: t, Key: []byte(key), RangeEnd: []byte(end)}}}}
}

func forbid(role, key, end string) *kvdpb.AuthCommand {
	return &kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_RevokePermission{RevokePermission: &kvdpb.AuthGrantPermission{
		Role: role, Permission: &kvdpb.AuthPermission{Key: []byte(key), RangeEnd: []byte(end)}}}}
}

// TestCommandsAsEtcd goes through etcd's rules, with its errors, and through the
// auth revisions that etcd answers on the way.
func TestCommandsAsEtcd(t *testing.T) {
	w := &world{t: t, s: New()}
	const read, write = kvdpb.AuthPermission_READ, kvdpb.AuthPermission_WRITE
	for i, step := range []struct {
		c        *kvdpb.AuthCommand
		err      error
		revision uint64
	}{
		{turn(false), nil, 1},
		{turn(true), rpctypes.ErrGRPCRootUserNotExist, 1},
		{addUser(""), rpctypes.ErrGRPCUserEmpty, 1},
		{addUser("root"), nil, 2},
		{addUser("root"), rpctypes.ErrGRPCUserAlreadyExist, 2},
		{turn(true), rpctypes.ErrGRPCRootRoleNotExist, 2},
		{grant("nobody", "root"), rpctypes.ErrGRPCUserNotFound, 2},
		{grant("root", "r"), rpctypes.ErrGRPCRoleNotFound, 2},
		{grant("root", "root"), nil, 3},
		{grant("root", "root"), nil, 3},
		{turn(true), nil, 3},
		{turn(true), nil, 3},
		{deleteUser("root"), rpctypes.ErrGRPCInvalidAuthMgmt, 3},
		{revoke("root", "root"), rpctypes.ErrGRPCInvalidAuthMgmt, 3},
		{deleteRole("root"), rpctypes.ErrGRPCInvalidAuthMgmt, 3},
		{addRole(""), rpctypes.ErrGRPCRoleEmpty, 3},
		{addRole("r"), nil, 4},
		{addRole("r"), rpctypes.ErrGRPCRoleAlreadyExist, 4},
		{permit("r", "", "", read), rpctypes.ErrGRPCInvalidAuthMgmt, 4},
		{permit("r", "b", "a", read), rpctypes.ErrGRPCInvalidAuthMgmt, 4},
		{permit("r", "b", "b", read), rpctypes.ErrGRPCInvalidAuthMgmt, 4},
		{permit("r", "b", "\x00", read), nil, 5},
		{permit("nowhere", "a", "", read), rpctypes.ErrGRPCRoleNotFound, 5},
		{permit("r", "b", "\x00", write), nil, 6},
		{&kvdpb.AuthCommand{Change: &kvdpb.AuthCommand_GrantPermission{GrantPermission: &kvdpb.AuthGrantPermission{Role: "r"}}}, rpctypes.ErrGRPCPermissionNotGiven, 6},
		{forbid("r", "b", ""), rpctypes.ErrGRPCPermissionNotGranted, 6},
		{forbid("nowhere", "b", ""), rpctypes.ErrGRPCRoleNotFound, 6},
		{permit("r", "a", "c", read), nil, 7},
		{forbid("r", "b", "\x00"), nil, 8},
		{addUser("u"), nil, 9},
		{grant("u", "r"), nil, 10},
		{revoke("u", "s"), rpctypes.ErrGRPCRoleNotGranted, 10},
		{revoke("v", "s"), rpctypes.ErrGRPCUserNotFound, 10},
		{password("v"), rpctypes.ErrGRPCUserNotFound, 10},
		{password("u"), nil, 11},
		{deleteRole("r"), nil, 12},
		{deleteRole("r"), rpctypes.ErrGRPCRoleNotFound, 12},
		{deleteUser("u"), nil, 13},
		{deleteUser("u"), rpctypes.ErrGRPCUserNotFound, 13},
		{turn(false), nil, 14},
		{deleteUser("root"), nil, 15},
		{&kvdpb.AuthCommand{}, rpctypes.ErrGRPCInvalidAuthMgmt, 15},
	} {
		require.Equal(t, step.err, w.apply(step.c), "step %d", i)
		require.Equal(t, step.revision, w.s.Revision(), "step %d", i)
		want := uint64(0)
		if w.s.Enabled() {
			want = step.revision
		}
		require.Equal(t, want, w.s.Version(), "step %d", i)
	}
}

func TestDeletedRoleIsTakenFromItsUsers(t *testing.T) {
	w := &world{t: t, s: New()}
	for _, c := range []*kvdpb.AuthCommand{addRole("a"), addRole("b"), addUser("u"), grant("u", "b"), grant("u", "a")} {
		require.NoError(t, w.apply(c))
	}
	require.Equal(t, []string{"a", "b"}, w.s.User("u").Roles)
	require.NoError(t, w.apply(deleteRole("a")))
	require.Equal(t, []string{"b"}, w.s.User("u").Roles)
	require.Equal(t, []byte("hash"), w.s.User("u").PasswordHash)
}

// TestGenerationsNeverComeBack: a token of a deleted user, or of one with another
// password, must not fit the next user of that name.
func TestGenerationsNeverComeBack(t *testing.T) {
	w := &world{t: t, s: New()}
	seen := map[uint64]bool{}
	for range 3 {
		require.NoError(t, w.apply(addUser("u")))
		for range 2 {
			require.False(t, seen[w.s.User("u").Generation])
			seen[w.s.User("u").Generation] = true
			require.NoError(t, w.apply(password("u")))
		}
		require.NoError(t, w.apply(deleteUser("u")))
	}
}

func TestCommandAppliesOnce(t *testing.T) {
	c := addUser("u")
	c.Id = 7
	s, change, err := New().Apply(c)
	require.NoError(t, err)
	require.Equal(t, Change{Users: []string{"u"}}, change)
	again, change, err := s.Apply(c)
	require.NoError(t, err)
	require.Empty(t, change)
	require.Same(t, s, again)

	c = addUser("u")
	c.Id = 8
	s, _, err = s.Apply(c)
	require.Equal(t, rpctypes.ErrGRPCUserAlreadyExist, err)
	_, _, err = s.Apply(c)
	require.Equal(t, rpctypes.ErrGRPCUserAlreadyExist, err)

	stale := addUser("v")
	stale.Id, stale.Checked = 9, 5
	_, _, err = s.Apply(stale)
	require.Equal(t, rpctypes.ErrGRPCAuthOldRevision, err)
}

func TestFromProtoRefusesWhatCannotBe(t *testing.T) {
	for _, bad := range []*kvdpb.AuthState{
		{Enabled: true},
		{Revision: 1, Enabled: true},
		{Revision: 1, Users: []*kvdpb.AuthUser{{}}},
		{Revision: 1, Users: []*kvdpb.AuthUser{{Name: "a"}, {Name: "a"}}},
		{Revision: 1, Roles: []*kvdpb.AuthRole{{Name: "a"}, {Name: "a"}}},
		{Revision: 1, Enabled: true, Users: []*kvdpb.AuthUser{{Name: Root, Roles: []string{Root}}}},
	} {
		_, err := FromProto(bad)
		require.Error(t, err, "%v", bad)
	}
}

// TestRandomCommands: whatever comes, the state can be written and read back, the
// version never repeats with another content, and root stays while auth is on.
func TestRandomCommands(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, s: New()}
		names := rapid.SampledFrom([]string{"", "root", "a", "b"})
		for i := range rapid.IntRange(1, 60).Draw(t, "commands") {
			a, b := names.Draw(t, fmt.Sprint("a", i)), names.Draw(t, fmt.Sprint("b", i))
			all := []*kvdpb.AuthCommand{turn(true), turn(false), addUser(a), deleteUser(a), password(a), grant(a, b), revoke(a, b),
				addRole(a), deleteRole(a), permit(a, b, "", kvdpb.AuthPermission_READ), forbid(a, b, "")}
			before := w.s
			err := w.apply(all[rapid.IntRange(0, len(all)-1).Draw(t, fmt.Sprint("c", i))])
			if err != nil || w.s.Revision() == before.Revision() {
				was, is := before.Proto(), w.s.Proto()
				was.Recent, is.Recent, was.Enabled, is.Enabled, was.Secret, is.Secret = nil, nil, false, false, nil, nil
				if !proto.Equal(was, is) {
					t.Fatalf("changed without a new revision: %v, %v", was, is)
				}
			}
			if w.s.Enabled() && w.s.checkRoot() != nil {
				t.Fatal("auth is on without root")
			}
			back, rerr := FromProto(proto.CloneOf(w.s.Proto()))
			require.NoError(t, rerr)
			if !proto.Equal(back.Proto(), w.s.Proto()) {
				t.Fatal("written and read back, it differs")
			}
		}
	})
}
