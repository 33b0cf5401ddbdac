package lease

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// whole is the span of all user keys.
func whole() *kvdpb.LeaseSpan {
	return &kvdpb.LeaseSpan{Start: keyspace.Users().Start, End: keyspace.Users().End}
}

func TestGrant(t *testing.T) {
	f := newFake(t)
	ctx := t.Context()
	l, err := f.m.Grant(ctx, 7, 60)
	require.NoError(t, err)
	require.Equal(t, Info{ID: 7, TTL: 60, Remaining: time.Minute, Revision: 1}, l)
	_, err = f.m.Grant(ctx, 7, 60)
	require.ErrorIs(t, err, rpctypes.ErrGRPCLeaseExist)
	_, err = f.m.Grant(ctx, 8, MaxTTL+1)
	require.ErrorIs(t, err, rpctypes.ErrGRPCLeaseTTLTooLarge)
	l, err = f.m.Grant(ctx, 9, MaxTTL)
	require.NoError(t, err)
	require.Equal(t, int64(MaxTTL), l.TTL)
	// The least time is rounded up to seconds; what is below gets it, negative
	// times too.
	for _, ttl := range []int64{-5, 0, 1} {
		l, err = f.m.Grant(ctx, 0, ttl)
		require.NoError(t, err)
		require.Equal(t, int64(2), l.TTL)
		require.Positive(t, l.ID)
	}
	require.Equal(t, uint64(5), f.m.Stats().Granted)
}

// TestChosenIDIsFree: where the server chooses the id, one that exists is no
// error.
func TestChosenIDIsFree(t *testing.T) {
	f := newFake(t)
	tries := 0
	f.fail = func(step string) error {
		if tries++; tries < 3 {
			return rpctypes.ErrGRPCLeaseExist
		}
		return nil
	}
	l, err := f.m.Grant(t.Context(), 0, 60)
	require.NoError(t, err)
	require.Contains(t, f.records, l.ID)
	require.Len(t, f.records, 1)
}

func TestKeepAliveAndDescribe(t *testing.T) {
	f := newFake(t)
	_, err := f.m.Grant(t.Context(), 7, 60)
	require.NoError(t, err)
	f.revision = 30
	for _, ask := range []func(id int64) (Info, error){
		func(id int64) (Info, error) { return f.m.KeepAlive(t.Context(), id) },
		func(id int64) (Info, error) { return f.m.Describe(t.Context(), id) },
	} {
		l, err := ask(7)
		require.NoError(t, err)
		require.Equal(t, Info{ID: 7, TTL: 60, Remaining: time.Minute, Revision: 30}, l)
		l, err = ask(8)
		require.ErrorIs(t, err, rpctypes.ErrGRPCLeaseNotFound)
		require.Equal(t, int64(30), l.Revision, "what is not there has a revision too")
	}
	require.Equal(t, uint64(1), f.m.Stats().Renewed)
}

func TestListGoesThroughAllShardsAndPages(t *testing.T) {
	f := newFake(t)
	f.cut(20)
	f.cut(40)
	// Ids are in one order, times in another.
	for i := range int64(30) {
		_, err := f.m.Grant(t.Context(), 10+i, 100-i)
		require.NoError(t, err)
	}
	_, err := f.m.Grant(t.Context(), -5, 1000)
	require.NoError(t, err)
	all, revision, err := f.m.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(1), revision)
	require.Len(t, all, 31)
	seen := map[int64]bool{}
	for i, l := range all {
		require.False(t, seen[l.ID])
		seen[l.ID] = true
		require.True(t, i == 0 || all[i-1].Remaining <= l.Remaining, "those that end first come first")
	}
	require.Equal(t, int64(-5), all[30].ID)
}

func TestKeysGoThroughAllSpansAndPages(t *testing.T) {
	f := newFake(t, "c", "f")
	_, err := f.m.Grant(t.Context(), 7, 60)
	require.NoError(t, err)
	f.attach(7, strings.Split("a aa ab b ba c d e f g", " ")...)
	// Spans overlap after splits and merges: no key is told twice.
	f.records[7].Spans = append(f.records[7].Spans, whole())
	keys, err := f.m.Keys(t.Context(), 7)
	require.NoError(t, err)
	require.Equal(t, "[a aa ab b ba c d e f g]", fmt.Sprintf("%s", keys))
	require.NotContains(t, f.steps, "fence", "asking changes nothing")
	_, err = f.m.Keys(t.Context(), 8)
	require.ErrorIs(t, err, rpctypes.ErrGRPCLeaseNotFound)
}

func TestStats(t *testing.T) {
	f := newFake(t)
	for i, ttl := range []int64{2, 3, 4, 5, MaxTTL} {
		_, err := f.m.Grant(t.Context(), int64(i+1), ttl)
		require.NoError(t, err)
	}
	s := f.m.Stats()
	require.Equal(t, int64(MaxTTL+14), s.TTLSum)
	require.Equal(t, []uint64{0, 1, 3, 4, 4}, s.TTL[:5], "at most 1, 2, 4, 8, 16 s")
	require.Equal(t, uint64(4), s.TTL[ttlBuckets-1])
	require.Equal(t, uint64(5), s.TTL[ttlBuckets])
}

// TestRevokeEndsInOneRevision: the keys of a lease in several shards are deleted by
// one transaction, after every fence and before the record goes.
func TestRevokeEndsInOneRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "c", "f")
		_, err := f.m.Grant(t.Context(), 7, 60)
		require.NoError(t, err)
		f.attach(7, "a", "d", "g")
		_, err = f.m.Revoke(t.Context(), 7)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, [][]string{{"a", "d", "g"}}, f.txns)
		require.Equal(t, int64(2), f.revision)
		require.Empty(t, f.records)
		require.Equal(t, []string{"grant", "revoke", "inspect", "fence", "fence", "fence", "drop"}, f.steps)
		_, err = f.m.Revoke(t.Context(), 7)
		require.ErrorIs(t, err, rpctypes.ErrGRPCLeaseNotFound)
		require.Equal(t, uint64(1), f.m.Stats().Revoked)
	})
}

// TestRevokeOfUnsureFate: the try before may have ended the lease, so that it is not
// there any more is no error.
func TestRevokeOfUnsureFate(t *testing.T) {
	f := newFake(t)
	lost := func(string) error { return rpctypes.ErrGRPCLeaseNotFound }
	_, err := f.m.Grant(t.Context(), 7, 60)
	require.NoError(t, err)
	f.lose = lost
	_, err = f.m.Revoke(t.Context(), 7)
	require.NoError(t, err)
}
