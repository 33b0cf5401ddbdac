package server

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/server/config"
)

// grow adds a member to the cluster through member via, and returns its id. It
// does not start it.
func (c *cluster) grow(t *testing.T, via int, learner bool) (id uint64) {
	t.Helper()
	i := len(c.members)
	c.peers = append(c.peers, freeURL(t))
	c.clients = append(c.clients, freeURL(t))
	c.members = append(c.members, nil)
	c.initial = strings.Join([]string{c.initial, fmt.Sprintf("m%d=%s", i, c.peers[i])}, ",")
	cli := c.client(t, via)
	add := cli.MemberAdd
	if learner {
		add = cli.MemberAddAsLearner
	}
	require.Eventually(t, func() bool {
		resp, err := add(t.Context(), []string{c.peers[i]})
		if err != nil {
			require.ErrorIs(t, err, rpctypes.ErrUnhealthy)
			return false
		}
		id = resp.Member.ID
		require.Empty(t, resp.Member.Name)
		require.Len(t, resp.Members, len(strings.Split(c.initial, ",")))
		return true
	}, time.Minute, 200*time.Millisecond)
	return id
}

func TestMembersComeAndGo(t *testing.T) {
	c := newCluster(t, 1)
	defer func() { c.stop(0, 1, 2) }()
	c.start(t, 0)
	cli := c.client(t, 0)
	for i := range 10 {
		_, err := cli.Put(t.Context(), fmt.Sprint("k", i), "v")
		require.NoError(t, err)
	}
	_, err := cli.MemberRemove(t.Context(), c.members[0].id.member)
	require.ErrorIs(t, err, rpctypes.ErrMemberNotEnoughStarted, "the last member stays")
	_, err = cli.MemberAdd(t.Context(), []string{c.peers[0]})
	require.ErrorIs(t, err, rpctypes.ErrPeerURLExist)
	_, err = cli.MemberRemove(t.Context(), 77)
	require.ErrorIs(t, err, rpctypes.ErrMemberNotFound)

	second := c.grow(t, 0, true)
	_, err = cli.MemberAddAsLearner(t.Context(), []string{"http://127.0.0.1:1"})
	require.ErrorIs(t, err, rpctypes.ErrTooManyLearners)
	_, err = cli.MemberPromote(t.Context(), second)
	require.ErrorIs(t, err, rpctypes.ErrMemberLearnerNotReady)
	c.startJoining(t, 1)
	_, err = c.client(t, 1).Put(t.Context(), "k", "v")
	require.ErrorContains(t, err, "rpc not supported for learner")
	got, err := c.client(t, 1).Get(t.Context(), "k3", clientv3.WithSerializable())
	require.NoError(t, err)
	require.Len(t, got.Kvs, 1)
	_, err = cli.MemberPromote(t.Context(), second)
	require.NoError(t, err)
	_, err = cli.MemberPromote(t.Context(), second)
	require.ErrorIs(t, err, rpctypes.ErrMemberNotLearner)
	c.grow(t, 1, false)
	_, err = cli.MemberAdd(t.Context(), []string{"http://127.0.0.1:1"})
	require.Error(t, err, "one of three was not started yet")
	c.startJoining(t, 2)
	for i := range 3 {
		list, err := c.client(t, i).MemberList(t.Context())
		require.NoError(t, err)
		require.Len(t, list.Members, 3)
		_, err = c.client(t, i).Put(t.Context(), fmt.Sprint("k", i), "grown")
		require.NoError(t, err)
	}
	c.awaitVoters(t, 0, 3)

	// A restart finds everything in the directory, whatever the flags say.
	c.stop(1)
	c.startJoining(t, 1)
	_, err = c.client(t, 1).Put(t.Context(), "k1", "again")
	require.NoError(t, err)

	// A new address takes effect while the member is down.
	c.stop(1)
	c.peers[1] = freeURL(t)
	_, err = cli.MemberUpdate(t.Context(), second, []string{c.peers[1]})
	require.NoError(t, err)
	c.startJoining(t, 1)
	_, err = c.client(t, 1).Put(t.Context(), "k1", "moved")
	require.NoError(t, err)

	// The first one goes: it holds the sequencer and everything else.
	gone := c.members[0]
	require.Eventually(t, func() bool {
		_, err = c.client(t, 2).MemberRemove(t.Context(), gone.id.member)
		if err != nil {
			require.ErrorIs(t, err, rpctypes.ErrUnhealthy)
		}
		return err == nil
	}, time.Minute, 200*time.Millisecond)
	select {
	case err := <-gone.Stopped():
		require.True(t, Removed(err), "%v", err)
	case <-time.After(time.Minute):
		t.Fatal("the removed member goes on")
	}
	c.stop(0)
	for i := 1; i < 3; i++ {
		got, err := c.client(t, i).Get(t.Context(), "k", clientv3.WithPrefix())
		require.NoError(t, err)
		require.Len(t, got.Kvs, 10)
		list, err := c.client(t, i).MemberList(t.Context())
		require.NoError(t, err)
		require.Len(t, list.Members, 2)
	}

	// It is refused when it comes back, and told why.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = Start(ctx, c.config(t, 0, "--initial-cluster-state=existing"))
	require.True(t, Removed(err), "%v", err)
	// So is a process in its place whose directory is new.
	cfg := c.config(t, 1, "--initial-cluster-state=existing")
	cfg.DataDir = filepath.Join(c.dir, "fresh")
	cfg.InitialCluster = fmt.Sprintf("m1=%s,m2=%s", c.peers[1], c.peers[2])
	_, err = Start(ctx, cfg)
	require.ErrorContains(t, err, "has already been bootstrapped")
}

// startJoining starts a member that was added before.
func (c *cluster) startJoining(t *testing.T, i int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var err error
	c.members[i], err = Start(ctx, c.config(t, i, "--initial-cluster-state="+config.StateExisting))
	require.NoError(t, err)
}

// awaitVoters waits until so many members vote in the placement group.
func (c *cluster) awaitVoters(t *testing.T, i, want int) {
	t.Helper()
	require.Eventually(t, func() bool {
		g, err := c.members[i].host.Membership(t.Context(), 1)
		return err == nil && len(g.Voters) == want
	}, time.Minute, 50*time.Millisecond)
}
