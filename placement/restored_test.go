package placement

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/protobuf/proto"
)

// A cluster that begins from a snapshot file goes on at the file's revision, with
// its compaction, users and roles.
func TestInitOfARestoredCluster(t *testing.T) {
	c, err := Bootstrap("a=http://127.0.0.1:1", "t", nil)
	require.NoError(t, err)
	in := proto.CloneOf(c.Init)
	in.Revision, in.CompactRevision = 500, 400
	in.Auth = &kvdpb.AuthState{
		Enabled: true, Revision: 9, Secret: make([]byte, authstate.SecretBytes),
		Users: []*kvdpb.AuthUser{{Name: authstate.Root, Roles: []string{authstate.Root}}},
		Roles: []*kvdpb.AuthRole{{Name: authstate.Root}},
	}
	s := NewState()
	res := s.Apply(&kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_Init{Init: in}})
	require.Equal(t, kvdpb.PlacementResult_NONE, res.Rejection, res.Reason)
	require.EqualValues(t, 501, s.windowEnd)
	require.EqualValues(t, 400, s.compactRevision)
	require.EqualValues(t, 9, s.auth.Version())
	require.NoError(t, s.check())
	// What is kept on disk is what was applied.
	again, err := StateFromProto(s.Proto())
	require.NoError(t, err)
	require.True(t, proto.Equal(s.Proto(), again.Proto()))
	changes, err := s.takeChanges()
	require.NoError(t, err)
	users := 0
	for _, r := range changes {
		if string(r.Name) == userKind+authstate.Root {
			users++
		}
	}
	require.Equal(t, 1, users)

	for _, spoil := range []func(*kvdpb.PlacementInit){
		func(in *kvdpb.PlacementInit) { in.Revision = -1 },
		func(in *kvdpb.PlacementInit) { in.Revision = math.MaxInt64 },
		func(in *kvdpb.PlacementInit) { in.CompactRevision = 501 },
		func(in *kvdpb.PlacementInit) { in.Auth.Users = nil },
	} {
		bad := proto.CloneOf(in)
		spoil(bad)
		require.Equal(t, kvdpb.PlacementResult_INVALID, NewState().Apply(&kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_Init{Init: bad}}).Rejection)
	}
}
